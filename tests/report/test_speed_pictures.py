"""Latency against batch size, spread over processes, a check's ratios: where the marks stand."""

from __future__ import annotations

import math
import xml.etree.ElementTree as ET

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sample import check_report, crowd, sample_report
from scipy.optimize import isotonic_regression

from compress.report import Report, render_html
from compress.report.axes import log_axis
from compress.report.batch_sizes import batch_pictures
from compress.report.highlights import chosen, highlighted, looks
from compress.report.labels import spread
from compress.report.ratios import ratio_picture, ratio_rows
from compress.report.workers import ROWS_AT_MOST, swarm, worker_picture, worker_rows


def _marks(picture: str, tag: str, look: str) -> list[ET.Element]:
    return [mark for mark in ET.fromstring(picture).iter(tag) if mark.get("class") == look]


def _texts(picture: str) -> list[str]:
    return [mark.text or "" for mark in ET.fromstring(picture).iter("text")]


def _corners(line: ET.Element) -> list[tuple[float, float]]:
    pairs = (corner.split(",") for corner in line.get("points", "").split())
    return [(float(x), float(y)) for x, y in pairs]


def test_lines_are_straight_where_latency_grows_by_a_power_of_the_batch() -> None:
    time, rate = batch_pictures(sample_report())
    assert (time.title, rate.title) == ("Latency in ms", "Samples a second")
    lines = {
        name: _corners(line)
        for name, line in zip(_named(time.wide), _series(time.wide), strict=True)
    }
    (_, first), (_, last) = lines["1-train"]
    (_, quick), (_, many) = lines["5-student"]
    # On log axes a distance is a ratio: of 0.634 to 10.7 ms, and of 0.0092 to 0.151 ms.
    assert (first - last) / (quick - many) == pytest.approx(
        math.log(10.7 / 0.634) / math.log(0.151 / 0.0092), abs=0.01
    )
    assert first < quick
    rates = {
        name: _corners(line)
        for name, line in zip(_named(rate.wide), _series(rate.wide), strict=True)
    }
    assert rates["5-student"][0][1] < rates["1-train"][0][1]


def _series(picture: str) -> list[ET.Element]:
    return _marks(picture, "polyline", "series")


def _named(picture: str) -> list[str]:
    labels = [
        mark.text or ""
        for mark in ET.fromstring(picture).iter("text")
        if mark.get("class", "").startswith("label")
    ]
    assert len(labels) == len(_series(picture))
    return labels


def test_one_batch_size_has_no_picture() -> None:
    report = sample_report()
    arms = [
        arm.model_copy(update={"latency": [point for point in arm.latency if point.batch == 1]})
        for arm in report.arms
    ]
    alone = report.model_copy(update={"arms": arms})
    assert batch_pictures(alone) == []
    assert "against batch size" not in render_html(alone)
    assert "Latency and throughput against batch size" in render_html(report)


def test_in_a_crowd_baseline_and_front_are_strong() -> None:
    report = crowd(30)
    assert highlighted(report) == ["arm-0", *(f"arm-{place}" for place in range(1, 30, 5))]
    drawn = looks(report, report.arms)
    assert [name for name, look in drawn.items() if look != "pale"] == highlighted(report)
    assert [arm.name for arm in chosen(report, report.arms[::-1], 3)] == ["arm-6", "arm-1", "arm-0"]
    picture = batch_pictures(report)[0].wide
    assert sorted(text for text in _texts(picture) if "arm" in text) == sorted(highlighted(report))
    assert len(_series(picture)) == 30


def test_without_quality_the_fastest_arms_are_strong() -> None:
    report = crowd(30)
    arms = [arm.model_copy(update={"quality": None}) for arm in report.arms]
    assert highlighted(report.model_copy(update={"arms": arms})) == ["arm-0", "arm-1"]


def test_spread_has_a_dot_for_each_worker_at_its_latency() -> None:
    rows = worker_rows(sample_report())
    assert [row.name for row in rows][:2] == ["1-train", "2-prune"]
    assert rows[0].middle == 0.634
    assert rows[0].figure == "0.634 ms, −1 to +2 %"
    picture = worker_picture(sample_report(), "wide")
    dots = [float(dot.get("cx", "")) for dot in _marks(picture, "circle", "dot")]
    assert len(dots) == 3 * len(rows)
    low, middle, high = dots[:3]
    assert (middle - low) / (high - middle) == pytest.approx(
        math.log(1 / 0.99) / math.log(1.02), abs=0.05
    )


def test_spread_shows_the_highlighted_of_many_arms_and_says_so() -> None:
    report = crowd(60)
    rows = [row.name for row in worker_rows(report)]
    assert len(rows) == ROWS_AT_MOST
    assert set(highlighted(report)) <= set(rows)
    assert f"Shown are {ROWS_AT_MOST} of 60 arms" in render_html(report)


def test_one_worker_has_no_spread() -> None:
    assert worker_rows(crowd(3, workers=1)) == []


def test_ratios_stand_against_the_margin() -> None:
    report = check_report()
    rows = ratio_rows(report)
    assert [row.name for row in rows] == [
        *(f"{name}, batch 1" for name in ("baseline", "candidate", "control")),
        *(f"{name}, batch 32" for name in ("baseline", "candidate", "control")),
    ]
    assert rows[1].values == pytest.approx([1.12] * 3)  # blocks beside each other drift alike
    assert rows[2].values == pytest.approx([1.002] * 3)
    assert rows[1].figure == "1.120 × [1.109, 1.131]"
    assert rows[2].figure == "1.002 ×"
    picture = ratio_picture(report, "wide")
    (equal,), (slower,) = (_marks(picture, "rect", look) for look in ("equal", "slower"))
    (baseline, *_) = _marks(picture, "line", "origin")
    start, width = (float(equal.get(name, "")) for name in ("x", "width"))
    one = float(baseline.get("x1", ""))
    assert (one - start) / (start + width - one) == pytest.approx(
        math.log(1 / 0.95) / math.log(1.05), abs=0.01
    )
    assert float(slower.get("x", "")) == pytest.approx(start + width, abs=0.11)
    interval = _marks(picture, "rect", "interval")[0]
    assert float(interval.get("x", "")) > start + width


def test_a_check_shows_ratios_and_a_benchmark_the_spread() -> None:
    checked, run = render_html(check_report()), render_html(sample_report())
    assert "Latency as a ratio to the baseline" in checked
    assert "Spread over processes" not in checked
    assert "Spread over processes" in run
    assert "Latency as a ratio to the baseline" not in run


def test_without_raw_times_there_are_no_dots() -> None:
    report = check_report().model_copy(update={"raw": None})
    assert ratio_rows(report)[1].values == ()


@pytest.mark.parametrize("report", [sample_report(), crowd(40), check_report()])
def test_pictures_stay_within_their_frame(report: Report) -> None:
    for wide in (True, False):
        width = "wide" if wide else "narrow"
        found = [worker_picture(report, width), ratio_picture(report, width)]
        found += [entry.wide if wide else entry.narrow for entry in batch_pictures(report)]
        for picture in filter(None, found):
            across, down = map(float, ET.fromstring(picture).get("viewBox", "").split()[2:])
            for mark in ET.fromstring(picture).iter():
                for name, most in (("x", across), ("x1", across), ("cx", across), ("cy", down)):
                    assert 0 <= float(mark.get(name, "0")) <= most


@given(st.lists(st.floats(0, 300), min_size=1, max_size=12))
@settings(max_examples=60, deadline=None)
def test_spread_labels_are_the_least_squares_ones(places: list[float]) -> None:
    found = spread(places, 15, -1e6, 1e6)
    order = np.argsort(places, kind="stable")
    shift = 15 * np.arange(len(places))
    fitted = isotonic_regression(np.asarray(places)[order] - shift).x + shift
    assert np.asarray(found)[order] == pytest.approx(fitted)
    inside = spread(places, 15, 0, 300)
    assert min(inside) >= 0
    assert max(inside) <= 300


@given(st.lists(st.floats(0, 100), max_size=20))
def test_a_swarm_moves_no_dot_further_than_its_row(places: list[float]) -> None:
    assert all(abs(shift) <= 9 for shift in swarm(places))


def test_dots_that_meet_step_aside() -> None:
    assert swarm([10.0, 10.0, 50.0]) == [0.0, 6.0, 0.0]


@pytest.mark.parametrize("spread_of", [1.001, 1.02, 1.2, 2.9])
def test_a_log_axis_of_near_values_has_ticks(spread_of: float) -> None:
    axis = log_axis([0.5, 0.5 * spread_of], 0, 100, margin=1.01)
    assert 2 <= len(axis.ticks) <= 10
    assert all(axis.low <= tick <= axis.high for tick in axis.ticks)

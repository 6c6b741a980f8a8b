"""From stored reports to a history: what is read, what is skipped, what is never compared."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent.parent / "report"))  # the sample report

from gated import gated_report
from histories import day, store

from compress.errors import InputError
from compress.pipeline.history import read_history, write_history
from compress.pipeline.series import exact_changes
from compress.report import Report
from compress.report.history_schema import History, Point, Series


def ratios(count: int, step: int, by: float = 1.12) -> list[float]:
    noise = np.random.default_rng(6).normal(0, 0.01, count)
    return [float(0.06 * np.exp(x) * (by if i >= step else 1)) for i, x in enumerate(noise)]


def of(history: History, measure: str, batch: int | None = None) -> list[Series]:
    return [
        each
        for each in history.subjects[0].series
        if (each.measure, each.batch) == (measure, batch)
    ]


def test_a_slower_commit_is_found_whatever_the_order_of_the_files(tmp_path: Path) -> None:
    reports = [day(place, ratio) for place, ratio in enumerate(ratios(24, 14))]
    history = read_history(store(tmp_path, reports))
    (latency,) = of(history, "ratio", 1)
    assert [point.created for point in latency.points] == [each.created for each in reports]
    assert latency.points[14].commit == reports[14].commit
    (change,) = latency.changes
    assert (change.place, change.better) == (14, False)
    assert change.after / change.before == pytest.approx(1.12, abs=0.02)
    (quality,) = of(history, "quality")
    assert quality.changes == []
    assert quality.points[0].interval == (0.978, 0.992)
    assert history.skipped == []


def test_exact_figures_change_where_they_change(tmp_path: Path) -> None:
    sizes = [1000, 1000, 1004, 1008, 1012, 1012, 500]
    reports = [day(place, 0.06, size=size) for place, size in enumerate(sizes)]
    (series,) = of(read_history(store(tmp_path, reports)), "size")
    # The third step of 0.4 % is the one that leaves the first level by more than 1 %.
    assert [(change.place, change.p, change.better) for change in series.changes] == [
        (4, None, False),
        (6, None, True),
    ]
    assert exact_changes(series.model_copy(update={"points": []})) == []


def test_milliseconds_of_two_machines_are_two_series(tmp_path: Path) -> None:
    reports = [day(place, 0.06, machine="AABAB"[place]) for place in range(5)]
    history = read_history(store(tmp_path, reports))
    times = of(history, "milliseconds", 1)
    assert [len(series.points) for series in times] == [3, 2]
    assert len({series.fingerprint for series in times}) == 2
    (latency,) = of(history, "ratio", 1)
    assert [point.machine for point in latency.points] == list("AABAB")
    assert history.machines["B"] == "Xeon 8370C, 4 cores, avx2, avx512_vnni"


def test_another_machine_is_no_change_of_level(tmp_path: Path) -> None:
    values = ratios(24, 24)
    reports = [
        day(place, value * (0.5 if place >= 12 else 1), machine="B" if place >= 12 else "A")
        for place, value in enumerate(values)
    ]
    (latency,) = of(read_history(store(tmp_path, reports)), "ratio", 1)
    assert latency.changes == []


def test_a_change_on_mixed_machines_is_told_of_one_of_them(tmp_path: Path) -> None:
    reports = [
        day(place, value * (2 if place % 2 else 1), machine="AB"[place % 2])
        for place, value in enumerate(ratios(24, 12))
    ]
    (latency,) = of(read_history(store(tmp_path, reports)), "ratio", 1)
    (change,) = latency.changes
    assert (change.place, change.machine) == (12, "A")
    assert change.after / change.before == pytest.approx(1.12, abs=0.02)


def test_what_cannot_be_used_is_named_and_skipped(tmp_path: Path) -> None:
    good = day(0, 0.06)
    store(tmp_path, [good])
    content = json.loads(day(1, 0.06).model_dump_json())
    slow = json.loads(json.dumps(content))
    slow["arms"][0]["latency"][0]["median_ms"] = -3.0
    bad = {
        "1-corrupt": "{",
        "2-version": json.dumps({**content, "schema_version": 2}),
        "3-negative": json.dumps(slow),
        "4-time": json.dumps({**content, "created": "yesterday"}),
        "5-bench": json.dumps({**content, "final": None}),
        "6-baseline": json.dumps({**content, "baseline": "nobody"}),
        "9-twin": good.model_dump_json(),
    }
    for name, text in bad.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "report.json").write_text(text)
    history = read_history(tmp_path)
    assert history.subjects[0].reports == 1
    assert history.skipped == [
        "1-corrupt/report.json: skipped: no JSON that can be read (JSONDecodeError).",
        "2-version/report.json: skipped: schema version 2, expected 1.",
        "3-negative/report.json: skipped: not a report of schema version 1: "
        "arms.0.latency.0.median_ms: Input should be greater than 0 (found -3.0).",
        "4-time/report.json: skipped: `created` is no ISO 8601 time: 'yesterday'.",
        "5-bench/report.json: skipped: a benchmark of 8 models without a final one; expected two, "
        "a run or a check.",
        "6-baseline/report.json: skipped: its baseline 'nobody' is not among its arms.",
        "9-twin/report.json: skipped: the same report as 0-build/0/report.json.",
    ]


def test_without_a_usable_report_there_is_no_history(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such folder"):
        read_history(tmp_path / "nowhere")
    with pytest.raises(InputError, match="no history yet"):
        read_history(tmp_path)
    (tmp_path / "report.json").write_text("[]")
    with pytest.raises(InputError, match=r"none of 1 reports can be used\. report\.json: skipped"):
        read_history(tmp_path)


def checks(count: int) -> list[Report]:
    return [
        gated_report("ok").model_copy(update={"created": f"2026-02-{1 + place:02d}T08:00:00Z"})
        for place in range(count)
    ]


def test_checks_of_one_pair_of_paths_are_one_subject(tmp_path: Path) -> None:
    history = read_history(store(tmp_path, checks(3)))
    (subject,) = history.subjects
    assert (subject.title, subject.reports) == ("runs/new against runs/main", 3)
    (latency,) = of(history, "ratio", 1)
    assert [point.value for point in latency.points] == [1.0] * 3
    assert any("ratio of a check is to the baseline of that build" in x for x in history.notes)
    assert any("name no commit" in note for note in history.notes)


def test_titles_that_never_come_again_are_told(tmp_path: Path) -> None:
    reports = [each.model_copy(update={"title": str(i)}) for i, each in enumerate(checks(3))]
    assert any("the same paths" in note for note in read_history(store(tmp_path, reports)).notes)


def test_the_history_is_written_in_three_forms(tmp_path: Path) -> None:
    history = read_history(store(tmp_path / "in", checks(2)))
    write_history(history, tmp_path / "out")
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names == {"history.json", "history.html", "history.md"}
    stored = (tmp_path / "out" / "history.json").read_text()
    assert History.model_validate_json(stored) == history
    assert isinstance(history.subjects[0].series[0].points[0], Point)

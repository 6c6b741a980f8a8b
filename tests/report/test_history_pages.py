"""The pages of a history: whole, escaped, and within a job summary."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET

from compress.report.fitting import LIMIT
from compress.report.history_html import render_history_html
from compress.report.history_markdown import render_history_markdown
from compress.report.history_pictures import history_picture
from compress.report.history_schema import History, LevelChange, Point, Series, Subject
from compress.report.history_words import heading, summary

HOSTILE = '<script>alert("1")</script> | `x`'


def point(place: int, value: float, machine: str = "A", commit: str | None = "abc") -> Point:
    return Point(
        commit=f"{commit}{place:04d}ffff" if commit else None,
        created=f"2026-01-{place + 1:02d}T08:00:00+00:00",
        file=f"{place}/report.json",
        machine=machine,
        value=value,
        interval=(value * 0.9, value * 1.1),
        n=1000,
    )


def series(values: list[float], **more: object) -> Series:
    points = [point(place, value, "AB"[place % 2]) for place, value in enumerate(values)]
    return Series.model_validate({"measure": "ratio", "batch": 1, "points": points, **more})


def history(title: str = "cnn on mnist", **more: object) -> History:
    change = LevelChange(place=3, before=0.1, after=0.125, p=0.0005, better=False)
    gain = LevelChange(place=2, before=0.98, after=0.985, p=0.01, better=True)
    every = [
        series([0.1, 0.1, 0.1, 0.125, 0.125, 0.125], changes=[change]),
        series(
            [0.98, 0.98, 0.985, 0.985],
            measure="quality",
            metric="accuracy",
            higher_is_better=True,
            changes=[gain],
        ),
        series([1000.0], measure="size"),
        series([0.5, 0.6], measure="milliseconds", fingerprint="1234abcd"),
    ]
    fields: dict[str, object] = {
        "tool_version": "0.1.0",
        "machines": {"A": "EPYC, 2 cores", "B": "Xeon, 4 cores"},
        "error_rate": 0.05,
        "subjects": [Subject(title=title, reports=6, series=every)],
    }
    return History.model_validate(fields | more)


def test_the_page_names_each_change_and_each_machine() -> None:
    page = render_history_html(history())
    assert "2 changes of level, 1 for the worse in 6 reports" in page
    words = re.sub(r"\s+", " ", page.replace("\u00a0", " "))
    assert "since abc0003, 2026-01-04: 0.100 × → 0.125 × (25 % worse, p = 0.00050)" in words
    assert "since abc0002, 2026-01-03: 98.0 % → 98.5 % (0.5 points better, p = 0.010)" in words
    assert "Xeon, 4 cores" in page
    assert page.index("Milliseconds, each machine on its own") < page.index("machine 1234abcd")


def test_the_page_is_whole_and_runs_nothing() -> None:
    page = render_history_html(history(HOSTILE, skipped=[HOSTILE], notes=[HOSTILE]))
    assert "<script" not in page
    assert "http" not in page.replace("http-equiv", "")
    assert page.count("&lt;script&gt;") >= 3
    assert render_history_html(history()) == render_history_html(history())


def test_a_picture_joins_ratios_of_one_machine_only() -> None:
    ratio = history().subjects[0].series[0]
    canvas = ET.fromstring(str(history_picture(ratio, "wide", ["A", "B"])))
    lines = [each for each in canvas.iter("polyline") if each.get("class") == "trace"]
    assert [len(str(line.get("points")).split()) for line in lines] == [3, 3]
    assert len(list(canvas.iter("circle"))) == 3
    assert len([each for each in canvas.iter("line") if each.get("class") == "change worse"]) == 1
    assert "abc0003, 2026-01-04: 0.125 × [0.113 ×, 0.138 ×], machine B" in [
        each.text for each in canvas.iter("title")
    ]


def test_markdown_has_first_last_and_the_changes() -> None:
    text = render_history_markdown(history())
    assert "⚠️ **2 changes of level, 1 for the worse in 6 reports**" in text
    assert "| Latency against the baseline, batch 1 | 0.100 × | 0.125 × | 6 | abc0003" in text
    assert (
        "| Milliseconds, batch 1, machine 1234abcd | 0.500 ms | 0.600 ms | 2 | not tested |" in text
    )
    assert "- B: Xeon, 4 cores" in text
    bare = history(subjects=[Subject(title="x", reports=1, series=[series([0.1])])])
    assert summary(bare) == ("No change of level in 1 report", "none")


def test_markdown_stays_within_a_job_summary() -> None:
    subjects = [history(f"title {place}").subjects[0] for place in range(150)]
    skipped = [f"{place}/report.json: skipped: {'x' * 300}" for place in range(1000)]
    text = render_history_markdown(history(subjects=subjects, skipped=skipped), limit=100_000)
    assert len(text.encode()) <= 100_000 < LIMIT
    assert "files more are left out here; history.html and history.json have all" in text
    assert "50 titles more: history.html and history.json have all" in text
    assert text.index("## title 0\n") < text.index("| Latency against the baseline, batch 1 |")


def test_a_point_without_a_commit_is_named_by_its_time() -> None:
    alone = series([0.1]).model_copy(update={"points": [point(0, 0.1, commit=None)]})
    picture = str(history_picture(alone, "narrow", ["A"]))
    assert "2026-01-01 08:00" in picture
    assert heading(alone) == "Latency against the baseline, batch 1"


def test_names_below_the_axis_keep_clear_of_each_other() -> None:
    points = [point(place, 0.1, commit=None) for place in range(9)]
    timed = series([0.1]).model_copy(update={"points": points})
    canvas = ET.fromstring(str(history_picture(timed, "narrow", ["A"])))
    assert sum("08:00" in str(each.text) for each in canvas.iter("text")) == 2

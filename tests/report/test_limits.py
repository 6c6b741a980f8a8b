"""A page stays below 1 MB, keeps what matters, and says what it leaves out."""

from __future__ import annotations

import pytest
from sample import crowd, sample_report

from compress.report import render_html
from compress.report.highlights import highlighted
from compress.report.limits import PAGE_AT_MOST, cut, fits_at_first, left_out


def test_a_report_of_usual_size_is_whole() -> None:
    report = sample_report()
    assert cut(report, fits_at_first(report)) is report
    assert "This page shows" not in render_html(report)


def test_hundreds_of_arms_and_64_workers_fit() -> None:
    report = crowd(400, workers=64)
    candidates = [
        entry.model_copy(update={"stage": arm.name})
        for arm in report.arms
        for entry in sample_report().candidates
    ]
    huge = report.model_copy(update={"candidates": candidates, "final": "arm-390"})
    page = render_html(huge)
    assert len(page.encode()) < PAGE_AT_MOST
    assert (
        "This page shows 100 of 400 arms and 300 of 2400 candidates; report.json has all." in page
    )
    assert 'data-sort="64"' not in page


def test_what_matters_is_kept_first() -> None:
    report = crowd(60)
    arms = [
        arm.model_copy(update={"parent": f"arm-{place - 10}" if place > 10 else None})
        for place, arm in enumerate(report.arms)
    ]
    shown = cut(report.model_copy(update={"arms": arms, "final": "arm-45"}), 20)
    names = [arm.name for arm in shown.arms]
    assert len(names) == 20
    assert {"arm-0", "arm-45", "arm-35", "arm-25", "arm-15", "arm-5"} <= set(names)
    assert set(highlighted(report)) <= set(names)
    assert {entry.candidate for entry in shown.comparisons} <= set(names)
    assert left_out(report, shown).startswith("This page shows 20 of 60 arms")


@pytest.mark.parametrize(
    "update",
    [
        {"recipe": {f"stage-{place}": "x" * 10_000 for place in range(110)}},
        {"notes": ["word " * 400_000]},
        {"title": "t" * 2_000_000},
        {"machine": {"flags": [f"flag-{place}" for place in range(300_000)]}},
    ],
)
def test_texts_of_any_length_fit(update: dict[str, object]) -> None:
    page = render_html(sample_report().model_copy(update=update))
    assert len(page.encode()) < PAGE_AT_MOST
    assert "Long texts end early; report.json has all." in page
    assert "98.7 %" in page

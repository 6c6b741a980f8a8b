"""A job summary holds 1 MiB: whatever the report holds, the Markdown stays below it."""

from __future__ import annotations

import pytest
from gated import gated_report
from sample import sample_report

from compress.report import Report, render_markdown
from compress.report.fitting import LIMIT


def huge(arms: int, candidates: int, length: int) -> Report:
    """So many arms between baseline and final model, with names that long."""
    sample = sample_report()
    more = [
        sample.arms[3].model_copy(update={"name": f"arm-{place}-{'ü' * length}"})
        for place in range(arms)
    ]
    rows = [
        sample.candidates[place % 6].model_copy(update={"reason": f"{place} <" + "&" * length})
        for place in range(candidates)
    ]
    update = {"arms": [sample.arms[0], *more, sample.arm("5-student")], "candidates": rows}
    return sample.model_copy(update={**update, "notes": ["n" * length] * 20})


def size(text: str) -> int:
    return len(text.encode())


def test_a_usual_report_is_whole() -> None:
    assert "left out" not in render_markdown(sample_report())
    assert size(render_markdown(sample_report())) < 20_000


def test_candidates_go_first_and_the_rest_stays_whole() -> None:
    text = render_markdown(huge(arms=100, candidates=4000, length=120))
    assert LIMIT * 0.9 < size(text) <= LIMIT < 1024 * 1024
    assert text.count("| arm-") == 100
    shown = text.count("| 4-quantize | ") + text.count("| 6-student-int8 | ")
    assert 0 < shown < 4000
    assert f"*{4000 - shown:,} candidates more are left out here; report.html and" in text
    assert "compress run recipes/cnn.yaml" in text


def test_baseline_and_final_model_outlast_all_other_arms() -> None:
    text = render_markdown(huge(arms=300, candidates=50, length=500), limit=200_000)
    assert size(text) <= 200_000
    assert "50 candidates more are left out" in text
    assert "20 notes more are left out" in text
    assert "**baseline**" in text
    assert "**final**" in text
    assert "5-student" in text


@pytest.mark.parametrize("length", [10_000, 1_200_000])
def test_endless_texts_are_shortened(length: int) -> None:
    long = "&" * length
    report = huge(arms=5, candidates=5, length=length // 10)
    text = render_markdown(
        report.model_copy(update={"title": long, "command": long, "notes": [long]})
    )
    assert size(text) <= LIMIT
    if length > LIMIT:
        assert "…" in text


def test_regressions_outlast_all_other_comparisons() -> None:
    report = gated_report()
    good = report.comparisons[0]
    many = report.model_copy(update={"comparisons": [*report.comparisons, *[good] * 3_000]})
    text = render_markdown(many, limit=150_000)
    assert size(text) <= 150_000
    assert "| Latency, batch 1 |" in text
    assert "comparisons more are left out" in text


def test_a_small_limit_leaves_the_verdict() -> None:
    text = render_markdown(sample_report(), limit=1500)
    assert size(text) <= 1500
    assert "budget of 0.5 points: met" in text

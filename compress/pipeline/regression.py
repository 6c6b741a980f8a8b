"""What the figures of a check say: a verdict for each comparison, one for all, and why."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from compress.pipeline.compare import Scores, compare
from compress.pipeline.operators import compare_operators
from compress.pipeline.timing import Timed
from compress.report import formatting
from compress.report.formatting import metric_format
from compress.report.schema import Arm, Comparison, Gate, Verdict
from compress.stats import samples_for_proof


class Limits(NamedTuple):
    """What a check allows.

    Attributes:
        margin: how much slower still counts as equal.
        size_margin: how much more bytes, parameters or MACs do.
        max_drop: allowed drop of the metric, in its unit; None without data.
    """

    margin: float
    size_margin: float
    max_drop: float | None
    higher_is_better: bool


def compared(
    arms: Sequence[Arm], timed: Timed[int, Verdict], limits: Limits, scores: dict[str, Scores]
) -> list[Comparison]:
    """`compare`'s figures with the gate's verdicts, and the operators by type and precision.

    Args:
        arms: the baseline and the candidate.
        timed: with a verdict for each batch size.
        scores: of both arms; empty without data.
    """
    before, after = arms
    entries = compare(
        before,
        after,
        timed.measured,
        scores or None,
        higher_is_better=limits.higher_is_better,
        max_drop=limits.max_drop or 0.0,
    )
    return [
        *(
            entry.model_copy(update={"verdict": _verdict(entry, timed, limits)})
            for entry in entries
        ),
        *compare_operators(before, after),
    ]


def _verdict(entry: Comparison, timed: Timed[int, Verdict], limits: Limits) -> Verdict:
    if entry.what == "latency":
        assert entry.batch is not None
        return timed.verdicts.get(entry.batch, "inconclusive")
    if entry.what == "quality":
        better = entry.interval is not None and entry.interval[1] < 0
        return "improved" if better else entry.verdict
    assert entry.ratio is not None
    if entry.ratio > 1 + limits.size_margin:
        return "regressed"
    return "improved" if entry.ratio < 1 - limits.size_margin else "ok"


def judge(
    comparisons: list[Comparison],
    arms: Sequence[Arm],
    timed: Timed[int, Verdict],
    limits: Limits,
    scores: dict[str, Scores],
) -> Gate:
    """The worst of the comparisons, and one sentence that says why."""
    said = {entry.verdict for entry in comparisons}
    order: tuple[Verdict, ...] = ("regressed", "inconclusive", "improved")
    verdict: Verdict = next((each for each in order if each in said), "ok")
    parts = [
        describe_comparison(entry, arms)
        for entry in comparisons
        if verdict in (entry.verdict, "ok")
    ]
    text = f"{verdict}: {'; '.join(parts)}."
    if not timed.fit:
        text += f" {unfit(timed.control)}"
    unproven = next((entry for entry in comparisons if entry.what == "quality"), None)
    if unproven is not None and unproven.verdict == "inconclusive" and limits.max_drop:
        needed = samples_needed(limits.max_drop, scores)
        if needed:
            text += (
                f" To prove a drop below {limits.max_drop:.4g} about {needed:,} samples are needed."
            )
    return Gate(
        verdict=verdict,
        margin=limits.margin,
        max_drop=limits.max_drop,
        size_margin=limits.size_margin,
        workers=timed.workers,
        control=timed.control,
        fit=timed.fit,
        explanation=text,
    )


def unfit(control: dict[int, float]) -> str:
    """Why no latency was decided on."""
    worst = max(control.values(), key=lambda ratio: abs(np.log(ratio)))
    return (
        "The machine is unfit to decide on latencies: the baseline against itself came out at "
        f"{worst:.3f} ×."
    )


def samples_needed(limit: float, scores: dict[str, Scores]) -> int | None:
    """Samples that prove a drop below a limit, from how often two models disagree here.

    None for a metric whose scores are not right or wrong.
    """
    before, after = (each["test"] for each in scores.values())
    if limit <= 0 or not set(np.unique(before)) | set(np.unique(after)) <= {0.0, 1.0}:
        return None
    return samples_for_proof(float((before != after).mean()), limit)


def proof(limits: Limits, scores: dict[str, Scores]) -> str:
    """Before the long part: what this many samples can prove."""
    assert limits.max_drop is not None
    n = len(next(iter(scores.values()))["test"])
    text = f"{n:,} test samples"
    needed = samples_needed(limits.max_drop, scores)
    if needed is None:
        return text
    return f"{text}, of about {needed:,} that prove a drop below {limits.max_drop:.4g}"


def describe_comparison(entry: Comparison, arms: Sequence[Arm]) -> str:
    """One comparison as a few words: what, by how much, how sure."""
    baseline = arms[0]
    if entry.what == "quality":
        assert baseline.quality is not None
        assert entry.difference is not None
        metric = metric_format(baseline.quality.metric, baseline.quality.higher_is_better)
        low, high = entry.interval or (0.0, 0.0)
        return f"{metric.label} {metric.change} {entry.difference:+.4f} [{low:+.4f}, {high:+.4f}]"
    if entry.what == "int8":
        if entry.operator is None:
            return f"{baseline.int8_nodes} operators in int8 as before"
        old, new = (formatting.nodes(arm.operators.get(entry.operator, {})) for arm in arms)
        return f"{entry.operator} {old} → {new}"
    assert entry.ratio is not None
    name = entry.what if entry.batch is None else f"latency at {entry.size}"
    low, high = entry.interval or (entry.ratio, entry.ratio)
    bounds = f" [{low:.3f}, {high:.3f}]" if entry.interval else ""
    return f"{name} {entry.ratio:.3f} ×{bounds}"

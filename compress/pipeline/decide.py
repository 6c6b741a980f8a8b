"""Which model is the final one, and whether the budget was kept.

Choosing looks at the validation split and at latencies; the test split is looked at once, after.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from compress.measure.latency import Measured
from compress.recipe import BudgetConfig
from compress.report.formatting import metric_format
from compress.report.record import Interval
from compress.report.schema import Arm, Budget, Report, Verdict
from compress.stats import paired_drop, samples_for_proof

#: Latencies closer than this count as equal on a shared machine; the smaller file then wins.
MARGIN = 0.05


def latency_verdict(interval: Interval | None) -> Verdict:
    """What an interval of candidate / baseline allows to say at a margin of 5 %."""
    if interval is None:
        return "inconclusive"
    if interval[0] > 1 + MARGIN:
        return "regressed"
    if interval[1] < 1 - MARGIN:
        return "improved"
    return "ok" if interval[1] < 1 + MARGIN else "inconclusive"


def choose_final(
    arms: list[Arm],
    drops: dict[str, float],
    measured: Measured,
    budget: BudgetConfig,
    limit: float,
) -> tuple[str, list[str]]:
    """Name of the best arm whose validation drop is within the budget, and notes for the reader.

    Args:
        arms: controls left out; the first is the baseline.
        drops: arm name to drop on the validation split.
        limit: the largest drop allowed there, in the metric's unit.
    """
    baseline = arms[0]
    within = [arm for arm in arms if drops[arm.name] <= limit + 1e-9]
    over = [arm for arm in arms if arm not in within]
    notes = [
        f"{arm.name}: not chosen, its validation {_change(arm)} of {drops[arm.name]:.4f} is over "
        f"the budget of {limit:.4g}."
        for arm in over
    ]
    if within == [baseline] and over:
        nearest = min(over, key=lambda arm: drops[arm.name])
        notes.insert(0, f"No compressed model kept the budget; the nearest is {nearest.name}.")
    if budget.minimise == "size":
        return min(within, key=lambda arm: arm.size_bytes).name, notes
    ratios = {arm.name: measured.overall(baseline.name, arm.name) for arm in within}
    fastest = min(ratios.values())
    equals = [arm for arm in within if ratios[arm.name] <= fastest * (1 + MARGIN)]
    return min(equals, key=lambda arm: arm.size_bytes).name, notes


def _change(arm: Arm) -> str:
    quality = arm.quality
    return metric_format(quality.metric, quality.higher_is_better).change if quality else "drop"


def judge(
    report: Report,
    scores: dict[str, npt.NDArray[np.float64]],
    metric: str,
    higher_is_better: bool,
    budget: BudgetConfig,
) -> Budget | None:
    """Whether the final model keeps the budget on the test split; None if nothing was compressed.

    Args:
        scores: arm name to test scores, (n,).
    """
    assert report.final is not None
    if all(arm.control_of or arm.name == report.baseline for arm in report.arms):
        return None
    before, after = scores[report.baseline], scores[report.final]
    drop, interval = paired_drop(before, after, higher_is_better)
    limit = budget.limit(float(before.mean()))
    share = f" ({budget.max_drop:.3g} of the baseline's {before.mean():.4g})"
    allowed = f"{limit:.4g}{share if budget.relative else ''}"
    n = len(before)
    change = metric_format(metric, higher_is_better).change
    bounds = f", 95 % interval [{interval[0]:+.4f}, {interval[1]:+.4f}], {n:,} test samples"
    figures = f"{metric} {change} {drop:+.4f}{bounds if n > 1 else ''}"
    if report.final == report.baseline:
        status, text = (
            "missed",
            "Nothing smaller or faster kept the budget: the trained model stays.",
        )
    elif interval[1] <= limit:
        status, text = (
            "proven",
            f"The whole interval lies within the budget of {allowed}: {figures}.",
        )
    elif drop <= limit:
        needed = (
            samples_for_proof(float((before != after).mean()), limit)
            if limit and set(np.unique(before)) <= {0.0, 1.0}
            else None
        )
        proof = f"; a proof would need about {needed:,} samples" if needed else ""
        status, text = (
            "met",
            f"The estimate lies within the budget of {allowed}: {figures}{proof}.",
        )
    else:
        status, text = (
            "missed",
            f"The test {change} is over the budget of {allowed}: {figures}.",
        )
    return Budget.model_validate(
        {
            "max_drop": limit,
            "relative_drop": budget.max_drop if budget.relative else None,
            "minimise": budget.minimise,
            "status": status,
            "explanation": text,
        }
    )

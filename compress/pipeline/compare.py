"""One arm against another: quality on the same samples, latency in the same run, exact sizes."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from compress.data.task import Task
from compress.measure.further import further_metrics
from compress.measure.latency import Measured
from compress.pipeline.decide import latency_verdict
from compress.report.gates_schema import Further
from compress.report.record import Interval
from compress.report.schema import Arm, Comparison, Figure, Verdict
from compress.stats import paired_bootstrap, paired_drop

#: Split name to one score a sample, (n,); `further_key` of a metric to its terms, (n, k).
Scores = dict[str, npt.NDArray[np.float64]]

_EXACT: dict[Figure, str] = {"size": "size_bytes", "parameters": "parameters", "macs": "macs"}


def compare(
    baseline: Arm,
    candidate: Arm,
    measured: Measured,
    scores: dict[str, Scores] | None = None,
    *,
    higher_is_better: bool = True,
    max_drop: float = math.inf,
) -> list[Comparison]:
    """All figures of one arm against the baseline.

    Args:
        scores: arm name to its scores; the test split's are compared. None without data.
        max_drop: what the verdict on quality is about.
    """
    found = []
    if scores is not None:
        before, after = scores[baseline.name]["test"], scores[candidate.name]["test"]
        found.append(
            quality_comparison(baseline, candidate, before, after, higher_is_better, max_drop)
        )
    for batch in sorted({point.batch for point in candidate.latency}):
        found.append(_latency(baseline, candidate, measured, batch))
    for what, field in _EXACT.items():
        old, new = getattr(baseline, field), getattr(candidate, field)
        if old and new:
            found.append(
                Comparison(
                    baseline=baseline.name,
                    candidate=candidate.name,
                    what=what,
                    ratio=new / old,
                    verdict="improved" if new < old else "ok" if new == old else "regressed",
                )
            )
    return found


def quality_comparison(
    baseline: Arm,
    candidate: Arm,
    before: npt.NDArray[np.float64],
    after: npt.NDArray[np.float64],
    higher_is_better: bool,
    max_drop: float,
) -> Comparison:
    """The paired drop from one arm to another on the same samples."""
    drop, interval = paired_drop(before, after, higher_is_better)
    verdict: Verdict = "ok" if interval[1] <= max_drop else "inconclusive"
    if interval[0] > max_drop:
        verdict = "regressed"
    return Comparison(
        baseline=baseline.name,
        candidate=candidate.name,
        what="quality",
        difference=drop,
        interval=interval if len(before) > 1 else None,
        n=len(before),
        verdict=verdict,
    )


def further_key(metric: str) -> str:
    """Where `Scores` keeps a further metric's terms on the test split."""
    return f"test {metric}"


def metric_drop(
    metric: str, task: Task, before: Scores, after: Scores
) -> tuple[float, Interval, float, int]:
    """How much worse a model is in any metric of a task, on the same test samples.

    Args:
        metric: "quality", the task's own, or a further one; the last by a paired bootstrap.

    Returns:
        The drop (positive is worse), its 95 % interval, the metric of the first model, and n.
    """
    if metric in ("quality", task.metric.name):
        pair = before["test"], after["test"]
        drop, interval = paired_drop(*pair, task.metric.higher_is_better)
        return drop, interval, float(pair[0].mean()), len(pair[0])
    further = further_metrics(task)[metric]
    terms = before[further_key(metric)], after[further_key(metric)]
    difference, (low, high) = paired_bootstrap(*terms, further.combine)
    value = float(further.combine(terms[0].mean(axis=0)))
    if further.higher_is_better:
        return -difference, (-high, -low), value, len(terms[0])
    return difference, (low, high), value, len(terms[0])


def compare_further(
    task: Task, scores: Mapping[str, Scores], baseline: str, candidate: str
) -> list[Further]:
    """Every metric beside the task's own, on the same test samples; told, and never judged."""
    found = []
    for name, metric in further_metrics(task).items():
        pair = scores[baseline], scores[candidate]
        drop, interval, before, n = metric_drop(name, task, *pair)
        found.append(
            Further(
                baseline=baseline,
                candidate=candidate,
                metric=name,
                higher_is_better=metric.higher_is_better,
                difference=drop,
                interval=interval if n > 1 else None,
                values=(before, before - drop if metric.higher_is_better else before + drop),
                n=n,
            )
        )
    return found


def _latency(baseline: Arm, candidate: Arm, measured: Measured, batch: int) -> Comparison:
    ratio, interval, workers = measured.ratio(baseline.name, candidate.name, batch)
    finite = None if math.isinf(interval[1]) else interval
    return Comparison(
        baseline=baseline.name,
        candidate=candidate.name,
        what="latency",
        batch=batch,
        ratio=ratio,
        interval=finite,
        n=workers,
        verdict=latency_verdict(finite),
    )

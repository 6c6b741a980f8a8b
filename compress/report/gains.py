"""What an arm gained or lost against the report's baseline, whichever way the record holds it."""

from __future__ import annotations

from dataclasses import dataclass

from compress.report.formatting import MetricFormat, interval, metric_format, number, times
from compress.report.measure_schema import Latency, Size, in_order
from compress.report.record import Interval
from compress.report.schema import Arm, Comparison, Report


@dataclass(frozen=True)
class Gain:
    """A ratio turned so that more is better.

    Attributes:
        factor: baseline / arm; above 1 the arm is faster or smaller.
        interval: 95 % interval of `factor`; None where the figure is exact or was not compared.
        verdict: of the comparison, or None where the factor comes from the arms' own figures.
    """

    factor: float
    interval: Interval | None = None
    verdict: str | None = None

    @property
    def clear(self) -> bool:
        """Whether the figures show a change at all."""
        if self.verdict == "inconclusive":
            return False
        return self.interval is None or not self.interval[0] <= 1 <= self.interval[1]

    def phrase(self, better: str, worse: str) -> str:
        """Such as "16.5 × faster" or "1.2 × slower"; says so where the figures do not tell."""
        factor = max(self.factor, 1 / self.factor)
        if number(factor) == "1.00" and self.clear:
            return f"neither {better} nor {worse}"
        text = f"{times(factor, trim=True)} {better if self.factor >= 1 else worse}"
        return text if self.clear else f"{text} (inconclusive)"

    def bounds(self) -> str:
        """The interval as text, or an empty string."""
        if self.interval is None:
            return ""
        return interval(number(self.interval[0]), number(self.interval[1]))


def find_arm(report: Report, name: str | None) -> Arm | None:
    """The arm of that name, or None."""
    return next((arm for arm in report.arms if arm.name == name), None)


def call_sizes(report: Report) -> list[Size]:
    """Every batch size, with its length where there is one, that was measured, smallest first."""
    return in_order(point.size for arm in report.arms for point in arm.latency)


def report_metric(report: Report) -> MetricFormat | None:
    """The metric that the arms are judged by; None for a benchmark without data."""
    quality = next((arm.quality for arm in report.arms if arm.quality), None)
    return metric_format(quality.metric, quality.higher_is_better) if quality else None


def comparison(
    report: Report, baseline: str, candidate: str, what: str, size: Size | None = None
) -> Comparison | None:
    """The comparison of two named arms, or None where there is none."""
    wanted = (baseline, candidate, what, *(size or (None, None)))
    for entry in report.comparisons:
        found = (entry.baseline, entry.candidate, entry.what, entry.batch, entry.length)
        if found == wanted:
            return entry
    return None


def latency_gain(report: Report, arm: Arm, size: Size) -> Gain | None:
    """How many times faster an arm is; None for the baseline itself and where nothing was timed."""
    baseline = find_arm(report, report.baseline)
    if baseline is None or arm.name == baseline.name:
        return None
    compared = _turned(comparison(report, baseline.name, arm.name, "latency", size))
    before, after = baseline.best_latency(*size), arm.best_latency(*size)
    if compared or before is None or after is None:
        return compared
    return Gain(before.median_ms / after.median_ms)


def size_gain(report: Report, arm: Arm) -> Gain | None:
    """How many times smaller an arm's file is; None for the baseline itself."""
    baseline = find_arm(report, report.baseline)
    if baseline is None or arm.name == baseline.name:
        return None
    compared = _turned(comparison(report, baseline.name, arm.name, "size"))
    if compared or not arm.size_bytes:
        return compared
    return Gain(baseline.size_bytes / arm.size_bytes)


def quality_drop(report: Report, arm: Arm) -> Comparison | None:
    """The paired comparison of an arm's quality with the baseline's, where it has a difference."""
    found = comparison(report, report.baseline, arm.name, "quality")
    return found if found and found.difference is not None else None


def worker_medians(point: Latency | None) -> list[float]:
    """Each worker's median in ms; empty where nothing was timed."""
    return [median for median in point.workers_ms if median > 0] if point else []


def architecture_latency(report: Report, arm: Arm, size: Size) -> float | None:
    """An arm's median in ms; a control's own, or that of the arm whose architecture it shares."""
    point = arm.best_latency(*size)
    original = find_arm(report, arm.control_of)
    if point is None and original is not None:
        point = original.best_latency(*size)
    return point.median_ms if point else None


def _turned(found: Comparison | None) -> Gain | None:
    if found is None or found.ratio is None or found.ratio <= 0:
        return None
    bounds = found.interval
    turned = (1 / bounds[1], 1 / bounds[0]) if bounds and bounds[0] > 0 else None
    return Gain(1 / found.ratio, turned, found.verdict)

"""The tree of stages as paths from a root to each leaf, and what every step on them gave."""

from __future__ import annotations

from dataclasses import dataclass

from compress.report import formatting
from compress.report.formatting import DASH, metric_format
from compress.report.gains import (
    call_sizes,
    comparison,
    latency_gain,
    quality_drop,
    size_gain,
)
from compress.report.measure_schema import Size
from compress.report.schema import Arm, Report


@dataclass(frozen=True)
class Step:
    """One row of the picture: an arm on its branch, or the control of the arm above it.

    Attributes:
        before: how many times faster than the baseline the arm was that this one came from.
        after: how many times faster this one is; None where it was not timed.
        speed, size, quality: the figure, and beside it what it means against the baseline.
        control: whether it stands for the architecture alone, trained without a teacher.
    """

    name: str
    kind: str
    roles: tuple[str, ...]
    before: float
    after: float | None
    speed: tuple[str, str]
    size: tuple[str, str]
    quality: tuple[str, str]
    control: bool = False


def paths(report: Report) -> list[list[Arm]]:
    """From a root to each leaf, in the order of the arms; controls stand on no path."""
    stages = {arm.name: arm for arm in report.arms if arm.control_of is None}
    parents = {arm.parent for arm in stages.values()}
    return [_ancestry(arm, stages) for arm in stages.values() if arm.name not in parents]


def _ancestry(leaf: Arm, stages: dict[str, Arm]) -> list[Arm]:
    path = [leaf]
    while path[0].parent in stages:
        parent = stages[path[0].parent]
        if parent in path:
            break
        path.insert(0, parent)
    return path


@dataclass(frozen=True)
class Branch:
    """A titled sequence of steps; a control follows the arm whose architecture it shares."""

    title: str
    steps: list[Step]


def branch_steps(report: Report) -> list[Branch]:
    """What each stage gave, branch by branch, at the smallest batch size measured.

    Arms that share no path, as in a plain benchmark, make one branch together. Empty where no arm
    was timed against another.
    """
    sizes = call_sizes(report)
    if not sizes:
        return []
    found = paths(report)
    branches = [
        Branch(f"{path[0].name} to {path[-1].name}", _steps(report, path, sizes[0]))
        for path in found
        if len(path) > 1
    ]
    loose = [path[0] for path in found if len(path) == 1]
    if loose and (len(loose) > 1 or loose[0].name != report.baseline):
        loose.sort(key=lambda arm: arm.name != report.baseline)
        title = "Other arms" if branches else f"Against {report.baseline}"
        branches.append(Branch(title, _steps(report, loose, sizes[0])))
    return branches


def _steps(report: Report, path: list[Arm], size: Size) -> list[Step]:
    steps: list[Step] = []
    speeds: dict[str, float] = {}
    for arm in path:
        after = _speed(report, arm, size)
        before = speeds.get(arm.parent or "", 1.0)
        speeds[arm.name] = before if after is None else after
        steps.append(_step(report, arm, size, before, after))
        steps += [_control_step(report, control, arm) for control in _controls(report, arm)]
    return steps


def _speed(report: Report, arm: Arm, size: Size) -> float | None:
    if arm.name == report.baseline:
        return 1.0
    gain = latency_gain(report, arm, size)
    return gain.factor if gain else None


def _controls(report: Report, arm: Arm) -> list[Arm]:
    return [other for other in report.arms if other.control_of == arm.name]


def _step(report: Report, arm: Arm, size: Size, before: float, after: float | None) -> Step:
    point = arm.best_latency(*size)
    latency = formatting.milliseconds(point.median_ms) if point else DASH
    gain, shrunk = latency_gain(report, arm, size), size_gain(report, arm)
    roles = [
        role
        for role, name in (("baseline", report.baseline), ("final", report.final))
        if name == arm.name
    ]
    return Step(
        name=arm.name,
        kind=arm.kind,
        roles=tuple(roles),
        before=before,
        after=after,
        speed=(latency, formatting.times(gain.factor) if gain else ""),
        size=(formatting.size(arm.size_bytes), formatting.times(shrunk.factor) if shrunk else ""),
        quality=_quality(report, arm),
    )


def _quality(report: Report, arm: Arm) -> tuple[str, str]:
    if arm.quality is None:
        return DASH, ""
    metric = metric_format(arm.quality.metric, arm.quality.higher_is_better)
    n = arm.quality.n
    found = quality_drop(report, arm)
    value = metric.value(arm.quality.value, n)
    if found is None or found.difference is None:
        return value, ""
    return value, f"{metric.change} {metric.difference(found.difference, n)}"


def _control_step(report: Report, control: Arm, arm: Arm) -> Step:
    return Step(
        name=control.name,
        kind=f"{arm.name} trained without a teacher{_teacher_gain(report, control, arm)}",
        roles=("control",),
        before=1.0,
        after=None,
        speed=("", ""),
        size=("", ""),
        quality=_quality(report, control),
        control=True,
    )


def _teacher_gain(report: Report, control: Arm, arm: Arm) -> str:
    """What the teacher gave, from the paired comparison where there is one."""
    if arm.quality is None or control.quality is None:
        return ""
    metric, n = metric_format(arm.quality.metric), arm.quality.n
    sign = 1 if arm.quality.higher_is_better else -1
    gained, bounds = sign * (arm.quality.value - control.quality.value), ""
    for pair, turn in (((control.name, arm.name), -1), ((arm.name, control.name), 1)):
        found = comparison(report, *pair, "quality")
        if found and found.difference is not None:
            gained = turn * found.difference
            if found.interval:
                low, high = sorted(turn * bound for bound in found.interval)
                bounds = f" {metric.interval((low, high), n)}"
    unit = f" {metric.unit}" if metric.unit else ""
    return f"; the teacher gave {metric.difference(gained, n)}{unit}{bounds}"

"""The arms that a picture of many must not lose in the crowd."""

from __future__ import annotations

from collections.abc import Sequence

from compress.report.gains import call_sizes, find_arm
from compress.report.measure_schema import Size
from compress.report.points import arm_role, pareto_front, picture_points
from compress.report.schema import Arm, Report

#: With more arms than this a picture labels the highlighted ones and draws the others pale.
LABELLED_AT_MOST = 10


def highlighted(report: Report) -> list[str]:
    """Names of the baseline, the final model and the Pareto front; without data the fastest arms.

    The baseline comes first, then the final model, then the front from the fastest on.
    """
    front = [point.name for point in pareto_front(picture_points(report))]
    front = front or [arm.name for size in call_sizes(report) if (arm := _fastest(report, size))]
    names = dict.fromkeys([report.baseline, report.final, *front])
    return [name for name in names if name and find_arm(report, name)]


def chosen(report: Report, arms: Sequence[Arm], most: int) -> list[Arm]:
    """At most so many of the arms, the highlighted ones first; in the order in which they came."""
    wanted = {name: rank for rank, name in enumerate(highlighted(report))}
    ranked = sorted(arms, key=lambda arm: wanted.get(arm.name, len(wanted)))
    kept = {arm.name for arm in ranked[:most]}
    return [arm for arm in arms if arm.name in kept]


def looks(report: Report, arms: Sequence[Arm]) -> dict[str, str]:
    """How each of the arms is drawn: by its role, or "pale" where it would be lost in a crowd."""
    found: dict[str, str] = {arm.name: arm_role(report, arm) for arm in arms}
    if len(arms) > LABELLED_AT_MOST:
        strong = set(highlighted(report)[:LABELLED_AT_MOST])
        found |= {name: "pale" for name in found if name not in strong}
    return found


def _fastest(report: Report, size: Size) -> Arm | None:
    timed = [(point.median_ms, arm) for arm in report.arms if (point := arm.best_latency(*size))]
    return min(timed, key=lambda entry: entry[0])[1] if timed else None

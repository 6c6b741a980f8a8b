"""The arms as points of quality against latency, and the Pareto front among them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from compress.report.gains import architecture_latency, batches
from compress.report.schema import Arm, Quality, Report

#: With more points than this only the baseline, the final model and the Pareto front are labelled,
#: and of a front of more than half as many every other, every third, ….
KEYED_AT_MOST = 40


@dataclass(frozen=True)
class Point:
    """One arm of the picture: what it shows and where it stands, in pixels."""

    name: str
    key: str
    role: Literal["baseline", "final", "control", "arm"]
    latency: float
    quality: Quality
    x: float = 0.0
    y: float = 0.0
    low: float = 0.0
    high: float = 0.0


def picture_points(report: Report) -> list[Point]:
    """The arms that the picture shows, each with a short key, in report order."""
    outside = outside_picture(report)
    return [point for point in _all_points(report) if point not in outside]


def outside_picture(report: Report) -> list[Point]:
    """Arms so far below all others that showing them would press the others into one line.

    A model that was pruned and not yet trained again is the usual one.
    """
    points = sorted(_all_points(report), key=_goodness)
    outside: list[Point] = []
    while len(points) > 2 and points[0].role not in ("baseline", "final"):
        rest = [bound for point in points[1:] for bound in point.quality.bounds]
        gap = min(abs(points[0].quality.value - bound) for bound in rest)
        if gap <= 3 * (max(rest) - min(rest)):
            break
        outside.append(points.pop(0))
    return outside


def _all_points(report: Report) -> list[Point]:
    sizes = batches(report)
    points: list[Point] = []
    for arm in report.arms:
        latency = architecture_latency(report, arm, sizes[0]) if sizes else None
        if latency is None or arm.quality is None:
            continue
        points.append(
            Point(arm.name, _key(len(points)), arm_role(report, arm), latency, arm.quality)
        )
    return points


def pareto_front(points: Sequence[Point]) -> list[Point]:
    """The points that none beats in latency and quality at once, fastest first.

    Controls are left out: they show what the teacher gave and are no choice of their own.
    """
    chosen: list[Point] = []
    order = [point for point in points if point.role != "control"]
    for point in sorted(order, key=lambda point: (point.latency, -_goodness(point))):
        if not chosen or _goodness(point) > _goodness(chosen[-1]):
            chosen.append(point)
    return chosen


def labelled(points: Sequence[Point]) -> list[Point]:
    """Those that a picture has room to label."""
    if len(points) <= KEYED_AT_MOST:
        return list(points)
    front = pareto_front(points)
    names = {point.name for point in front[:: 1 + 2 * len(front) // KEYED_AT_MOST]}
    return [point for point in points if point.role in ("baseline", "final") or point.name in names]


def _goodness(point: Point) -> float:
    return point.quality.value if point.quality.higher_is_better else -point.quality.value


def _key(place: int) -> str:
    """A, B, …, Z, AA, AB, …."""
    key = ""
    place += 1
    while place:
        place, letter = divmod(place - 1, 26)
        key = chr(ord("A") + letter) + key
    return key


def arm_role(report: Report, arm: Arm) -> Literal["baseline", "final", "control", "arm"]:
    """What an arm stands for in a picture."""
    if arm.control_of is not None:
        return "control"
    if arm.name == report.final:
        return "final"
    return "baseline" if arm.name == report.baseline else "arm"

"""The pictures of a report as inline SVG, from the report alone.

Colours come from the page's style sheet by class name, so that the pictures follow light, dark and
print. Every text goes through ElementTree, which escapes it.
"""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Literal

from markupsafe import Markup

from compress.report.axes import Axis, linear_axis, log_axis
from compress.report.drawing import element, marker, markup, text
from compress.report.formatting import number
from compress.report.gains import batches, find_arm, report_metric
from compress.report.labels import Box, Label, place_labels, shortened, text_width
from compress.report.points import Point, labelled, pareto_front, picture_points
from compress.report.schema import Report

Width = Literal["wide", "narrow"]

_SIZES: dict[Width, tuple[int, int]] = {"wide": (920, 440), "narrow": (340, 330)}
_FONT = 12.5
_MARKER = 5.5
#: With more arms than this the points carry keys for a legend instead of names.
NAMED_AT_MOST = 14


def accuracy_against_latency(report: Report, width: Width) -> Markup:
    """Quality with its 95 % interval against latency at the smallest batch size, on a log axis.

    Baseline, final model and controls have markers of their own; the step line is the Pareto front.
    On a narrow picture, or with many arms, the points carry keys for a legend instead of names.

    Returns:
        An `<svg>` element, or an empty string where fewer than two arms can be drawn.
    """
    points = picture_points(report)
    if len(points) < 2:
        return Markup("")
    across, down = _SIZES[width]
    frame = Box(58, 14, across - 14, down - 50)
    most = 9 if width == "wide" else 6
    x_axis = log_axis([point.latency for point in points], frame.left, frame.right, most=most)
    limits = [bound for point in points for bound in (*point.quality.bounds, point.quality.value)]
    y_axis = linear_axis(limits, frame.bottom, frame.top)
    points = [_placed(point, x_axis, y_axis) for point in points]
    front, points = pareto_front(points), _apart(points)

    canvas = ET.Element(
        "svg",
        {"viewBox": f"0 0 {across} {down}", "role": "img", "aria-label": _description(report)},
    )
    _draw_axes(canvas, report, frame, x_axis, y_axis)
    obstacles = _obstacles(points, front, frame)
    obstacles += _draw_budget(canvas, report, frame, y_axis, obstacles)
    _draw_front(canvas, front, frame)
    for point in points:
        _draw_point(canvas, point)
    keyed = width == "narrow" or len(points) > NAMED_AT_MOST
    _draw_labels(canvas, labelled(points), frame, obstacles, keyed=keyed)
    return markup(canvas)


def _placed(point: Point, x_axis: Axis, y_axis: Axis) -> Point:
    low, high = point.quality.bounds
    return replace(
        point,
        x=x_axis(point.latency),
        y=y_axis(point.quality.value),
        low=y_axis(low),
        high=y_axis(high),
    )


def _apart(points: list[Point], gap: float = 13.0) -> list[Point]:
    """Moves points sideways that would cover another's error bar; controls give way first."""
    order = sorted(points, key=lambda point: point.role == "control")
    moved: list[Point] = []
    for point in order:
        for shift in (0, gap, -gap, 2 * gap, -2 * gap, 3 * gap, -3 * gap):
            tried = replace(point, x=point.x + shift)
            if not any(_covers(tried, other, gap) for other in moved):
                break
        moved.append(tried)
    return moved


def _covers(one: Point, other: Point, gap: float) -> bool:
    reach = _MARKER + 2
    beside = abs(one.x - other.x) < gap - 0.5
    return beside and one.high - reach < other.low + reach and other.high - reach < one.low + reach


def _description(report: Report) -> str:
    metric = report_metric(report)
    name = metric.label if metric else "quality"
    return f"{name} against latency at batch {batches(report)[0]}, one point per arm"


def _draw_axes(canvas: ET.Element, report: Report, frame: Box, x_axis: Axis, y_axis: Axis) -> None:
    metric = report_metric(report)
    share = metric is not None and metric.share
    for tick in x_axis.ticks:
        x = x_axis(tick)
        element(canvas, "line", "grid", x1=x, x2=x, y1=frame.top, y2=frame.bottom)
        text(canvas, "tick", number(tick, trim=True), x, frame.bottom + 17, "middle")
    for tick in y_axis.ticks:
        if share and tick > 1 + 1e-9:
            continue
        y = y_axis(tick)
        element(canvas, "line", "grid", x1=frame.left, x2=frame.right, y1=y, y2=y)
        label = number(tick * 100, 4, trim=True) + " %" if share else number(tick, 4, trim=True)
        text(canvas, "tick", label, frame.left - 8, y + 4, "end")
    element(canvas, "line", "axis", x1=frame.left, x2=frame.right, y1=frame.bottom, y2=frame.bottom)
    title = f"Latency at batch {batches(report)[0]}, ms (log scale)"
    middle = (frame.left + frame.right) / 2
    text(canvas, "axis-title", title, middle, frame.bottom + 39, "middle")


def _draw_budget(
    canvas: ET.Element, report: Report, frame: Box, y_axis: Axis, obstacles: Sequence[Box]
) -> list[Box]:
    """The line where the budget is used up; returns what labels should keep clear of."""
    baseline, metric = find_arm(report, report.baseline), report_metric(report)
    if report.budget is None or baseline is None or baseline.quality is None or metric is None:
        return []
    sign = -1 if baseline.quality.higher_is_better else 1
    value = baseline.quality.value + sign * report.budget.max_drop
    if not y_axis.low < value < y_axis.high:
        return []
    y, words = y_axis(value), f"allowed {metric.change}: {metric.allowed(report.budget.max_drop)}"
    element(canvas, "line", "budget", x1=frame.left, x2=frame.right, y1=y, y2=y)
    box = _free_place(text_width(words, _FONT), y, frame, obstacles)
    text(canvas, "budget-label", words, (box.left + box.right) / 2, box.bottom - 5, "middle")
    return [box, Box(frame.left, y - 1, frame.right, y + 1)]


def _free_place(width: float, y: float, frame: Box, obstacles: Sequence[Box]) -> Box:
    """The place along a level line, from the right, where a label covers least."""
    places = [
        Box(right - width, top, right, top + 18)
        for right in range(round(frame.right) - 4, round(frame.left + width) + 4, -8)
        for top in (y, y - 18)
    ]
    return min(places, key=lambda box: sum(box.overlap(other) for other in obstacles))


def _front_path(front: Sequence[Point], frame: Box) -> list[tuple[float, float]]:
    """Corners of the step line: the best quality to be had at each latency."""
    corners: list[tuple[float, float]] = []
    for point in front:
        if corners:
            corners.append((point.x, corners[-1][1]))
        corners.append((point.x, point.y))
    return [*corners, (frame.right, corners[-1][1])] if corners else []


def _draw_front(canvas: ET.Element, front: Sequence[Point], frame: Box) -> None:
    corners = _front_path(front, frame)
    line = " ".join(f"{x:.1f},{y:.1f}" for x, y in corners)
    element(canvas, "polyline", "front", points=line)


def _draw_point(canvas: ET.Element, point: Point) -> None:
    group = ET.SubElement(canvas, "g", {"class": f"point {point.role}"})
    x, r = point.x, _MARKER
    element(group, "line", "error", x1=x, x2=x, y1=point.high, y2=point.low)
    for y in (point.high, point.low):
        element(group, "line", "error", x1=x - 3.5, x2=x + 3.5, y1=y, y2=y)
    marker(group, point.role, x, point.y, r)


def _obstacles(points: Sequence[Point], front: Sequence[Point], frame: Box) -> list[Box]:
    reach = _MARKER + 2
    boxes = [
        Box(point.x - reach, point.y - reach, point.x + reach, point.y + reach) for point in points
    ]
    boxes += [Box(point.x - 3, point.high, point.x + 3, point.low) for point in points]
    corners = _front_path(front, frame)
    for (x, y), (next_x, next_y) in pairwise(corners):
        boxes.append(Box(x - 1, min(y, next_y) - 1, next_x + 1, max(y, next_y) + 1))
    return boxes


def _draw_labels(
    canvas: ET.Element, points: Sequence[Point], frame: Box, obstacles: list[Box], *, keyed: bool
) -> None:
    rank = {"final": 0, "baseline": 1, "arm": 2, "control": 3}
    order = sorted(points, key=lambda point: (rank[point.role], -point.x))
    named = [(point.x, point.y, point.key if keyed else shortened(point.name)) for point in order]
    for point, label in zip(order, place_labels(named, obstacles, frame, _FONT), strict=True):
        if label.far:
            x, y = _nearest(label, point)
            element(canvas, "line", "leader", x1=point.x, y1=point.y, x2=x, y2=y)
        middle = (label.box.left + label.box.right) / 2
        text(canvas, f"label {point.role}", label.text, middle, label.box.bottom - 4, "middle")


def _nearest(label: Label, point: Point) -> tuple[float, float]:
    box = label.box
    return min(max(point.x, box.left), box.right), min(max(point.y, box.top), box.bottom)

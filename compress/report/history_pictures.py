"""One figure over the commits as inline SVG; colours come from the page by class name."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections.abc import Sequence

from markupsafe import Markup

from compress.report.axes import Axis, linear_axis
from compress.report.drawing import element, markup, text
from compress.report.formatting import metric_format, number
from compress.report.history_schema import Point, Series
from compress.report.history_words import commit_name, figure, heading, point_words
from compress.report.labels import Box, text_width
from compress.report.pictures import Width

_SIZES: dict[Width, tuple[int, int]] = {"wide": (540, 240), "narrow": (340, 230)}
_FONT = 12.5
#: Forms of the markers, in the order of the machines' letters; further machines share the last.
FORMS = ("circle", "square", "diamond", "triangle", "cross")
_MOST_BARS = 150


def history_picture(series: Series, width: Width, machines: Sequence[str]) -> Markup:
    """The values in order of time, their intervals, the levels, and where those change.

    A line joins ratios of one class of machines only.

    Args:
        machines: the letters of the history's machines, whose place decides the marker's form.
    """
    across, down = _SIZES[width]
    limits = [point.value for point in series.points]
    limits += [bound for point in series.points for bound in point.interval or ()]
    ticks = linear_axis(limits, 0, 1, most=5).ticks
    labels = [_tick(series, tick) for tick in ticks]
    left = 12 + max((text_width(label, _FONT) for label in labels), default=0)
    frame = Box(left, 22, across - 10, down - 30)
    y_axis = linear_axis(limits, frame.bottom, frame.top, most=5)
    places = _places(len(series.points), frame)
    canvas = ET.Element(
        "svg", {"viewBox": f"0 0 {across} {down}", "role": "img", "aria-label": heading(series)}
    )
    _draw_axes(canvas, series, frame, y_axis, places)
    _draw_changes(canvas, series, frame, y_axis, places)
    _draw_points(canvas, series, y_axis, places, machines)
    return markup(canvas)


def form_marker(place: int) -> Markup:
    """The marker of a machine on its own, for the legend."""
    canvas = ET.Element("svg", {"viewBox": "0 0 18 18", "aria-hidden": "true"})
    _mark(ET.SubElement(canvas, "g", {"class": "point"}), _form(place), 9, 9, 5.5)
    return markup(canvas)


def _form(place: int) -> str:
    return FORMS[min(place, len(FORMS) - 1)]


def _places(count: int, frame: Box) -> list[float]:
    if count == 1:
        return [(frame.left + frame.right) / 2]
    first, last = frame.left + 10, frame.right - 10
    return [first + (last - first) * place / (count - 1) for place in range(count)]


def _tick(series: Series, value: float) -> str:
    if series.measure == "quality":
        share = metric_format(series.metric or "quality").share
        return f"{number(value * 100, 4, trim=True)} %" if share else number(value, 4, trim=True)
    if series.measure == "ratio":
        return f"{number(value, trim=True)} ×"
    if series.measure == "milliseconds":
        return f"{number(value, trim=True)} ms"
    return figure(series, value) if value >= 0 else ""


def _draw_axes(
    canvas: ET.Element,
    series: Series,
    frame: Box,
    y_axis: Axis,
    places: Sequence[float],
) -> None:
    share = series.measure == "quality" and metric_format(series.metric or "quality").share
    for tick in y_axis.ticks:
        if share and tick > 1 + 1e-9:
            continue
        y = y_axis(tick)
        element(canvas, "line", "grid", x1=frame.left, x2=frame.right, y1=y, y2=y)
        text(canvas, "tick", _tick(series, tick), frame.left - 7, y + 4, "end")
    element(canvas, "line", "axis", x1=frame.left, x2=frame.right, y1=frame.bottom, y2=frame.bottom)
    widest = max(text_width(commit_name(point), _FONT) for point in series.points)
    most = max(1, min(5, int((frame.right - frame.left) / (widest + 12))))
    for place, anchor in _labelled(len(places), most):
        words = commit_name(series.points[place])
        text(canvas, "tick", words, places[place], frame.bottom + 18, anchor)


def _labelled(count: int, most: int) -> list[tuple[int, str]]:
    """Which points are named below the axis, and on which side of them the name stands."""
    if count == 1 or most == 1:
        return [(count // 2, "middle")]
    shown = min(count, most)
    chosen = [round(step * (count - 1) / (shown - 1)) for step in range(shown)]
    return [
        (place, "start" if place == 0 else "end" if place == count - 1 else "middle")
        for place in chosen
    ]


def _draw_changes(
    canvas: ET.Element, series: Series, frame: Box, y_axis: Axis, places: Sequence[float]
) -> None:
    """A line between the two levels, its key above, and each level where all machines are alike."""
    for key, change in enumerate(series.changes, start=1):
        look = "better" if change.better else "worse"
        x = (places[change.place - 1] + places[change.place]) / 2
        element(canvas, "line", f"change {look}", x1=x, x2=x, y1=frame.top, y2=frame.bottom)
        text(canvas, f"change-key {look}", str(key), x, frame.top - 6, "middle")
    if not series.changes or len({point.machine for point in series.points}) > 1:
        return
    edges = [0, *(change.place for change in series.changes), len(places)]
    levels = [series.changes[0].before, *(change.after for change in series.changes)]
    for level, start, end in zip(levels, edges[:-1], edges[1:], strict=True):
        y, one, other = y_axis(level), places[start] - 5, places[end - 1] + 5
        element(canvas, "line", "level", x1=one, x2=other, y1=y, y2=y)


def _draw_points(
    canvas: ET.Element,
    series: Series,
    y_axis: Axis,
    places: Sequence[float],
    machines: Sequence[str],
) -> None:
    radius = 4.5 if len(places) <= 40 else 3.0 if len(places) <= _MOST_BARS else 2.0
    traces: dict[str, list[str]] = {}
    for x, point in zip(places, series.points, strict=True):
        line = point.machine if series.measure == "ratio" else ""
        traces.setdefault(line, []).append(f"{x:.1f},{y_axis(point.value):.1f}")
    for corners in traces.values():
        element(canvas, "polyline", "trace", points=" ".join(corners))
    for x, point in zip(places, series.points, strict=True):
        group = ET.SubElement(canvas, "g", {"class": "point"})
        _name(group, series, point)
        if point.interval is not None:
            low, high = (y_axis(bound) for bound in point.interval)
            element(group, "line", "error", x1=x, x2=x, y1=low, y2=high)
        place = machines.index(point.machine) if point.machine in machines else 0
        _mark(group, _form(place), x, y_axis(point.value), radius)


def _name(group: ET.Element, series: Series, point: Point) -> None:
    """What a browser shows while the pointer rests on a point."""
    words = "".join(letter for letter in point_words(series, point) if letter.isprintable())
    ET.SubElement(group, "title").text = words


def _mark(group: ET.Element, form: str, x: float, y: float, r: float) -> None:
    if form == "circle":
        element(group, "circle", "marker", cx=x, cy=y, r=r)
        return
    if form == "square":
        corners = [(x - r, y - r), (x + r, y - r), (x + r, y + r), (x - r, y + r)]
    elif form == "diamond":
        corners = [(x, y - 1.4 * r), (x + 1.4 * r, y), (x, y + 1.4 * r), (x - 1.4 * r, y)]
    elif form == "triangle":
        corners = [(x, y - 1.3 * r), (x + 1.3 * r, y + r), (x - 1.3 * r, y + r)]
    else:
        s = r / 2.5
        corners = [(x - r, y - s), (x - s, y - s), (x - s, y - r), (x + s, y - r), (x + s, y - s)]
        corners += [(x + r, y - s), (x + r, y + s), (x + s, y + s), (x + s, y + r), (x - s, y + r)]
        corners += [(x - s, y + s), (x - r, y + s)]
    points = " ".join(f"{across:.1f},{down:.1f}" for across, down in corners)
    element(group, "polygon", "marker", points=points)

"""Latency and throughput against batch size or length: one line an arm, on logarithmic axes.

Each line is labelled at its end instead of in a legend; an arm is drawn at its best thread count.
"""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from compress.report.axes import Axis, log_axis
from compress.report.drawing import element, marker, markup, text
from compress.report.formatting import number
from compress.report.gains import call_sizes, worker_medians
from compress.report.highlights import looks
from compress.report.labels import Box, shortened, spread, text_width
from compress.report.measure_schema import Latency, Size
from compress.report.pictures import Width
from compress.report.schema import Report

_SIZES: dict[Width, tuple[int, int]] = {"wide": (545, 380), "narrow": (340, 320)}
_NAMES: dict[Width, int] = {"wide": 22, "narrow": 15}
_FONT = 12.5


@dataclass(frozen=True)
class Place:
    """One batch size or length of a line: the figure, and the smallest and largest worker's."""

    at: int
    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Line:
    """One arm: how it is drawn, and its figures from the smallest call on."""

    name: str
    look: str
    places: list[Place]


@dataclass(frozen=True)
class SizePicture:
    """A picture in both widths, with its title."""

    title: str
    wide: Markup
    narrow: Markup


def batch_pictures(report: Report) -> list[SizePicture]:
    """Latency and throughput against batch size, at the shortest length; empty for a single one."""
    sizes = call_sizes(report)
    along = [size for size in sizes if size.length == sizes[0].length]
    where = f" at length {sizes[0].length}" if sizes and sizes[0].length else ""
    return _pictures(report, along, "Batch size", where)


def length_pictures(report: Report) -> list[SizePicture]:
    """The same against the length, at the smallest batch size."""
    sizes = call_sizes(report)
    along = [size for size in sizes if size.batch == sizes[0].batch and size.length]
    return _pictures(report, along, "Length", f" at batch {sizes[0].batch}" if sizes else "")


def _pictures(report: Report, sizes: Sequence[Size], axis: str, where: str) -> list[SizePicture]:
    if len(sizes) < 2:
        return []
    kinds: list[tuple[str, Callable[[Latency, int], Place], Callable[[float], str]]] = [
        (f"Latency in ms{where}", _latency, lambda tick: number(tick, trim=True)),
        (f"Samples a second{where}", _throughput, _thousands),
    ]
    return [
        SizePicture(title, *(_picture(lines, title, axis, write, width) for width in _SIZES))
        for title, place, write in kinds
        if (lines := _lines(report, sizes, axis, place))
    ]


def _lines(
    report: Report, sizes: Sequence[Size], axis: str, place: Callable[[Latency, int], Place]
) -> list[Line]:
    """The pale lines first, so that the others lie over them."""
    lines = []
    arms = [arm for arm in report.arms if arm.latency]
    drawn = looks(report, arms)
    for arm in arms:
        places = [
            place(point, size.length or 1 if axis == "Length" else size.batch)
            for size in sizes
            if (point := arm.best_latency(*size))
        ]
        lines += [Line(arm.name, drawn[arm.name], places)] if places else []
    return sorted(lines, key=lambda line: line.look != "pale")


def _latency(point: Latency, at: int) -> Place:
    workers = [*worker_medians(point), point.median_ms]
    return Place(at, point.median_ms, min(workers), max(workers))


def _throughput(point: Latency, at: int) -> Place:
    time, second = _latency(point, at), 1000 * point.batch
    return Place(at, second / time.value, second / time.high, second / time.low)


def _thousands(tick: float) -> str:
    for unit, factor in ((" M", 1e6), (" k", 1e3)):
        if tick >= factor:
            return number(tick / factor, trim=True) + unit
    return number(tick, trim=True)


def _picture(
    lines: Sequence[Line], title: str, axis: str, write: Callable[[float], str], width: Width
) -> Markup:
    across, down = _SIZES[width]
    named = [line for line in lines if line.look != "pale"]
    names = {line.name: shortened(line.name, _NAMES[width]) for line in named}
    gutter = 12 + max((text_width(name, _FONT) for name in names.values()), default=0.0)
    frame = Box(48, 12, across - gutter, down - 44)
    sizes = sorted({place.at for line in lines for place in line.places})
    x_axis = log_axis(sizes, frame.left + 14, frame.right - 8, margin=1.0)
    bounds = [bound for line in lines for place in line.places for bound in (place.low, place.high)]
    y_axis = log_axis(bounds, frame.bottom, frame.top, margin=1.25)
    description = f"{title} against {axis.lower()}, one line per arm"
    canvas = ET.Element(
        "svg", {"viewBox": f"0 0 {across} {down}", "role": "img", "aria-label": description}
    )
    _draw_axes(canvas, frame, x_axis, y_axis, sizes, axis, write)
    for line in lines:
        _draw_line(canvas, line, x_axis, y_axis)
    _draw_names(canvas, named, names, frame, x_axis, y_axis)
    return markup(canvas)


def _draw_axes(
    canvas: ET.Element,
    frame: Box,
    x_axis: Axis,
    y_axis: Axis,
    sizes: Sequence[int],
    title: str,
    write: Callable[[float], str],
) -> None:
    free = frame.left
    for size in sizes:
        x, label = x_axis(size), f"{size:,}"
        element(canvas, "line", "grid", x1=x, x2=x, y1=frame.top, y2=frame.bottom)
        half = text_width(label, _FONT) / 2
        if x - half >= free - half:
            text(canvas, "tick", label, x, frame.bottom + 17, "middle")
            free = x + 2 * half + 4
    for tick in y_axis.ticks:
        y = y_axis(tick)
        element(canvas, "line", "grid", x1=frame.left, x2=frame.right, y1=y, y2=y)
        text(canvas, "tick", write(tick), frame.left - 7, y + 4, "end")
    element(canvas, "line", "axis", x1=frame.left, x2=frame.right, y1=frame.bottom, y2=frame.bottom)
    middle = (frame.left + frame.right) / 2
    text(canvas, "axis-title", title, middle, frame.bottom + 37, "middle")


def _draw_line(canvas: ET.Element, line: Line, x_axis: Axis, y_axis: Axis) -> None:
    group = ET.SubElement(canvas, "g", {"class": f"point {line.look}"})
    places = [(x_axis(place.at), y_axis(place.value)) for place in line.places]
    element(group, "polyline", "series", points=" ".join(f"{x:.1f},{y:.1f}" for x, y in places))
    if line.look == "pale":
        return
    for (x, y), place in zip(places, line.places, strict=True):
        low, high = y_axis(place.low), y_axis(place.high)
        element(group, "line", "error", x1=x, x2=x, y1=high, y2=low)
        for end in (low, high) if low - high > 8 else ():
            element(group, "line", "error", x1=x - 3, x2=x + 3, y1=end, y2=end)
        marker(group, line.look, x, y, 3.8)


def _draw_names(
    canvas: ET.Element,
    lines: Sequence[Line],
    names: dict[str, str],
    frame: Box,
    x_axis: Axis,
    y_axis: Axis,
) -> None:
    ends = [(x_axis(line.places[-1].at), y_axis(line.places[-1].value)) for line in lines]
    heights = spread([y for _, y in ends], 15.5, frame.top, frame.bottom)
    for line, (x, y), height in zip(lines, ends, heights, strict=True):
        left = frame.right + 4
        if abs(height - y) > 3 or x < frame.right - 9:
            element(canvas, "line", "leader", x1=x + 6, y1=y, x2=left - 1, y2=height)
        text(canvas, f"label {line.look}", names[line.name], left + 1, height + 4)

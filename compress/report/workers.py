"""Spread of the latencies: one dot for each worker process, one row for each arm."""

from __future__ import annotations

import statistics
import xml.etree.ElementTree as ET
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from compress.report.axes import Axis, log_axis
from compress.report.drawing import element, marker, markup, text
from compress.report.formatting import milliseconds, number
from compress.report.gains import call_sizes, worker_medians
from compress.report.highlights import chosen, looks
from compress.report.labels import Box, shortened, text_width
from compress.report.measure_schema import Size
from compress.report.pictures import Width
from compress.report.schema import Arm, Report

#: Rows of one picture; "Every timing" has the rest.
ROWS_AT_MOST = 24
_FONT = 12.5
_DOT = 3.0


@dataclass(frozen=True)
class Row:
    """One row: what is written before and after it, and a value for each worker.

    Attributes:
        middle: where the line across the dots stands.
        bounds: of an interval that is drawn under the dots, or None.
    """

    name: str
    look: str
    figure: str
    values: Sequence[float]
    middle: float
    bounds: tuple[float, float] | None = None


def worker_rows(report: Report) -> list[Row]:
    """Arms at the smallest call, each at its best thread count, with each worker's median in ms.

    Empty where no arm was timed by two workers.
    """
    sizes = call_sizes(report)
    timed = [arm for arm in report.arms if sizes and worker_medians(arm.best_latency(*sizes[0]))]
    if not any(len(worker_medians(arm.best_latency(*sizes[0]))) > 1 for arm in timed):
        return []
    drawn = looks(report, timed)
    arms = chosen(report, timed, ROWS_AT_MOST)
    return [_row(arm, sizes[0], drawn[arm.name]) for arm in arms]


def _row(arm: Arm, size: Size, look: str) -> Row:
    values = worker_medians(arm.best_latency(*size))
    middle = statistics.median(values)
    over = [
        number(100 * (bound / middle - 1), 2, trim=True) for bound in (min(values), max(values))
    ]
    figure = f"{milliseconds(middle)}, {over[0]} to +{over[1]} %"
    return Row(arm.name, "arm" if look == "pale" else look, figure, values, middle)


def worker_picture(report: Report, width: Width) -> Markup:
    """The rows as a picture; an empty string where there are none."""
    rows = worker_rows(report)
    if not rows:
        return Markup("")
    size = call_sizes(report)[0]
    title = f"Latency at {size}, ms (log scale)"
    strips = Strips(rows, title, width, f"Each worker's median latency at {size}")
    return strips.drawn()


class Strips:
    """Rows of dots over one logarithmic axis; on a narrow picture the names stand above the dots.

    Args:
        rows: at least one.
        title: of the axis.
        description: of the picture, for those who cannot see it.
        around: values that the axis has to reach beside those of the rows.
    """

    def __init__(
        self,
        rows: Sequence[Row],
        title: str,
        width: Width,
        description: str,
        around: Iterable[float] = (),
    ) -> None:
        self.rows, self.title, self.wide = rows, title, width == "wide"
        self.step = 30 if self.wide else 46
        left, right = self._gutters()
        across = 920 if self.wide else 340
        self.frame = Box(left, 6, across - right, 6 + self.step * len(rows))
        values = [bound for row in rows for bound in (*row.values, *(row.bounds or ()), row.middle)]
        self.axis = self._axis([*values, *around])
        size = {"viewBox": f"0 0 {across} {self.frame.bottom + 42:.0f}"}
        self.canvas = ET.Element("svg", {**size, "role": "img", "aria-label": description})

    def _gutters(self) -> tuple[float, float]:
        if not self.wide:
            return 12, 12
        names = [text_width(shortened(row.name), _FONT) for row in self.rows]
        return max(names) + 14, max(text_width(row.figure, _FONT) for row in self.rows) + 10

    def _axis(self, values: Sequence[float]) -> Axis:
        margin = (max(values) / min(values)) ** 0.04 * 1.004
        most = 9 if self.wide else 5
        return log_axis(values, self.frame.left, self.frame.right, margin=margin, most=most)

    def drawn(self) -> Markup:
        """The picture with all rows."""
        self._draw_axis()
        for place, row in enumerate(self.rows):
            self._draw_row(row, self.frame.top + place * self.step)
        return markup(self.canvas)

    def shade(self, look: str, low: float, high: float) -> None:
        """A band between two values, as far as the axis reaches."""
        left, right = (self.axis(min(max(v, self.axis.low), self.axis.high)) for v in (low, high))
        height = self.frame.bottom - self.frame.top
        element(
            self.canvas, "rect", look, x=left, y=self.frame.top, width=right - left, height=height
        )

    def rule(self, look: str, value: float) -> None:
        """An upright line at one value."""
        x = self.axis(value)
        element(self.canvas, "line", look, x1=x, x2=x, y1=self.frame.top, y2=self.frame.bottom)

    def _draw_axis(self) -> None:
        frame = self.frame
        for tick in self.axis.ticks:
            self.rule("grid", tick)
            label = number(tick, 4, trim=True)
            text(self.canvas, "tick", label, self.axis(tick), frame.bottom + 16, "middle")
        ends = {"x1": frame.left, "x2": frame.right, "y1": frame.bottom, "y2": frame.bottom}
        element(self.canvas, "line", "axis", **ends)
        middle = (frame.left + frame.right) / 2
        text(self.canvas, "axis-title", self.title, middle, frame.bottom + 36, "middle")

    def _draw_row(self, row: Row, top: float) -> None:
        frame, y = self.frame, top + self.step / 2
        name = shortened(row.name)
        if self.wide:
            text(self.canvas, f"label {row.look}", name, frame.left - 12, y + 4, "end")
            text(self.canvas, "tick", row.figure, frame.right + 10, y + 4)
        else:
            text(self.canvas, f"label {row.look}", shortened(row.name, 21), 2, top + 13)
            text(self.canvas, "tick", row.figure, 338, top + 13, "end")
            y = top + 30
        group = ET.SubElement(self.canvas, "g", {"class": f"point {row.look}"})
        if row.bounds:
            left, right = (self.axis(bound) for bound in row.bounds)
            element(group, "rect", "interval", x=left, y=y - 10, width=right - left, height=20)
        places = [self.axis(value) for value in row.values]
        for x, shift in zip(places, swarm(places), strict=True):
            element(group, "circle", "dot", cx=x, cy=y + shift, r=_DOT)
        x = self.axis(row.middle)
        if not row.values:
            marker(group, row.look, x, y, 5)
            return
        element(group, "line", "median", x1=x, x2=x, y1=y - 11, y2=y + 11)


def swarm(places: Sequence[float], most: float = 9.0) -> list[float]:
    """How far up or down each dot has to move so that few cover each other, in pixels."""
    steps = [0.0, *(sign * step for step in (3.0, 6.0, 9.0) for sign in (1, -1) if step <= most)]
    drawn: list[tuple[float, float]] = []
    for x in places:
        covered = [_covered(x, step, drawn) for step in steps]
        drawn.append((x, steps[covered.index(min(covered))]))
    return [shift for _, shift in drawn]


def _covered(x: float, shift: float, drawn: Sequence[tuple[float, float]]) -> int:
    """Dots closer than a diameter; those exactly there count most."""
    reach = (2 * _DOT) ** 2
    return sum((x - left) ** 2 + (shift - up) ** 2 < reach for left, up in drawn)

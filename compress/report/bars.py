"""Bars of the picture "what each stage gave": times faster than the baseline, on a log axis.

A log axis makes equal factors equally long, so that the bars of a branch add up to its gain. Each
bar is an `<svg>` as wide as its cell, with positions in percent: it needs no script to fit a phone.
"""

from __future__ import annotations

import math
import xml.etree.ElementTree as ET
from collections.abc import Sequence

from markupsafe import Markup

from compress.report.axes import Axis, log_ticks
from compress.report.branches import Branch, Step
from compress.report.drawing import element, markup
from compress.report.formatting import times

_HEIGHT = 20.0


def speed_axis(branches: Sequence[Branch]) -> Axis | None:
    """The axis that all branches share, in percent; None where nothing was faster or slower."""
    speeds = [step.after for branch in branches for step in branch.steps]
    found = [speed for speed in speeds if speed is not None]
    low, high = min(found, default=1.0), max(found, default=1.0)
    if low == high:
        return None
    low, high = min(low, 1.0), max(high, 1.0)
    margin = (high / low) ** 0.04
    low, high = low / margin, high * margin
    return Axis(low, high, 0, 100, log_ticks(low, high, most=5), logarithmic=True)


def step_bar(step: Step, axis: Axis) -> Markup:
    """Pale up to what the stage came in with, strong for what it gave, dashed for what it took."""
    canvas = _canvas(f"{times(step.after, trim=True)} the baseline's speed")
    for tick in axis.ticks:
        _rule(canvas, "grid", axis(tick))
    if step.after is not None:
        _span(canvas, "inherited", axis(1.0), axis(_kept(step.before, step.after)))
        look = "given" if step.after >= step.before else "taken"
        _span(canvas, look, axis(step.before), axis(step.after))
        _rule(canvas, "end", axis(step.after))
    _rule(canvas, "origin", axis(1.0))
    return markup(canvas)


def _kept(before: float, after: float) -> float:
    """How far from 1 × the part reaches that the step left as it was."""
    if before >= 1:
        return max(1.0, min(before, after))
    return min(1.0, max(before, after))


def speed_scale(axis: Axis) -> Markup:
    """The axis itself: its ticks as factors."""
    canvas = _canvas("times faster than the baseline")
    for tick in axis.ticks:
        label = element(canvas, "text", "tick", x=f"{axis(tick):.2f}%", y=14, text_anchor="middle")
        label.text = times(tick, trim=True)
    return markup(canvas)


def _canvas(description: str) -> ET.Element:
    attributes = {"width": "100%", "height": f"{_HEIGHT:.0f}", "role": "img"}
    return ET.Element("svg", {"class": "bar", **attributes, "aria-label": description})


def _span(canvas: ET.Element, look: str, one: float, other: float) -> None:
    if math.isclose(one, other):
        return
    left, width = min(one, other), abs(one - other)
    element(canvas, "rect", look, x=f"{left:.2f}%", width=f"{width:.2f}%", y=4, height=12)


def _rule(canvas: ET.Element, look: str, x: float) -> None:
    place = f"{x:.2f}%"
    element(canvas, "line", look, x1=place, x2=place, y1=0, y2=_HEIGHT)

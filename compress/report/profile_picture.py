"""Bars of the picture "where the time goes": each operator's time, split by what it runs in."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from dataclasses import dataclass

from markupsafe import Markup

from compress.report.drawing import element, markup
from compress.report.profile_schema import CONVERSION, Profile
from compress.report.profile_tables import microseconds, percent

#: So many operators have a bar of their own; the rest share one.
MOST_BARS = 9
_HEIGHT = 18.0
#: What each colour stands for, in the order of the parts of a bar.
LEGEND = (
    ("int8", "int8"),
    ("conversion", "to int8 and back"),
    ("float", "floating point"),
    ("other", "integers, control flow"),
)


@dataclass(frozen=True)
class Bar:
    """One operator's line of the picture.

    Attributes:
        figure, share: microseconds a call and share of the kernel time, as text.
        parts: share of the kernel time by class name, 0 to 1.
    """

    name: str
    figure: str
    share: str
    parts: dict[str, float]

    @property
    def length(self) -> float:
        """Share of the kernel time, 0 to 1."""
        return sum(self.parts.values())


def look(precision: str) -> str:
    """The class name of a precision; int4 weights are drawn as int8."""
    if precision == CONVERSION:
        return "conversion"
    if precision.startswith("int8") or precision == "int4 weights":
        return "int8"
    return "float" if precision in ("fp32", "fp16", "bf16", "fp64") else "other"


def bars(profile: Profile) -> list[Bar]:
    """The slowest operators, and all others as one."""
    total = profile.kernels_us or 1.0
    entries = [(entry.operator, entry.precisions_us) for entry in profile.operators]
    # A single one left over has its name in the line that the others would share.
    shown = entries if len(entries) == MOST_BARS + 1 else entries[:MOST_BARS]
    rest = entries[len(shown) :]
    found = [_bar(name, parts, total) for name, parts in shown]
    if rest:
        sums: dict[str, float] = {}
        for _, parts in rest:
            for precision, us in parts.items():
                sums[precision] = sums.get(precision, 0.0) + us
        found.append(_bar(f"{len(rest)} others", sums, total))
    return found


def _bar(name: str, by_precision: dict[str, float], total: float) -> Bar:
    us = sum(by_precision.values())
    parts = {kind: 0.0 for kind, _ in LEGEND}
    for precision, part in by_precision.items():
        parts[look(precision)] += part / total
    return Bar(name, f"{microseconds(us)} µs", percent(us / total), parts)


def bar_picture(bar: Bar, longest: float) -> Markup:
    """One bar as an `<svg>` as wide as its cell; `longest` fills it."""
    attributes = {"width": "100%", "height": f"{_HEIGHT:.0f}", "role": "img"}
    label = f"{bar.share} of the kernel time"
    canvas = ET.Element("svg", {"class": "time", **attributes, "aria-label": label})
    left = 0.0
    for kind, _ in LEGEND:
        width = 100 * bar.parts[kind] / longest if longest else 0.0
        if width > 0:
            place = {"x": f"{left:.2f}%", "width": f"{width:.2f}%"}
            element(canvas, "rect", f"part {kind}", **place, y=3, height=12)
        left += width
    return markup(canvas)


def legend(shown: list[Bar]) -> list[tuple[Markup, str]]:
    """Marker and meaning of every colour that the bars have."""
    found = []
    for kind, meaning in LEGEND:
        if any(bar.parts[kind] for bar in shown):
            canvas = ET.Element("svg", {"viewBox": "0 0 18 18", "aria-hidden": "true"})
            element(canvas, "rect", f"part {kind}", x=3, y=3, width=12, height=12)
            found.append((markup(canvas), meaning))
    return found

"""Bars of the picture "sensitivity": how far the outputs are off when one layer is int8."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from compress.report.drawing import element, markup
from compress.report.formatting import number
from compress.report.sensitivity_schema import Sensitivity

_HEIGHT = 18.0
#: What each colour stands for.
LEGEND = (("float", "stays in fp32"), ("int8", "int8"))


@dataclass(frozen=True)
class Layer:
    """One line of the picture.

    Attributes:
        figure: the divergence as text.
        precision: "fp32" or "int8".
        length: share of the longest bar, 0 to 1; a layer without numbers fills it.
    """

    name: str
    figure: str
    precision: str
    length: float


def lines(entries: Sequence[Sensitivity]) -> list[Layer]:
    """The entries as lines, on one scale from zero."""
    known = [entry.divergence for entry in entries if entry.divergence is not None]
    longest = max(known, default=0.0) or 1.0
    return [
        Layer(
            name=entry.name,
            figure=divergence_text(entry),
            precision="fp32" if entry.fp32 else "int8",
            length=1.0 if entry.divergence is None else entry.divergence / longest,
        )
        for entry in entries
    ]


def divergence_text(entry: Sensitivity) -> str:
    """The divergence to three digits; "no number" where the outputs held none."""
    return "no number" if entry.divergence is None else number(entry.divergence)


def sensitivity_bar(line: Layer) -> Markup:
    """One bar as an `<svg>` as wide as its cell."""
    attributes = {"width": "100%", "height": f"{_HEIGHT:.0f}", "role": "img"}
    label = f"divergence {line.figure}, {line.precision}"
    canvas = ET.Element("svg", {"class": "time", **attributes, "aria-label": label})
    look = "part float" if line.precision == "fp32" else "part int8"
    element(canvas, "rect", look, x="0%", width=f"{100 * line.length:.2f}%", y=3, height=12)
    return markup(canvas)


def legend(shown: Sequence[Layer]) -> list[tuple[Markup, str]]:
    """Marker and meaning of every colour that the bars have."""
    found = []
    for kind, meaning in LEGEND:
        precision = "fp32" if kind == "float" else "int8"
        if any(line.precision == precision for line in shown):
            canvas = ET.Element("svg", {"viewBox": "0 0 18 18", "aria-hidden": "true"})
            element(canvas, "rect", f"part {kind}", x=3, y=3, width=12, height=12)
            found.append((markup(canvas), meaning))
    return found

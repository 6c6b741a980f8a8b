"""The few marks that the pictures are made of; colours come from the page by class name."""

from __future__ import annotations

import xml.etree.ElementTree as ET

from markupsafe import Markup


def element(parent: ET.Element, tag: str, look: str, **attributes: float | str) -> ET.Element:
    """A child of `parent` with the class `look`; `stroke_width` becomes `stroke-width`."""
    values = {
        name.replace("_", "-"): value if isinstance(value, str) else f"{value:.1f}"
        for name, value in attributes.items()
    }
    return ET.SubElement(parent, tag, {"class": look, **values})


def text(
    parent: ET.Element, look: str, content: str, x: float, y: float, anchor: str = "start"
) -> None:
    """A line of text, escaped on writing, without the control characters that XML forbids."""
    printable = "".join(letter for letter in content if letter.isprintable())
    element(parent, "text", look, x=x, y=y, text_anchor=anchor).text = printable


def marker(parent: ET.Element, role: str, x: float, y: float, r: float) -> None:
    """A square for the baseline, a diamond for the final model, a circle."""
    if role == "baseline":
        element(parent, "rect", "marker", x=x - r, y=y - r, width=2 * r, height=2 * r)
    elif role == "final":
        r *= 1.5
        corners = f"{x:.1f},{y - r:.1f} {x + r:.1f},{y:.1f} {x:.1f},{y + r:.1f} {x - r:.1f},{y:.1f}"
        element(parent, "polygon", "marker", points=corners)
    else:
        element(parent, "circle", "marker", cx=x, cy=y, r=r)


def legend_marker(role: str) -> Markup:
    """A marker on its own, for a legend beside the picture."""
    canvas = ET.Element("svg", {"viewBox": "0 0 18 18", "aria-hidden": "true"})
    marker(ET.SubElement(canvas, "g", {"class": f"point {role}"}), role, 9, 9, 5.5)
    return markup(canvas)


def markup(canvas: ET.Element) -> Markup:
    """The element as text that a template may take over unescaped."""
    return Markup(ET.tostring(canvas, encoding="unicode"))

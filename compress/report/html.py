"""The report as one HTML page that needs no network, and no script to be read.

Every text of the report is escaped: by Jinja2 in the page, by ElementTree in the pictures. A
Content-Security-Policy in the page forbids loading anything, and running any script but the one
that sorts the tables, which it names by its hash.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Callable, Mapping
from functools import cache
from importlib.resources import files
from typing import Any

import yaml
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from compress.report import tables
from compress.report.bars import speed_axis, speed_scale, step_bar
from compress.report.batch_sizes import SizePicture, batch_pictures, length_pictures
from compress.report.branches import branch_steps
from compress.report.drawing import legend_marker
from compress.report.formatting import fact, size
from compress.report.gains import call_sizes, report_metric
from compress.report.gate_table import gate_table
from compress.report.highlights import LABELLED_AT_MOST
from compress.report.limits import PAGE_AT_MOST, cut, fits_at_first, left_out, with_short_texts
from compress.report.pictures import (
    NAMED_AT_MOST,
    Width,
    accuracy_against_latency,
)
from compress.report.points import labelled, outside_picture, picture_points
from compress.report.profile_section import profile_section
from compress.report.ratios import ratio_picture
from compress.report.schema import Report
from compress.report.sensitivity_section import sensitivity_section
from compress.report.timings import timings_table
from compress.report.verdict import key_figures, verdict
from compress.report.workers import ROWS_AT_MOST, worker_picture


def render_html(report: Report) -> str:
    """The page as text, below 1 MB; the same report always gives the same page.

    What does not fit is left out and named: arms beside the Pareto front, then the ends of texts.
    """
    arms, letters = fits_at_first(report), 2_000
    shown = cut(report, arms)
    page = _page(shown, left_out(report, shown))
    while len(page.encode()) >= PAGE_AT_MOST and letters:
        shown = with_short_texts(cut(report, arms), letters)
        page = _page(shown, left_out(report, shown) or "Long texts end early; report.json has all.")
        arms, letters = max(20, arms // 2), letters // 4
    return page


def _page(report: Report, left_out: str) -> str:
    branches = branch_steps(report)
    axis, points = speed_axis(branches), picture_points(report)
    return (
        environment()
        .get_template("report.html.jinja")
        .render(
            report=report,
            left_out=left_out,
            verdict=verdict(report),
            figures=key_figures(report),
            metric=report_metric(report),
            size=next(iter(call_sizes(report)), None),
            pictures=_both(accuracy_against_latency, report),
            size_pictures=_size_pictures(report),
            workers=_both(worker_picture, report),
            ratios=_both(ratio_picture, report),
            timed=sum(bool(arm.latency) for arm in report.arms),
            labelled_at_most=LABELLED_AT_MOST,
            rows_at_most=ROWS_AT_MOST,
            script=_script(),
            script_hash=_hash(_script()),
            points=points,
            keys=labelled(points),
            outside=outside_picture(report),
            keyed=len(points) > NAMED_AT_MOST,
            branches=branches if axis else [],
            axis=axis,
            gate=gate_table(report),
            arms=tables.arms_table(report).without_empty_columns(),
            candidates=tables.candidates_table(report),
            operators=tables.operators_table(report),
            timings=timings_table(report),
            metrics=tables.metrics_table(report),
            profile=profile_section(report),
            sensitivity=sensitivity_section(report),
            machine=facts(report.machine),
            measurement=facts(report.measurement),
            recipe=recipe_text(report),
        )
    )


def _size_pictures(report: Report) -> dict[str, list[SizePicture]]:
    """What latency and throughput are drawn against, to the pictures."""
    found = {"batch size": batch_pictures(report), "length": length_pictures(report)}
    return {name: pictures for name, pictures in found.items() if pictures}


def _both(draw: Callable[[Report, Width], Markup], report: Report) -> dict[str, Markup]:
    """A picture for a screen and one for a phone."""
    return {"wide": draw(report, "wide"), "narrow": draw(report, "narrow")}


@cache
def _script() -> Markup:
    return Markup((files("compress.report") / "templates" / "sort.js").read_text("utf-8"))


def _hash(script: str) -> str:
    """As a Content-Security-Policy names a script that may run."""
    digest = hashlib.sha256(script.encode()).digest()
    return f"sha256-{base64.b64encode(digest).decode()}"


def facts(values: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The free-form parts of a report as pairs of name and text."""
    return [_named_fact(name, value) for name, value in values.items()]


def _named_fact(name: str, value: Any) -> tuple[str, str]:
    if name.endswith("_bytes") and isinstance(value, int):
        return name.removesuffix("_bytes").replace("_", " "), size(value)
    return name.replace("_", " "), fact(value)


def tied(text: str) -> str:
    """The text with every unit tied to its figure, so that no line breaks between the two."""
    return re.sub(r"(?<=\d) (?=(?:×|%|ms|s|B|kB|MB|GB|points?|threads?)(?!\w))", "\u00a0", text)


def recipe_text(report: Report) -> str:
    """The recipe as YAML, or an empty string where there is none."""
    if not report.recipe:
        return ""
    plain = report.model_dump(mode="json")["recipe"]
    return yaml.safe_dump(plain, sort_keys=False, allow_unicode=True, width=88)


def environment() -> Environment:
    """What renders every page: escaped, and without a variable that is not there."""
    environment = Environment(
        loader=PackageLoader("compress.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["tied"] = tied
    environment.globals.update(
        step_bar=step_bar, speed_scale=speed_scale, legend_marker=legend_marker
    )
    return environment

"""The report as one HTML page that needs no network and no script.

Every text of the report is escaped: by Jinja2 in the page, by ElementTree in the pictures. A
Content-Security-Policy in the page forbids loading and running anything.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import yaml
from jinja2 import Environment, PackageLoader, StrictUndefined

from compress.report import tables
from compress.report.bars import speed_axis, speed_scale, step_bar
from compress.report.branches import branch_steps
from compress.report.drawing import legend_marker
from compress.report.formatting import fact, size
from compress.report.gains import batches, report_metric
from compress.report.gate_table import gate_table
from compress.report.pictures import (
    NAMED_AT_MOST,
    accuracy_against_latency,
    outside_picture,
    picture_points,
)
from compress.report.schema import Report
from compress.report.verdict import key_figures, verdict


def render_html(report: Report) -> str:
    """The whole page as text; the same report always gives the same page."""
    branches = branch_steps(report)
    axis, points = speed_axis(branches), picture_points(report)
    return (
        environment()
        .get_template("report.html.jinja")
        .render(
            report=report,
            verdict=verdict(report),
            figures=key_figures(report),
            metric=report_metric(report),
            batch=next(iter(batches(report)), None),
            pictures={
                "wide": accuracy_against_latency(report, "wide"),
                "narrow": accuracy_against_latency(report, "narrow"),
            },
            points=points,
            outside=outside_picture(report),
            keyed=len(points) > NAMED_AT_MOST,
            branches=branches if axis else [],
            axis=axis,
            gate=gate_table(report),
            arms=tables.arms_table(report).without_empty_columns(),
            candidates=tables.candidates_table(report),
            operators=tables.operators_table(report),
            timings=tables.timings_table(report),
            metrics=tables.metrics_table(report),
            machine=facts(report.machine),
            measurement=facts(report.measurement),
            recipe=recipe_text(report),
        )
    )


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

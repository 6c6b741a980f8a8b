"""The section "sensitivity": which candidates have one, its picture, its table and its words."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from compress.report.formatting import plural
from compress.report.schema import Candidate, Report
from compress.report.sensitivity_picture import (
    Layer,
    divergence_text,
    legend,
    lines,
    sensitivity_bar,
)
from compress.report.sensitivity_schema import Sensitivity
from compress.report.tables import Cell, Column, Table

#: So many of the most sensitive layers are shown; report.json has them all.
MOST_LAYERS = 60
#: So many candidates are shown, those that were kept first.
MOST_CANDIDATES = 4

_MEASURES = {
    "relative error": "the relative error (L2) of the outputs",
    "KL divergence": "the KL divergence of the classes' probabilities, in nats,",
}


@dataclass(frozen=True)
class ShownSensitivity:
    """One candidate's layers."""

    title: str
    sentences: list[str]
    bars: list[tuple[Layer, Markup]]
    legend: list[tuple[Markup, str]]
    table: Table


def sensitivity_section(report: Report) -> list[ShownSensitivity]:
    """One for each candidate that was chosen by sensitivity."""
    found = [entry for entry in report.candidates if entry.sensitivity]
    found.sort(key=lambda entry: not entry.kept)
    return [_shown(entry) for entry in found[:MOST_CANDIDATES]]


def _shown(candidate: Candidate) -> ShownSensitivity:
    entries = candidate.sensitivity[:MOST_LAYERS]
    drawn = lines(entries)
    return ShownSensitivity(
        title=f"{candidate.stage}, {candidate.name}",
        sentences=sentences(candidate.sensitivity),
        bars=[(line, sensitivity_bar(line)) for line in drawn],
        legend=legend(drawn),
        table=sensitivity_table(entries),
    )


def sentences(entries: Sequence[Sensitivity]) -> list[str]:
    """What is shown, how many layers stay in fp32, and how many are not shown."""
    left = sum(entry.fp32 for entry in entries)
    found = [
        f"For each layer {_MEASURES[entries[0].measure]} against those in fp32, when nothing but "
        "this layer is int8.",
        f"{left} of {plural(len(entries), 'layer')} {'stays' if left == 1 else 'stay'} in fp32."
        if left
        else "No layer stays in fp32.",
    ]
    if len(entries) > MOST_LAYERS:
        more = len(entries) - MOST_LAYERS
        found.append(f"{plural(more, 'less sensitive layer')} more are in report.json.")
    return found


def sensitivity_table(entries: Sequence[Sensitivity]) -> Table:
    """Name, operator, divergence and precision of every layer given."""
    columns = [
        Column("Layer", numeric=False, brief=True),
        Column("Operator", numeric=False, brief=True),
        Column("Divergence", entries[0].measure if entries else "", brief=True),
        Column("Precision", numeric=False, brief=True),
    ]
    rows = [
        [
            Cell(entry.name, (plural(entry.nodes, "node"),) if entry.nodes > 1 else ()),
            Cell(entry.operator),
            Cell(divergence_text(entry), sort=entry.divergence),
            Cell("fp32" if entry.fp32 else "int8"),
        ]
        for entry in entries
    ]
    return Table(columns, rows)

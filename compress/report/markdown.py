"""The report in short as Markdown, for a job summary or a pull request."""

from __future__ import annotations

import re

from compress.report import tables
from compress.report.gate_table import gate_table
from compress.report.schema import Report
from compress.report.tables import Cell, Table
from compress.report.verdict import Verdict, verdict

_MARKS = {"proven": "✅", "met": "☑️", "missed": "❌", "none": "ℹ️"}


def render_markdown(report: Report) -> str:
    """Verdict, arms, candidates, notes and the command, ending in a newline."""
    said = verdict(report)
    parts = [f"# {escape(report.title)}", _headline(report, said)]
    if said.explanation:
        parts.append(escape(said.explanation))
    if report.gate is not None:
        parts.append(_table(gate_table(report)))
    parts.append(_table(tables.arms_table(report).without_empty_columns(brief=True)))
    if report.candidates:
        parts += ["## Candidates", _table(tables.candidates_table(report))]
    if report.notes:
        parts += ["## Notes", "\n".join(f"- {escape(note)}" for note in report.notes)]
    parts += ["## Repeat it", _code(report.command)]
    parts.append(f"compress {escape(report.tool_version)}, {escape(report.created)}")
    return "\n\n".join(parts) + "\n"


def _headline(report: Report, said: Verdict) -> str:
    label = f"{said.label}. " if report.gate else ""
    return f"{_MARKS[said.status]} **{escape(label + said.sentence)}**"


def escape(text: str) -> str:
    """A text as one line in which Markdown and HTML see no markup, also inside a table."""
    line = " ".join(text.split())
    line = line.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    line = re.sub(r"([\\`*\[\]|~])", r"\\\1", line)
    return re.sub(r"(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])|^(?=[#+-])", _backslashed, line)


def _backslashed(found: re.Match[str]) -> str:
    return "\\" + found.group()


def _table(table: Table) -> str:
    heads = [
        f"{column.heading} ({column.note})" if column.note else column.heading
        for column in table.columns
    ]
    rule = ["---:" if column.numeric else ":---" for column in table.columns]
    rows = [[_cell(cell) for cell in row] for row in table.rows]
    lines = [[escape(head) for head in heads], rule, *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _cell(cell: Cell) -> str:
    shown = [escape(cell.text)] if cell.text else []
    shown += [f"**{escape(tag)}**" for tag in cell.tags]
    figure = " ".join(shown)
    return "<br>".join([figure, *(escape(note) for note in cell.notes)])


def _code(text: str) -> str:
    """A fenced block whose fence is longer than any run of backticks inside."""
    longest = max((len(run) for run in re.findall(r"`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}sh\n{text}\n{fence}"

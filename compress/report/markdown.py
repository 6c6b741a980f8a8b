"""The report in short as Markdown, for a job summary or a pull request."""

from __future__ import annotations

import re
from collections.abc import Callable

from compress.report import profile_tables, tables
from compress.report.fitting import LIMIT, Section, fitted, size
from compress.report.formatting import plural
from compress.report.gate_table import gate_table
from compress.report.profile_section import shown_arms
from compress.report.schema import Report
from compress.report.sensitivity_section import sensitivity_section
from compress.report.tables import Cell, Table
from compress.report.verdict import Verdict, verdict

_MARKS = {"proven": "✅", "met": "☑️", "missed": "❌", "none": "ℹ️"}
#: Characters that one text keeps where the whole would be too long.
_KEPT = 500
#: Tags of the rows that a table keeps to the last.
_PINNED = frozenset({"baseline", "final", "regressed"})


def render_markdown(report: Report, limit: int = LIMIT) -> str:
    """Verdict, arms, candidates, profiles, notes and the command, ending in a newline.

    What would be longer than `limit` bytes loses rows, from the least important table first, and
    says how many; texts of more than 500 characters are then shortened as well.
    """
    sections = _sections(report, lambda text: text)
    if size(sections) > limit:
        sections = _sections(report, shortened)
    return fitted(sections, limit)


def _sections(report: Report, text: Callable[[str], str]) -> list[Section]:
    said = verdict(report)
    found = [Section(f"# {escape(text(report.title))}"), Section(_headline(report, said, text))]
    if said.explanation:
        found.append(Section(escape(text(said.explanation))))
    if report.gate is not None:
        found.append(table_section(gate_table(report), text, rank=4, what="comparison"))
    arms = tables.arms_table(report).without_empty_columns(brief=True)
    found.append(table_section(arms, text, rank=3, what="arm"))
    if report.candidates:
        found.append(Section("## Candidates"))
        candidates = tables.candidates_table(report)
        found.append(table_section(candidates, text, rank=1, what="candidate"))
    for shown in sensitivity_section(report):
        found.append(Section(f"## Sensitivity: {escape(text(shown.title))}"))
        found.append(Section(escape(text(" ".join(shown.sentences)))))
        found.append(table_section(shown.table, text, rank=0, what="layer"))
    found += _profiles(report, text)
    if report.notes:
        notes = [f"- {escape(text(note))}" for note in report.notes]
        found += [Section("## Notes"), Section("", notes, rank=2, what="note")]
    found += [Section("## Repeat it"), Section(_code(text(report.command)))]
    found.append(Section(f"compress {escape(text(f'{report.tool_version}, {report.created}'))}"))
    return found


def _profiles(report: Report, text: Callable[[str], str]) -> list[Section]:
    """Where the time goes: operators, the slowest nodes, and what two profiles differ in."""
    found: list[Section] = []
    for arm in shown_arms(report):
        assert arm.profile is not None
        operators = profile_tables.operators_table(arm.profile).without_empty_columns(brief=True)
        nodes = profile_tables.nodes_table(arm.profile).without_empty_columns(brief=True)
        count = len(arm.profile.nodes)
        slowest = f"The slowest {len(nodes.rows)} of {plural(count, 'node')}:"
        found += [
            Section(f"### {escape(text(arm.name))}"),
            Section(escape(" ".join(profile_tables.sentences(arm.profile)))),
        ]
        if count:
            found += [
                table_section(operators, text, rank=1, what="operator"),
                Section(slowest if len(nodes.rows) < count else "Every node:"),
                table_section(nodes, text, rank=0, what="node"),
            ]
    for pair in profile_tables.compared(report):
        difference = profile_tables.difference_table(pair).without_empty_columns(brief=True)
        found += [
            Section(f"### {escape(text(f'{pair.after_name} against {pair.before_name}'))}"),
            table_section(difference, text, rank=1, what="operator"),
        ]
    return [Section("## Where the time goes"), *found] if found else []


def shortened(text: str) -> str:
    """At most 500 characters of a text."""
    return text if len(text) <= _KEPT else f"{text[:_KEPT]}…"


def _headline(report: Report, said: Verdict, text: Callable[[str], str]) -> str:
    label = f"{said.label}. " if report.gate else ""
    return f"{_MARKS[said.status]} **{escape(text(label + said.sentence))}**"


def escape(text: str) -> str:
    """A text as one line in which Markdown and HTML see no markup, also inside a table."""
    line = " ".join(text.split())
    line = line.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    line = re.sub(r"([\\`*\[\]|~])", r"\\\1", line)
    return re.sub(r"(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])|^(?=[#+-])", _backslashed, line)


def _backslashed(found: re.Match[str]) -> str:
    return "\\" + found.group()


def table_section(table: Table, text: Callable[[str], str], *, rank: int, what: str) -> Section:
    """A table whose last rows may be left out.

    Args:
        text: what becomes of every text before it is written.
        rank, what: see `Section`.
    """
    heads = [
        f"{column.heading} ({column.note})" if column.note else column.heading
        for column in table.columns
    ]
    rule = ["---:" if column.numeric else ":---" for column in table.columns]
    head = "\n".join([_line([escape(text(head)) for head in heads]), _line(rule)])
    rows = [_line([_cell(cell, text) for cell in row]) for row in table.rows]
    pinned = {
        line
        for line, row in zip(rows, table.rows, strict=True)
        if any(_PINNED & set(cell.tags) for cell in row)
    }
    return Section(head, rows, rank, what, frozenset(pinned))


def _line(cells: list[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _cell(cell: Cell, text: Callable[[str], str]) -> str:
    shown = [escape(text(cell.text))] if cell.text else []
    shown += [f"**{escape(tag)}**" for tag in cell.tags]
    figure = " ".join(shown)
    return "<br>".join([figure, *(escape(text(note)) for note in cell.notes)])


def _code(text: str) -> str:
    """A fenced block whose fence is longer than any run of backticks inside."""
    longest = max((len(run) for run in re.findall(r"`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}sh\n{text}\n{fence}"

"""The report in short as Markdown, for a job summary or a pull request."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field

from compress.report import tables
from compress.report.formatting import plural
from compress.report.gate_table import gate_table
from compress.report.schema import Report
from compress.report.tables import Cell, Table
from compress.report.verdict import Verdict, verdict

_MARKS = {"proven": "✅", "met": "☑️", "missed": "❌", "none": "ℹ️"}


#: Bytes; a step's summary on GitHub holds 1 MiB, and something else may stand in it as well.
LIMIT = 960 * 1024
#: Characters that one text keeps where the whole would be too long.
_KEPT = 500
#: Tags of the rows that a table keeps to the last.
_PINNED = frozenset({"baseline", "final", "regressed"})


def render_markdown(report: Report, limit: int = LIMIT) -> str:
    """Verdict, arms, candidates, notes and the command, ending in a newline.

    What would be longer than `limit` bytes loses rows, from the least important table first, and
    says how many; texts of more than 500 characters are then shortened as well.
    """
    sections = _sections(report, lambda text: text)
    if _length(sections) > limit:
        sections = _sections(report, _shortened)
    for section in sorted(sections, key=lambda section: section.rank):
        excess = _length(sections) - limit
        if excess > 0:
            section.cut(excess)
    return _joined(sections)


@dataclass
class _Section:
    """A part of the page: what opens it, and its rows, of which the last may be left out.

    Attributes:
        rank: which section loses rows first.
        pinned: rows that are left out only when all others of the section are.
        what: what one row is called where some are left out; sections without rows are kept.
    """

    head: str
    rows: list[str] = field(default_factory=list)
    rank: int = 0
    what: str = ""
    pinned: frozenset[str] = frozenset()
    left_out: int = 0

    def text(self) -> str:
        lines = "\n".join([self.head, *self.rows])
        if not self.left_out:
            return lines
        shown = "are" if self.left_out > 1 else "is"
        return (
            f"{lines}\n\n*{plural(self.left_out, self.what)} more {shown} left out here; "
            "report.html and report.json have all of them.*"
        )

    def cut(self, excess: int) -> None:
        """Drop rows from the end until so many bytes are gone, the line that says so included."""
        gone, order = -256, range(len(self.rows) - 1, -1, -1)
        dropped: set[int] = set()
        for place in sorted(order, key=lambda place: self.rows[place] in self.pinned):
            if gone >= excess:
                break
            gone += _bytes(self.rows[place]) + 1
            dropped.add(place)
        self.rows = [row for place, row in enumerate(self.rows) if place not in dropped]
        self.left_out += len(dropped)


def _sections(report: Report, text: Callable[[str], str]) -> list[_Section]:
    said = verdict(report)
    found = [_Section(f"# {escape(text(report.title))}"), _Section(_headline(report, said, text))]
    if said.explanation:
        found.append(_Section(escape(text(said.explanation))))
    if report.gate is not None:
        found.append(_table_section(gate_table(report), text, rank=4, what="comparison"))
    arms = tables.arms_table(report).without_empty_columns(brief=True)
    found.append(_table_section(arms, text, rank=3, what="arm"))
    if report.candidates:
        found.append(_Section("## Candidates"))
        candidates = tables.candidates_table(report)
        found.append(_table_section(candidates, text, rank=1, what="candidate"))
    if report.notes:
        notes = [f"- {escape(text(note))}" for note in report.notes]
        found += [_Section("## Notes"), _Section("", notes, rank=2, what="note")]
    found += [_Section("## Repeat it"), _Section(_code(text(report.command)))]
    found.append(_Section(f"compress {escape(text(f'{report.tool_version}, {report.created}'))}"))
    return found


def _joined(sections: list[_Section]) -> str:
    return "\n\n".join(section.text().lstrip("\n") for section in sections) + "\n"


def _length(sections: list[_Section]) -> int:
    return _bytes(_joined(sections))


def _bytes(text: str) -> int:
    return len(text.encode())


def _shortened(text: str) -> str:
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


def _table_section(table: Table, text: Callable[[str], str], *, rank: int, what: str) -> _Section:
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
    return _Section(head, rows, rank, what, frozenset(pinned))


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

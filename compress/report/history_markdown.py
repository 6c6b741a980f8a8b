"""A history in short as Markdown, for a job summary."""

from __future__ import annotations

from compress.report.fitting import LIMIT, Section, fitted
from compress.report.formatting import plural
from compress.report.history_schema import History
from compress.report.history_words import overview, summary
from compress.report.markdown import escape, shortened, table_section

_MARKS = {"proven": "✅", "met": "⚠️", "none": "ℹ️"}
_WHERE = "history.html and history.json have"
#: Titles that are shown, for a heading cannot be left out of its section.
_MOST = 100


def render_history_markdown(history: History, limit: int = LIMIT) -> str:
    """Each figure's first and last value and its changes of level, at most `limit` bytes."""
    sentence, status = summary(history)
    sections = [Section("# History"), Section(f"{_MARKS[status]} **{sentence}**")]
    shown = history.subjects[:_MOST]
    # The subjects that come last are the first to lose rows.
    for place, subject in enumerate(shown):
        sections.append(Section(f"## {escape(shortened(subject.title))}"))
        rank = 10 + len(shown) - place
        table = table_section(overview(subject), shortened, rank=rank, what="figure")
        table.where = _WHERE
        sections.append(table)
    if len(history.subjects) > len(shown):
        rest = plural(len(history.subjects) - len(shown), "title")
        sections.append(Section(f"*{rest} more: {_WHERE} all.*"))
    machines = [f"- {key}: {escape(shortened(words))}" for key, words in history.machines.items()]
    notes = [f"- {escape(note)}" for note in history.notes]
    skipped = [f"- {escape(shortened(line))}" for line in history.skipped]
    for head, rows, rank, what in (
        ("## Machines", machines, 3, "machine"),
        ("## Notes", notes, 4, "note"),
        ("## Skipped", skipped, 1, "file"),
    ):
        if rows:
            sections += [Section(head), Section("", rows, rank, what, where=_WHERE)]
    sections.append(Section(f"compress {escape(history.tool_version)}"))
    return fitted(sections, limit)

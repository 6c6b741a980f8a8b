"""Sections of a text that has to stay below a size: the least important ones lose rows first."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from compress.report.formatting import plural

#: Bytes; a step's summary on GitHub holds 1 MiB, and something else may stand in it as well.
LIMIT = 960 * 1024
#: Room for the sentence that says what was left out.
_SENTENCE = 256


@dataclass
class Section:
    """A part of the text: what opens it, and its rows, of which some may be left out.

    Attributes:
        rank: which section loses rows first.
        what: what one row is called.
        pinned: rows that are left out only when all others of the section are.
        where: what holds all rows.
    """

    head: str
    rows: list[str] = field(default_factory=list)
    rank: int = 0
    what: str = ""
    pinned: frozenset[str] = frozenset()
    where: str = "report.html and report.json have"
    left_out: int = 0

    def text(self) -> str:
        """The section, and a sentence on what was left out."""
        lines = "\n".join(line for line in (self.head, *self.rows) if line)
        if not self.left_out:
            return lines
        are = "are" if self.left_out > 1 else "is"
        said = f"*{plural(self.left_out, self.what)} more {are} left out here; {self.where} all.*"
        return f"{lines}\n\n{said}".lstrip("\n")

    def cut(self, excess: int) -> None:
        """Leave out rows, the last ones first, until so many bytes are gone."""
        gone, dropped = -_SENTENCE, set[int]()
        order = range(len(self.rows) - 1, -1, -1)
        for place in sorted(order, key=lambda place: self.rows[place] in self.pinned):
            if gone >= excess:
                break
            gone += len(self.rows[place].encode()) + 1
            dropped.add(place)
        self.rows = [row for place, row in enumerate(self.rows) if place not in dropped]
        self.left_out += len(dropped)


def fitted(sections: list[Section], limit: int) -> str:
    """All sections as one text; where that is longer than `limit` bytes, rows are left out."""
    excess = size(sections) - limit
    for section in sorted(sections, key=lambda section: section.rank):
        if excess <= 0:
            break
        before = size([section])
        section.cut(excess)
        excess -= before - size([section])
    return _joined(sections)


def size(sections: Iterable[Section]) -> int:
    """Bytes of all sections as one text."""
    return len(_joined(sections).encode())


def _joined(sections: Iterable[Section]) -> str:
    return "\n\n".join(section.text() for section in sections) + "\n"

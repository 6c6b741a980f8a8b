"""How long work tells how far it is, without knowing whether anybody looks."""

from __future__ import annotations

from collections.abc import Callable

#: Called with what is being done, the steps done and the steps in all.
Progress = Callable[[str, int, int], None]


def quiet(label: str, done: int, total: int) -> None:
    """The progress callback of whoever does not want one."""

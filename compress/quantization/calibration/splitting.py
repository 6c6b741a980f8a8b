"""What is run at once: parts of a batch, so that what is looked at keeps within a budget."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnxruntime as ort

from compress.errors import InputError
from compress.runtime.interface import Feeds, fill
from compress.runtime.onnxruntime import check_feeds

#: What a row may need more than one of a run that is known, before it is tried by itself.
_GROWTH = 2.0


@dataclass(frozen=True)
class Run:
    """What is run at once.

    Attributes:
        feeds: one array for each of the model's inputs.
        rows: samples; further rows of `feeds` only fill it up.
        bytes: of all tensors that are looked at, about; None where that has to be learned first.
        trial: the first row alone, of a batch that may be too large; a model may refuse it.
    """

    feeds: Feeds
    rows: int
    bytes: int | None
    trial: bool = False

    @property
    def filled(self) -> int:
        """Rows with those that fill it up."""
        return len(self.feeds[0]) if self.feeds and self.feeds[0].ndim else self.rows


class Splitter:
    """Cuts the batches of one model.

    How a batch is cut follows from the budget and from what was learned of earlier runs; not from
    how many runs are under way, so that results do not depend on that either.
    """

    def __init__(self, source: Path, inputs: Sequence[ort.NodeArg], budget: int) -> None:
        """Nothing is learned yet.

        Args:
            source: of the model, for messages.
            inputs: of its session.
            budget: bytes of all tensors in one run; a single sample may need more.
        """
        self._source, self._inputs, self._budget = source, inputs, budget
        #: By rows and elements of a row, the bytes of a run.
        self._known: dict[tuple[int, float], int] = {}
        self._refused: set[float] = set()

    def learn(self, run: Run, needed: int | None) -> None:
        """Note the bytes of a run whose `bytes` were None; None for a trial that failed."""
        rows, elements = _size(run.feeds)
        if needed is None:
            self._refused.add(elements)
        else:
            self._known[rows, elements] = needed

    def check(self, feeds: Feeds, number: int) -> None:
        """Raise ShapeMismatch, or InputError, for a batch that the model cannot be given."""
        size = self._fixed_batch(feeds)
        fits = size and all(len(feed) for feed in feeds)
        check_feeds(
            self._source, self._inputs, tuple(fill(feed, size) for feed in feeds) if fits else feeds
        )
        for entry, feed in zip(self._inputs, feeds, strict=True):
            if feed.dtype.kind == "f" and not np.isfinite(feed).all():
                raise InputError(
                    f"{self._source}: input '{entry.name}' holds NaN or infinity in calibration "
                    f"batch {number}; remove such samples from the data."
                )

    def runs(self, feeds: Feeds) -> Iterator[Run]:
        """All runs of a batch; one whose bytes are None has to be learned of before the next."""
        rows = len(feeds[0]) if feeds and feeds[0].ndim else 1
        if not rows:
            return
        fixed, done = self._fixed_batch(feeds), 0
        if not fixed and (rows == 1 or not self._splits(feeds)):
            yield Run(feeds, rows, self._bytes(feeds))
            return
        if not fixed and self._is_new(feeds):
            yield Run(tuple(feed[:1] for feed in feeds), 1, None, trial=True)
            done = int(self._bytes(feeds) is not None)  # else it was refused
        step = fixed or self._rows_at_once(feeds)
        for at in range(done, rows, step):
            part = tuple(feed[at : at + step] for feed in feeds)
            given = tuple(fill(feed, step) for feed in part) if fixed else part
            yield Run(given, len(part[0]), self._bytes(given))

    def _fixed_batch(self, feeds: Feeds) -> int:
        """The batch size that the file was written for; 0 where it takes any."""
        firsts = {entry.shape[0] if entry.shape else None for entry in self._inputs}
        first = firsts.pop() if len(firsts) == 1 and _alike(feeds) else None
        return first if isinstance(first, int) else 0

    def _splits(self, feeds: Feeds) -> bool:
        """Whether a part of the rows is a smaller batch."""
        sizes = [size for entry in self._inputs for size in entry.shape[:1]]
        return _alike(feeds) and not any(isinstance(size, int) for size in sizes)

    def _is_new(self, feeds: Feeds) -> bool:
        """Whether a row of these is to be tried by itself."""
        return self._bytes(feeds) is None and _size(feeds)[1] not in self._refused

    def _rows_at_once(self, feeds: Feeds) -> int:
        """As many rows as keep within the budget; all where the model takes no single one."""
        rows, elements = _size(feeds)
        needed = self._bytes(feeds)
        if needed is None or elements in self._refused:
            return rows
        return max(1, self._budget * rows // max(1, needed))

    def _bytes(self, feeds: Feeds) -> int | None:
        """Of a run, from one whose rows are as large: what attention makes grows as the square."""
        rows, elements = _size(feeds)
        found = []
        for (known_rows, known_elements), needed in self._known.items():
            growth = max(1.0, elements / known_elements) ** 2
            if growth <= _GROWTH:
                found.append(math.ceil(needed * rows / known_rows * growth))
        return min(found, default=None)


def _alike(feeds: Feeds) -> bool:
    """Whether all arrays have as many rows."""
    return all(feed.ndim for feed in feeds) and len({len(feed) for feed in feeds}) == 1


def _size(feeds: Feeds) -> tuple[int, float]:
    """Rows, and elements of a row; one row where that is not told apart."""
    rows = len(feeds[0]) if feeds and _alike(feeds) else 1
    return rows, max(1, sum(feed.size for feed in feeds)) / rows

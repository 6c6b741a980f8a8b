"""A histogram of fixed size whose range grows: counts stay exact, and so do the bins' edges."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

#: Below this power of two a value counts as one next to zero; its reciprocal still fits fp32.
_LEAST_EXPONENT = -100
#: Values that are counted at once, so that all steps find them in the cache; `np.histogram` takes
#: 2.7 times as long.
_AT_ONCE = 2**15


class Histogram:
    """Counts in bins of equal width on both sides of zero, up to a limit that is a power of two.

    A value beyond the limit doubles it until the value fits, and pairs of bins become one. Zero
    stays an edge and no count crosses an edge, so that the result depends neither on the order nor
    on the parts in which values were added. The limit is at most twice the largest magnitude: at
    least half of the bins of a side are in use. (fp32 has its own limit: beside one of 2^100, a
    value of 2^-30 counts as zero.)

    Attributes:
        counts: (2 · bins,), int64; the first half is below zero. A bin holds its lower edge.
        limit: upper edge of the last bin, more than every magnitude; 0 while there are only zeros.
    """

    def __init__(self, bins: int = 2048) -> None:
        """An empty one.

        Args:
            bins: of each side, a power of two.
        """
        if bins < 2 or bins & (bins - 1):
            raise ValueError(f"{bins} bins; expected a power of two, such as 2048")
        self.counts = np.zeros(2 * bins, dtype=np.int64)
        self.limit = 0.0

    @property
    def bins(self) -> int:
        """Of each side of zero."""
        return len(self.counts) // 2

    @property
    def width(self) -> float:
        """Of a bin."""
        return self.limit / self.bins

    @property
    def edges(self) -> npt.NDArray[np.float64]:
        """(2 · bins + 1,), ascending."""
        return np.arange(-self.bins, self.bins + 1, dtype=np.float64) * np.float64(self.width)

    def add(self, values: Array, magnitude: float | None = None, times: int = 1) -> None:
        """Count values.

        Args:
            values: (n,), finite floating-point numbers.
            magnitude: the largest, where it is known already, also of others than these.
            times: how often each counts, where it stands for others.
        """
        if not values.size:
            return
        if magnitude is None:
            magnitude = max(-float(values.min()), float(values.max()))
        self.grow(magnitude)
        # Scaling by a power of two is exact, so that an edge falls between the same two values
        # whatever the limit was when they came.
        scale = np.float32(self.bins / self.limit if self.limit else 0.0)
        room = min(values.size, _AT_ONCE)
        scaled, indices = np.empty(room, np.float32), np.empty(room, np.int32)
        for at in range(0, values.size, room):
            part = values[at : at + room]
            places, found = scaled[: part.size], indices[: part.size]
            np.multiply(part, scale, out=places, dtype=np.float32)
            np.floor(places, out=places)
            found[:] = places  # numpy converts to 32 bits, and those to 64, faster than to 64
            found += self.bins
            seen = np.bincount(found, minlength=len(self.counts))
            self.counts += seen if times == 1 else seen * times

    def grow(self, magnitude: float) -> None:
        """Make room for values of this magnitude."""
        if magnitude < self.limit or not magnitude:
            return
        limit = math.ldexp(1.0, max(math.frexp(magnitude)[1], _LEAST_EXPONENT))
        if self.limit and limit > self.limit:
            self._merge_bins(limit / self.limit)
        self.limit = max(limit, self.limit)

    def _merge_bins(self, factor: float) -> None:
        bins, merged = self.bins, int(min(factor, self.bins))
        kept = bins // merged
        sums = self.counts.reshape(-1, merged).sum(axis=1)
        self.counts = np.zeros_like(self.counts)
        self.counts[bins - kept : bins + kept] = sums

    def merge(self, other: Histogram) -> None:
        """Add the counts of another one with as many bins, as if its values had been added here."""
        if other.limit > self.limit:
            self.grow(other.limit / 2)
        counts = other.counts
        if self.limit > other.limit > 0:
            widened = Histogram(other.bins)
            widened.counts, widened.limit = other.counts.copy(), other.limit
            widened.grow(self.limit / 2)
            counts = widened.counts
        self.counts += counts

    @property
    def mean(self) -> float:
        """Of all values, each taken to be the centre of its bin; 0 for none."""
        return self._moment(1)

    @property
    def power(self) -> float:
        """Mean of all squares, each value taken to be the centre of its bin; 0 for none."""
        return self._moment(2)

    def _moment(self, order: int) -> float:
        centres = self.edges[:-1] + self.width / 2
        return float(self.counts @ centres**order) / max(1, int(self.counts.sum()))

    def positive(self) -> Histogram:
        """The histogram of max(value, 0), which is what ReLU gives."""
        found = Histogram(self.bins)
        found.limit = self.limit
        found.counts[self.bins :] = self.counts[self.bins :]
        found.counts[self.bins] += self.counts[: self.bins].sum()
        return found

"""Axes of a picture: from values to pixels, with round ticks."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

#: First digits of the ticks within a decade, from coarse to fine.
_LEADS = (
    (1.0,),
    (1.0, 3.0),
    (1.0, 2.0, 5.0),
    (1.0, 1.5, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0),
    tuple(tenth / 10 for tenth in range(10, 100)),
)


@dataclass(frozen=True)
class Axis:
    """Maps values between `low` and `high` to pixels between `start` and `end`."""

    low: float
    high: float
    start: float
    end: float
    ticks: tuple[float, ...]
    logarithmic: bool = False

    def within(self, low: float, high: float) -> tuple[float, ...]:
        """The ticks between two values."""
        return tuple(tick for tick in self.ticks if low <= tick <= high)

    def __call__(self, value: float) -> float:
        scale: Callable[[float], float] = math.log10 if self.logarithmic else float
        low, high = scale(self.low), scale(self.high)
        return self.start + (scale(value) - low) / (high - low) * (self.end - self.start)


def linear_axis(values: Sequence[float], start: float, end: float, most: int = 6) -> Axis:
    """An axis around the values with at most `most` ticks at multiples of 1, 2 or 5."""
    low, high = min(values), max(values)
    if high - low < 1e-12 * max(1.0, abs(high)):
        low, high = low - 0.05 * (abs(low) or 1), high + 0.05 * (abs(high) or 1)
    step = _round_step((high - low) / (most - 1))
    low, high = low - 0.06 * (high - low), high + 0.08 * (high - low)
    first, last = math.ceil(low / step), math.floor(high / step)
    return Axis(low, high, start, end, tuple(index * step for index in range(first, last + 1)))


def log_axis(
    values: Sequence[float], start: float, end: float, *, margin: float = 1.6, most: int = 9
) -> Axis:
    """A logarithmic axis around positive values, `margin` times wider at either side."""
    low, high = min(values) / margin, max(values) * margin
    return Axis(low, high, start, end, log_ticks(low, high, most), logarithmic=True)


def log_ticks(low: float, high: float, most: int = 9) -> tuple[float, ...]:
    """Round values between two positive ones: the finest grid of which `most` at most fit."""
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    grids: list[tuple[range, tuple[float, ...]]] = []
    grids += [(decades[::stride], (1.0,)) for stride in (4, 3, 2)]
    grids += [(decades, leads) for leads in _LEADS]
    best: tuple[float, ...] = ()
    for steps, leads in grids:
        found = (lead * 10.0**decade for decade in steps for lead in leads)
        ticks = tuple(tick for tick in found if low <= tick <= high)
        if len(best) < len(ticks) <= most:
            best = ticks
    return best if len(best) > 2 or high > 3 * low else _even_ticks(low, high, most)


def _even_ticks(low: float, high: float, most: int) -> tuple[float, ...]:
    """Between values so close that round digits of a decade hardly occur: even steps."""
    return linear_axis((low, high), 0, 1, most - 1).within(low, high)


def _round_step(step: float) -> float:
    decade = 10.0 ** math.floor(math.log10(step))
    return next(lead * decade for lead in (1, 2, 5, 10) if lead * decade >= step * (1 - 1e-9))

"""Figures as people read them: units, significant digits, a true minus, a dash for "unknown"."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from compress.report.record import Interval

DASH = "–"
MINUS = "−"

_SHARES = (
    *("accuracy", "f1", "precision", "recall", "top1", "top5"),
    *("top-1 agreement", "relative error"),
)


def number(value: float | None, digits: int = 3, *, trim: bool = False) -> str:
    """A number to so many significant digits, without exponent; `trim` drops trailing zeros.

    Digits before the point are never rounded away: 272186 stays 272,186.
    """
    if value is None:
        return DASH
    if value == 0:
        return "0"
    rounded = float(f"{value:.{digits - 1}e}")
    decimals = max(0, digits - 1 - math.floor(math.log10(abs(rounded))))
    return _fixed(value, decimals, trim=trim)


def _fixed(value: float, decimals: int, *, trim: bool = False) -> str:
    text = f"{value:,.{decimals}f}"
    if trim and "." in text:
        text = text.rstrip("0").rstrip(".")
    if float(text.replace(",", "")) == 0:
        text = text.removeprefix("-")
    return text.replace("-", MINUS)


def milliseconds(value: float | None) -> str:
    """A time in milliseconds, always in that unit so that a column can be compared."""
    return DASH if value is None else f"{number(value)} ms"


def seconds(value: float | None) -> str:
    """A wall time: `8.3 s` under two minutes, `4 min 05 s` above."""
    if value is None:
        return DASH
    if value < 120:
        return f"{number(value, 2)} s"
    minutes, rest = divmod(round(value), 60)
    return f"{minutes} min {rest:02d} s"


def size(value: int | None) -> str:
    """Bytes in kB or MB (powers of ten)."""
    if value is None:
        return DASH
    for unit, factor in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if value >= factor:
            return f"{number(value / factor)} {unit}"
    return f"{value} B"


def count(value: int | None) -> str:
    """A count in full, such as 272,186."""
    return DASH if value is None else f"{value:,}"


def magnitude(value: int | None) -> str:
    """A large count in millions or thousands, such as `31.0 M`."""
    if value is None:
        return DASH
    for unit, factor in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if value >= factor:
            return f"{number(value / factor)} {unit}"
    return str(value)


def times(factor: float | None, *, trim: bool = False) -> str:
    """A factor such as `16.5 ×`."""
    return DASH if factor is None else f"{number(factor, trim=trim)} ×"


def interval(low: str, high: str) -> str:
    """Two formatted bounds as `[low, high]`."""
    return f"[{low}, {high}]"


def plural(amount: int, noun: str) -> str:
    """`1 thread`, `2 threads`."""
    return f"{amount:,} {noun}" + ("" if amount == 1 else "s")


def nodes(counts: Mapping[str, int]) -> str:
    """How many nodes in which precision, such as `1 fp32, 20 int8 (static)`."""
    shown = [f"{amount} {precision}" for precision, amount in sorted(counts.items()) if amount]
    return ", ".join(shown) or DASH


@dataclass(frozen=True)
class MetricFormat:
    """How one metric is written: shares such as accuracy as percent, the rest in its own unit.

    Attributes:
        metric: its name in the report.
        share: whether it lies between 0 and 1 and reads as percent.
        higher_is_better: False for losses and errors.
    """

    metric: str
    share: bool
    higher_is_better: bool = True

    @property
    def change(self) -> str:
        """What getting worse is called."""
        return "drop" if self.higher_is_better else "rise"

    @property
    def label(self) -> str:
        """The name as words."""
        return self.metric.replace("_", " ")

    @property
    def heading(self) -> str:
        """The name as it opens a line; abbreviations keep their capitals."""
        return self.label[:1].upper() + self.label[1:]

    @property
    def unit(self) -> str:
        """What differences are counted in."""
        return "points" if self.share else ""

    def value(self, value: float, n: int) -> str:
        """A value with as many digits as `n` samples can tell apart."""
        return f"{self._scaled(value, n)} %" if self.share else number(value, 4)

    def interval(self, bounds: Interval, n: int) -> str:
        """The interval of a value or a difference, in the same digits and without the unit."""
        return interval(self._scaled(bounds[0], n), self._scaled(bounds[1], n))

    def basis(self, bounds: Interval | None, n: int) -> tuple[str, ...]:
        """What a value stands on: its interval and the samples; nothing for one number alone."""
        return () if bounds is None else (self.interval(bounds, n), f"N = {n:,}")

    def difference(self, value: float, n: int) -> str:
        """A difference without its unit."""
        return self._scaled(value, n)

    def allowed(self, value: float) -> str:
        """A limit the user set, with its unit and no more digits than were given."""
        text = number(value * 100 if self.share else value, 4, trim=True)
        unit = self.unit.removesuffix("s") if text == "1" else self.unit
        return f"{text} {unit}".rstrip()

    def _scaled(self, value: float, n: int) -> str:
        if not self.share:
            return number(value, 4)
        return _fixed(value * 100, 1 if n < 2000 else 2)


def metric_format(metric: str, higher_is_better: bool = True) -> MetricFormat:
    """The format of the metric of that name."""
    share = any(share in metric.lower() for share in _SHARES)
    return MetricFormat(metric, share, higher_is_better)


def fact(value: Any) -> str:  # noqa: PLR0911 - one line a type reads best
    """Any value of the free-form parts of a report, in one line."""
    match value:
        case None:
            return DASH
        case bool():
            return "yes" if value else "no"
        case int():
            return str(value)
        case float():
            return number(value, 4, trim=True)
        case str():
            return value
        case dict():
            return ", ".join(f"{key} {fact(entry)}" for key, entry in value.items()) or DASH
        case Sequence():
            return ", ".join(fact(entry) for entry in value) or DASH
        case _:
            return str(value)

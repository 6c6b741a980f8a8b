"""Where the level of a short, noisy series changes. Numbers in, numbers out.

Binary segmentation (Scott & Knott, 1974): the best split of a series is tested, then the best split
of each half. The test is by permutation, as in E-divisive means (Matteson & James, 2014,
doi:10.1080/01621459.2013.849605) and its use on benchmarks (Daly et al., 2020,
doi:10.1145/3358960.3375791), on the rank statistic of Pettitt (1979, doi:10.2307/2346729), each
split scaled by its own spread. It assumes no shape of the noise and one outlier moves it little.
Ranks tell that there is a change; its place is the split that leaves the least absolute deviation.
What it does assume is that points of one level are exchangeable: a slow drift is called as steps.

The error rate is the caller's: at most that share of flat histories, of however many series, gets
any change point. The series share it by Holm's method, and a part of a series is tested at its
length's share of what the whole was. The price is that few points tell nothing: with one series a
step needs about eight, with seven series about twelve.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from compress.stats import holm

Values = npt.NDArray[np.float64]

#: At least so many points on either side; fewer are an outlier, not a level.
SHORTEST: Final = 3
_PERMUTATIONS: Final = 1999
#: No error rate above this is allowed for, so that a change of a larger p needs no place.
_LEAST: Final = 0.2
#: Points that are permuted at once, so that a long history does not fill the memory.
_AT_ONCE: Final = 2_000_000


@dataclass(frozen=True)
class Change:
    """The first point of a new level, and the p of its test within its part of the series."""

    place: int
    p: float


def change_points(
    series: Sequence[Sequence[float]],
    groups: Sequence[Sequence[Hashable]] | None = None,
    *,
    alpha: float = 0.05,
    seed: int = 0,
) -> list[list[Change]]:
    """The change points of several series of one history, each in order of place.

    Args:
        series: values in order of time, finite; the series may differ in length.
        groups: for each value what it was taken under, such as the machine. Levels of groups are
            never compared with each other: only a change within groups is found.
        alpha: largest share of flat histories that get a change point, at most 0.2.
        seed: of the permutations; the same input always gives the same answer.
    """
    kinds = groups or [[0] * len(values) for values in series]
    parts = [_Part(np.asarray(each, float), kind) for each, kind in zip(series, kinds, strict=True)]
    generator = np.random.default_rng(seed)
    first = [part.test(0, len(part.values), generator) for part in parts]
    rejected = holm([change.p for change in first], alpha)
    found: list[list[Change]] = []
    for part, change, clear in zip(parts, first, rejected, strict=True):
        share = alpha / len(parts)
        changes = part.split(change, 0, len(part.values), share, generator) if clear else []
        found.append(sorted(changes, key=lambda each: each.place))
    return found


class _Part:
    """One series with the groups of its values."""

    def __init__(self, values: Values, groups: Sequence[Hashable]) -> None:
        known = {group: number for number, group in enumerate(dict.fromkeys(groups))}
        self.values = values
        self.groups = np.array([known[group] for group in groups], dtype=int)

    def test(self, start: int, end: int, generator: np.random.Generator) -> Change:
        """The best split of a part, and how often permutations within groups give a better one."""
        groups = self.groups[start:end]
        if end - start < 2 * SHORTEST:
            return Change(start, 1.0)
        ranks = _ranks(self.values[start:end], groups)
        if not ranks.any():
            return Change(start, 1.0)
        scores = _scores(ranks[None, :])[0]
        best = scores.max()
        reached = 0
        for count in _chunks(end - start):
            permuted = _permuted(ranks, groups, count, generator)
            reached += int((_scores(permuted).max(axis=1) >= best - 1e-9).sum())
        p = (1 + reached) / (1 + _PERMUTATIONS)
        place = _best_split(self.values[start:end], groups) if p <= _LEAST else 0
        return Change(start + place, p)

    def split(
        self, change: Change, start: int, end: int, alpha: float, generator: np.random.Generator
    ) -> list[Change]:
        """A change that was found, and those of the two parts that it leaves."""
        found = [change]
        for low, high in ((start, change.place), (change.place, end)):
            inner = self.test(low, high, generator)
            share = alpha * (high - low) / (end - start)
            if inner.p <= share:
                found += self.split(inner, low, high, share, generator)
        return found


def _ranks(values: Values, groups: npt.NDArray[np.int_]) -> Values:
    """Ranks about 0 of the values, each first taken from the median of its group."""
    from scipy.stats import rankdata

    centred = values.copy()
    for group in np.unique(groups):
        centred[groups == group] -= np.median(values[groups == group])
    spread = np.abs(values).max(initial=0.0)
    ranks = rankdata(np.round(centred / (spread or 1.0), 12))  # what differs by rounding is a tie
    return np.asarray(ranks - ranks.mean(), dtype=float)


def _scores(ranks: Values) -> Values:
    """(rows, splits): how far the mean ranks on both sides lie apart, in standard deviations."""
    n = ranks.shape[1]
    left = np.arange(SHORTEST, n - SHORTEST + 1)
    sums = np.cumsum(ranks, axis=1)[:, left - 1]
    variance = np.square(ranks).sum(axis=1, keepdims=True) / (n - 1)
    return np.asarray(np.abs(sums) / np.sqrt(variance * left * (n - left) / n))


def _best_split(values: Values, groups: npt.NDArray[np.int_]) -> int:
    """The place at which two levels for each group leave the least absolute deviation."""
    places = range(SHORTEST, len(values) - SHORTEST + 1)
    return min(
        places,
        key=lambda place: sum(
            _deviation(values[side], groups[side]) for side in (slice(place), slice(place, None))
        ),
    )


def _deviation(values: Values, groups: npt.NDArray[np.int_]) -> float:
    members = (values[groups == group] for group in np.unique(groups))
    return sum(float(np.abs(each - np.median(each)).sum()) for each in members)


def _permuted(
    ranks: Values, groups: npt.NDArray[np.int_], count: int, generator: np.random.Generator
) -> Values:
    rows = np.repeat(ranks[None, :], count, axis=0)
    for group in np.unique(groups):
        places = np.flatnonzero(groups == group)
        rows[:, places] = generator.permuted(rows[:, places], axis=1)
    return rows


def _chunks(n: int) -> list[int]:
    most = max(1, _AT_ONCE // n)
    whole, rest = divmod(_PERMUTATIONS, most)
    return [most] * whole + ([rest] if rest else [])

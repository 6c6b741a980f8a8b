"""Splitting a data set: fixed by a seed, the same share of every class in each part."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise

import numpy as np
import numpy.typing as npt

Indices = npt.NDArray[np.int64]


def stratified_split(targets: Indices, sizes: Sequence[int], seed: int) -> list[Indices]:
    """Disjoint parts of the given sizes, each with the classes in the proportion of the whole.

    Args:
        targets: (n,), class indices.
        sizes: samples in each part; their sum is at most n.
        seed: the same seed gives the same parts.

    Returns:
        For each size an ascending array of positions in `targets`.

    Raises:
        ValueError: the sizes need more samples than there are.
    """
    if sum(sizes) > len(targets):
        raise ValueError(f"{sum(sizes)} samples asked for, {len(targets)} there")
    random = np.random.default_rng(seed)
    order = _interleave(targets, random)
    bounds = np.cumsum([0, *sizes])
    return [np.sort(order[low:high]) for low, high in pairwise(bounds)]


def _interleave(targets: Indices, random: np.random.Generator) -> Indices:
    """All positions, shuffled within each class, with the classes spread evenly over the order."""
    place = np.empty(len(targets))
    for label in np.unique(targets):
        members = random.permutation(np.flatnonzero(targets == label))
        place[members] = (np.arange(len(members)) + random.random()) / len(members)
    return np.argsort(place, kind="stable").astype(np.int64)


def stratified_folds(targets: Indices, folds: int, seed: int) -> Iterator[tuple[Indices, Indices]]:
    """For each fold the positions to fit on and the positions held out (k-fold cross-validation).

    Raises:
        ValueError: fewer than two folds, or more folds than samples.
    """
    if not 2 <= folds <= len(targets):
        raise ValueError(f"{folds} folds of {len(targets)} samples; expected 2 to {len(targets)}")
    order = _interleave(targets, np.random.default_rng(seed))
    for held_out in np.array_split(order, folds):  # neighbours in the order are of all classes
        yield np.setdiff1d(order, held_out), np.sort(held_out)

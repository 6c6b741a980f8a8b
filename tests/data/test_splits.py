"""Splits are disjoint, fixed by their seed, and keep every class's share."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from compress.data.splits import stratified_folds, stratified_split

TARGETS = st.lists(st.integers(0, 4), min_size=8, max_size=120).map(np.array)


@given(targets=TARGETS, data=st.data(), seed=st.integers(0, 99))
@settings(max_examples=60, deadline=None)
def test_split_is_disjoint_and_of_the_asked_sizes(targets, data, seed):
    first = data.draw(st.integers(0, len(targets)))
    second = data.draw(st.integers(0, len(targets) - first))
    parts = stratified_split(targets, (first, second), seed)
    assert [len(part) for part in parts] == [first, second]
    together = np.concatenate(parts)
    assert len(np.unique(together)) == len(together)
    assert all((np.diff(part) > 0).all() for part in parts)
    assert ((together >= 0) & (together < len(targets))).all()


@given(
    classes=st.integers(2, 6), members=st.integers(5, 40), data=st.data(), seed=st.integers(0, 99)
)
@settings(max_examples=60, deadline=None)
def test_equal_classes_stay_equal_in_every_part(classes, members, data, seed):
    targets = np.random.default_rng(seed).permutation(np.repeat(np.arange(classes), members))
    first = data.draw(st.integers(classes, len(targets) - classes))
    for part in stratified_split(targets, (first, len(targets) - first), seed):
        counts = np.bincount(targets[part], minlength=classes)
        assert counts.max() - counts.min() <= 1


def test_rare_classes_keep_their_share():
    targets = np.repeat([0, 1, 2], [800, 150, 50])
    for part, size in zip(stratified_split(targets, (600, 400), 0), (600, 400), strict=True):
        expected = np.array([0.8, 0.15, 0.05]) * size
        assert np.abs(np.bincount(targets[part]) - expected).max() <= 1


def test_the_seed_decides():
    targets = np.arange(200) % 4
    one, again = (stratified_split(targets, (100, 50), 5) for _ in range(2))
    other = stratified_split(targets, (100, 50), 6)
    assert all((left == right).all() for left, right in zip(one, again, strict=True))
    assert (one[0] != other[0]).any()


def test_too_many_samples_asked_for():
    with pytest.raises(ValueError, match="11 samples asked for, 10 there"):
        stratified_split(np.zeros(10, dtype=int), (8, 3), 0)


@given(targets=TARGETS, folds=st.integers(2, 8), seed=st.integers(0, 99))
@settings(max_examples=60, deadline=None)
def test_folds_hold_every_sample_out_once(targets, folds, seed):
    parts = list(stratified_folds(targets, folds, seed))
    assert len(parts) == folds
    assert sorted(np.concatenate([held for _, held in parts])) == list(range(len(targets)))
    sizes = [len(held) for _, held in parts]
    assert max(sizes) - min(sizes) <= 1
    for fitted, held in parts:
        assert sorted([*fitted, *held]) == list(range(len(targets)))


@pytest.mark.parametrize("folds", [1, 11])
def test_impossible_folds(folds):
    with pytest.raises(ValueError, match=f"{folds} folds of 10 samples; expected 2 to 10"):
        list(stratified_folds(np.zeros(10, dtype=int), folds, 0))


@given(classes=st.integers(2, 6), members=st.integers(4, 30), folds=st.integers(2, 6))
@settings(max_examples=60, deadline=None)
def test_folds_keep_every_class(classes, members, folds):
    targets = np.repeat(np.arange(classes), members)
    for _, held in stratified_folds(targets, min(folds, len(targets)), 0):
        counts = np.bincount(targets[held], minlength=classes)
        assert counts.max() - counts.min() <= 1

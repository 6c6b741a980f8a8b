"""The histogram of fixed size against numpy's, and what its growing range keeps."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from compress.quantization.calibration.histogram import Histogram

MAGNITUDES = st.floats(2.0**-50, 2.0**50, width=32)
VALUES = arrays.arrays(
    np.float32,
    st.integers(0, 40),
    elements=MAGNITUDES | MAGNITUDES.map(lambda value: -value) | st.just(0.0),
)


def counted(parts: list[np.ndarray], bins: int = 16) -> Histogram:
    found = Histogram(bins)
    for part in parts:
        found.add(part)
    return found


def expected(values: np.ndarray, found: Histogram) -> np.ndarray:
    """By comparing each value with each edge, in double precision."""
    edges = found.edges
    places = np.searchsorted(edges, values.astype(np.float64), side="right") - 1
    return np.bincount(places, minlength=len(found.counts))


@settings(max_examples=200, deadline=None)
@given(st.lists(VALUES, min_size=1, max_size=5))
def test_no_count_is_lost_and_every_value_stands_between_its_edges(parts: list[np.ndarray]):
    values = np.concatenate(parts)
    found = counted(parts)
    assert found.counts.sum() == len(values)
    if np.any(values):
        assert (found.edges[0] < values).all()
        assert (values < found.edges[-1]).all()
        assert found.limit <= 2 * np.abs(values).astype(np.float64).max()
        np.testing.assert_array_equal(found.counts, expected(values, found))


@settings(max_examples=100, deadline=None)
@given(st.lists(VALUES, min_size=1, max_size=5), st.randoms())
def test_neither_order_nor_parts_matter(parts: list[np.ndarray], random):
    once = counted([np.concatenate(parts)])
    shuffled = list(parts)
    random.shuffle(shuffled)
    merged = Histogram(16)
    for part in shuffled:
        merged.merge(counted([part]))
    for other in (counted(shuffled), merged):
        assert other.limit == once.limit
        np.testing.assert_array_equal(other.counts, once.counts)


def test_the_bins_are_those_of_numpy():
    values = np.random.default_rng(0).standard_normal(10_000).astype(np.float32)
    found = counted([values[:100], values[100:]], bins=2048)
    assert found.limit == 4.0
    counts, edges = np.histogram(values.astype(np.float64), 4096, (-4.0, 4.0))
    np.testing.assert_array_equal(found.counts, counts)
    np.testing.assert_array_equal(found.edges, edges)


def test_a_value_on_the_limit_doubles_it():
    found = counted([np.float32([1.0, 1.5])], bins=4)
    assert found.limit == 2.0
    found.add(np.float32([2.0]))
    assert found.limit == 4.0
    assert found.counts.tolist() == [0, 0, 0, 0, 0, 2, 1, 0]


def test_zeros_stay_at_the_edge_of_the_positive_side():
    found = counted([np.zeros(5, np.float32), np.float32([-3.0, 1e30])], bins=4)
    assert found.counts.tolist() == [0, 0, 0, 1, 5, 0, 0, 1]
    assert counted([np.zeros(3, np.float32)]).limit == 0.0
    assert counted([]).counts.sum() == 0


@settings(max_examples=100, deadline=None)
@given(st.lists(VALUES, min_size=1, max_size=3))
def test_positive_is_the_histogram_of_relu(parts: list[np.ndarray]):
    found = counted(parts).positive()
    wanted = Histogram(16)
    wanted.grow(np.nextafter(found.limit, 0) if found.limit else 0.0)
    wanted.add(np.maximum(np.concatenate(parts), 0))
    np.testing.assert_array_equal(found.counts, wanted.counts)


@pytest.mark.parametrize(
    "value", [np.finfo(np.float32).max, np.finfo(np.float32).smallest_subnormal]
)
def test_the_whole_of_single_precision_has_a_place(value: np.float32):
    found = counted([np.float32([value, -value, 0])], bins=4)
    assert found.counts.sum() == 3
    assert float(value) < found.limit
    assert np.isfinite(found.edges).all()


def test_many_values_are_counted_as_few_are():
    values = np.random.default_rng(0).standard_normal(100_001).astype(np.float32)
    once, parts = counted([values]), counted(list(np.array_split(values, 50)))
    np.testing.assert_array_equal(once.counts, parts.counts)


def test_mean_and_power_are_those_of_the_values_but_for_a_bin():
    values = np.random.default_rng(0).normal(1.0, 2.0, 10_000).astype(np.float32)
    found = counted([values], bins=2048)
    assert found.mean == pytest.approx(values.mean(), abs=found.width / 2)
    assert found.power == pytest.approx((values.astype(np.float64) ** 2).mean(), rel=1e-3)
    assert (Histogram().mean, Histogram().power) == (0, 0)


def test_half_precision_is_counted_as_single():
    values = np.random.default_rng(0).standard_normal(500).astype(np.float16)
    np.testing.assert_array_equal(
        counted([values]).counts, counted([values.astype(np.float32)]).counts
    )


@pytest.mark.parametrize("bins", [0, 1, 3, 1000])
def test_other_than_a_power_of_two_is_refused(bins: int):
    with pytest.raises(ValueError, match=f"^{bins} bins; expected a power of two, such as 2048$"):
        Histogram(bins)

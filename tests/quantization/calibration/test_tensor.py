"""What is kept of one tensor against numpy on all of its values."""

from __future__ import annotations

import math

import numpy as np
import pytest

from compress.quantization.calibration.histogram import Histogram
from compress.quantization.calibration.tensor import (
    MOMENTUM,
    Channels,
    Counter,
    NotFiniteError,
    TensorStatistics,
)

RANDOM = np.random.default_rng(0)


def seen(*batches: np.ndarray, bins: int = 2048) -> TensorStatistics:
    counter = Counter(bins)
    found = TensorStatistics(counter.histogram)
    for values in batches:
        found.add(counter.see(values))
        found.end_batch()
    return found


def test_count_and_bounds_are_those_of_all_values():
    batches = [RANDOM.standard_normal((3, 5, 7)).astype(np.float32) * (n + 1) for n in range(4)]
    found, values = seen(*batches), np.concatenate(batches)
    assert found.count == found.histogram.counts.sum() == values.size
    assert (found.low, found.high) == (values.min(), values.max())
    assert found.masked == 0


def test_the_moving_average_is_the_mean_and_then_torchs():
    batches = [np.float32([[n, -n]]) for n in RANDOM.uniform(1, 2, 150)]
    low, high = 0.0, 0.0
    for number, batch in enumerate(batches, 1):
        if number <= 1 / MOMENTUM:
            low = float(np.mean([b.min() for b in batches[:number]]))
            high = float(np.mean([b.max() for b in batches[:number]]))
        else:  # torch.ao.quantization.MovingAverageMinMaxObserver
            low, high = low + MOMENTUM * (batch.min() - low), high + MOMENTUM * (batch.max() - high)
    found = seen(*batches)
    assert (found.average_low, found.average_high) == (pytest.approx(low), pytest.approx(high))


def test_a_batch_counts_once_for_the_average_however_many_parts_it_is_run_in():
    counter = Counter(4)
    found = TensorStatistics(counter.histogram)
    for value in (1.0, 3.0):
        found.add(counter.see(np.float32([[value]])))
    found.end_batch()
    found.add(counter.see(np.float32([[5.0]])))
    found.end_batch()
    found.end_batch()  # one without a value
    assert (found.average_low, found.average_high, found.batches) == (3.0, 4.0, 2)


def test_positive_is_what_relu_gives():
    batches = [RANDOM.standard_normal((3, 9)).astype(np.float32) for _ in range(3)]
    counter, wanted = Counter(8), seen(*[np.maximum(b, 0) for b in batches], bins=8)
    found = TensorStatistics(Histogram(8))
    for values in batches:
        found.add(counter.see(values).positive())
        found.end_batch()
    found.histogram = counter.histogram.positive()
    wanted.histogram.grow(found.histogram.limit / 2)
    np.testing.assert_array_equal(found.histogram.counts, wanted.histogram.counts)
    for field in ("count", "low", "high", "average_low", "average_high"):
        assert getattr(found, field) == getattr(wanted, field)


def test_an_empty_tensor_says_nothing():
    found = seen(np.zeros((2, 0, 3), np.float32))
    assert (found.count, found.batches, found.histogram.counts.sum()) == (0, 0, 0)
    assert Counter(4).see(np.zeros((2, 0), np.float32)).positive().count == 0


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_nan_and_infinity_are_refused(bad: float):
    with pytest.raises(NotFiniteError):
        seen(np.float32([[1.0, bad]]))


def test_minus_infinity_is_a_mask_and_counted_apart():
    found = seen(np.float32([[1.0, -np.inf, -2.0], [-np.inf, 0.5, 3.0]]))
    assert (found.count, found.masked, found.low, found.high) == (4, 2, -2.0, 3.0)
    only = seen(np.full((1, 3), -np.inf, np.float32))
    assert (only.count, only.masked, only.batches) == (0, 3, 0)


@pytest.mark.parametrize("axis", [0, 1, 2, -1])
def test_channels_are_those_of_numpy(axis: int):
    batches = [RANDOM.standard_normal((4, 3, 5)).astype(np.float32) for _ in range(3)]
    found = Channels(axis)
    assert found.mean is None
    for values in batches:
        found.add(values)
    found.add(np.zeros((0, 3, 5), np.float32)) if axis else None
    others = tuple(i for i in range(3) if i != axis % 3)
    largest = np.max([np.abs(b).max(axis=others) for b in batches], axis=0)
    mean = np.mean([b.astype(np.float64).mean(axis=others) for b in batches], axis=0)
    np.testing.assert_array_equal(found.largest, largest)
    np.testing.assert_allclose(found.mean, mean, rtol=1e-10)


def test_rows_that_only_fill_a_run_up_are_not_counted():
    values = np.float32([[1, 2], [3, 4], [3, 4]])
    part = Counter(4).see(values, rows=2, filled=3)
    assert (part.count, part.low, part.high) == (4, 1, 4)
    assert Counter(4).see(values.T, rows=2, filled=3).count == 6  # which are they?


def test_of_a_large_sample_some_values_stand_for_the_others():
    values = RANDOM.standard_normal((2, 7, 16, 224, 224), dtype=np.float32)
    values[1, 3, 5, 100, 101] = 50.0
    counter = Counter(2048)
    part = counter.see(values)
    assert (part.count, part.low, part.high) == (values.size, values.min(), 50.0)
    whole = Histogram(2048)
    whole.add(values.reshape(-1))
    found = counter.histogram
    assert found.counts.sum() == pytest.approx(values.size, rel=0.001)
    assert np.gcd.reduce(found.counts) > 40
    apart = abs(found.counts.cumsum() - whole.counts.cumsum()).max()
    assert apart < 0.005 * values.size


@pytest.mark.parametrize("axis", [1, 2, 3])
def test_every_channel_row_and_column_is_met_as_often(axis: int):
    shape = (1, 14, 112, 210)
    values = np.moveaxis(np.empty(shape, np.float32), axis, -1)
    values[...] = np.arange(shape[axis])
    counter = Counter(256)
    counter.see(np.moveaxis(values, -1, axis))
    counts = counter.histogram.counts[256:]
    met = counts.reshape(-1, 256 // int(counter.histogram.limit)).sum(axis=1)[: shape[axis]]
    assert met.min() > 0.99 * met.max()


def test_samples_are_counted_alike_together_and_apart():
    values = RANDOM.standard_normal((3, 64, 64, 64), dtype=np.float32)
    together, apart = Counter(2048), Counter(2048)
    together.see(values)
    for value in values:
        apart.see(value[None])
    assert (together.histogram.counts == apart.histogram.counts).all()

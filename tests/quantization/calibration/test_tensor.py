"""What is kept of one tensor against numpy on all of its values."""

from __future__ import annotations

import math

import numpy as np
import pytest

from compress.quantization.calibration import tensor
from compress.quantization.calibration.histogram import Histogram
from compress.quantization.calibration.ranges import percentile_range
from compress.quantization.calibration.tensor import (
    MOMENTUM,
    Channels,
    NotFiniteError,
    Part,
    TensorStatistics,
)

RANDOM = np.random.default_rng(0)


def seen(*batches: np.ndarray, bins: int = 2048) -> TensorStatistics:
    found = TensorStatistics(Histogram(bins))
    for number, values in enumerate(batches):
        found.add(Part.of(values, len(values), number, bins))
        found.end_batch()
    return found


def test_count_bounds_and_sums_are_exact_where_nothing_is_left_out():
    batches = [RANDOM.standard_normal((3, 5, 7)).astype(np.float32) * (n + 1) for n in range(4)]
    found, values = seen(*batches), np.concatenate(batches)
    assert found.count == found.histogram.counts.sum() == values.size
    assert (found.low, found.high) == (values.min(), values.max())
    assert found.total == pytest.approx(values.sum(dtype=np.float64), rel=1e-12)
    assert found.squares == pytest.approx((values.astype(np.float64) ** 2).sum(), rel=1e-12)
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
    found = TensorStatistics(Histogram(4))
    for value in (1.0, 3.0):
        found.add(Part.of(np.float32([[value]]), 1, 0, 4))
    found.end_batch()
    found.add(Part.of(np.float32([[5.0]]), 1, 0, 4))
    found.end_batch()
    found.end_batch()  # one without a value
    assert (found.average_low, found.average_high, found.batches) == (3.0, 4.0, 2)


def test_of_a_large_tensor_bounds_are_exact_and_percentiles_close(monkeypatch: pytest.MonkeyPatch):
    values = RANDOM.standard_normal((2, 60_000)).astype(np.float32)
    whole = seen(values)
    monkeypatch.setattr(tensor, "SAMPLED", 6_000)
    found = seen(values)
    assert (found.count, found.low, found.high) == (whole.count, whole.low, whole.high)
    assert found.histogram.counts.sum() == pytest.approx(values.size, rel=0.001)
    assert found.squares == pytest.approx(whole.squares, rel=0.03)
    for percentile, allowed in ((99.0, 0.1), (99.9, 0.3)):
        bounds = percentile_range(found.histogram, found.low, found.high, percentile)
        wanted = percentile_range(whole.histogram, whole.low, whole.high, percentile)
        np.testing.assert_allclose(bounds, wanted, atol=allowed)


@pytest.mark.parametrize("shape", [(4, 64, 112, 112), (1, 7, 1000), (2, 3 * 2**16), (1, 2**17 + 1)])
def test_the_sample_is_within_its_size_and_lines_up_with_no_axis(shape: tuple[int, ...]):
    values = np.broadcast_to(np.float32(1), shape)
    part = Part.of(values, shape[0], 0, 4)
    assert len(part.sample) <= shape[0] * tensor.SAMPLED
    assert part.weight == 1 or all(math.gcd(part.weight, size) == 1 for size in shape)
    assert part.count == math.prod(shape)


def test_runs_sample_different_places(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(tensor, "SAMPLED", 4)
    values = np.arange(13, dtype=np.float32)[None]
    drawn = [Part.of(values, 1, number, 4).sample.tolist() for number in range(4)]
    assert sorted(value for sample in drawn for value in sample) == list(range(13))


def test_positive_is_what_relu_gives():
    batches = [RANDOM.standard_normal((3, 9)).astype(np.float32) for _ in range(3)]
    found, wanted = (
        TensorStatistics(Histogram(8)),
        seen(*[np.maximum(b, 0) for b in batches], bins=8),
    )
    for number, values in enumerate(batches):
        found.add(Part.of(values, 3, number, 8).positive())
        found.end_batch()
    wanted.histogram.grow(found.histogram.limit / 2)
    np.testing.assert_array_equal(found.histogram.counts, wanted.histogram.counts)
    for field in ("count", "low", "high", "average_low", "average_high", "total", "squares"):
        assert getattr(found, field) == getattr(wanted, field)


def test_an_empty_tensor_says_nothing():
    found = seen(np.zeros((2, 0, 3), np.float32))
    assert (found.count, found.batches, found.histogram.counts.sum()) == (0, 0, 0)
    assert Part.of(np.zeros((2, 0), np.float32), 2, 0, 4).positive().count == 0


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

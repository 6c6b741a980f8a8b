"""Ranges from histograms against numpy, plain loops and brute force."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import entropy

from compress.quantization.calibration.histogram import Histogram
from compress.quantization.calibration.ranges import (
    divergences,
    entropy_range,
    mse_range,
    percentile_range,
    squared_errors,
)

RANDOM = np.random.default_rng(0)
SHAPES = {
    "normal": RANDOM.standard_normal(5_000),
    "after ReLU": np.maximum(RANDOM.standard_normal(5_000), 0),
    "below zero": -np.abs(RANDOM.standard_normal(5_000)),
    "long tails": RANDOM.standard_t(3, 5_000),
    "one far away": np.append(RANDOM.uniform(-1, 1, 5_000), 50.0),
    "two heaps": np.concatenate([RANDOM.normal(-3, 0.1, 2500), RANDOM.normal(5, 0.2, 2500)]),
    "constant": np.full(100, 0.7),
}


def histogram(values: np.ndarray, bins: int = 2048) -> tuple[Histogram, float, float]:
    values = values.astype(np.float32)
    found = Histogram(bins)
    found.add(values)
    return found, float(values.min()), float(values.max())


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("percentile", [90.0, 99.0, 99.99, 100.0])
def test_percentiles_are_within_a_bin_of_numpys_and_hold_them(shape: str, percentile: float):
    values = SHAPES[shape].astype(np.float32)
    counts, low, high = histogram(values)
    found = percentile_range(counts, low, high, percentile)
    ordered, cut = np.sort(values), len(values) * (100 - percentile) / 200
    wanted = ordered[math.floor(cut)], ordered[math.ceil(len(values) - cut) - 1]
    assert low <= found[0] <= found[1] <= high
    assert found[0] <= wanted[0] <= found[0] + counts.width
    assert found[1] - counts.width <= wanted[1] <= found[1]


def plain_divergence(counts: list[float], kept: int, levels: int) -> float:
    """As in NVIDIA's pytorch-quantization, a bin at a time."""
    if not sum(counts[:kept]):
        return math.inf
    reference = list(counts[:kept])
    reference[-1] += sum(counts[kept:])
    groups = np.floor(np.arange(kept) * levels / kept + 1e-12).astype(int)
    quantized = [0.0] * kept
    for group in range(levels):
        inside = [j for j in range(kept) if groups[j] == group and reference[j] > 0]
        for j in inside:
            quantized[j] = (sum(counts[i] for i in inside) or 1e-4) / len(inside)
    return float(entropy(reference, quantized))


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.integers(0, 50) | st.just(0), min_size=9, max_size=60),
    st.sampled_from([4, 8]),
)
def test_divergences_are_those_of_a_plain_loop(counts: list[int], levels: int):
    counts[-1] = max(counts[-1], 1)  # the last bin in use is the last one given
    found = divergences(np.array(counts, np.float64), levels)
    wanted = [
        plain_divergence([float(c) for c in counts], kept, levels)
        for kept in range(levels, len(counts) + 1)
    ]
    assert math.isfinite(found[-1])
    np.testing.assert_allclose(found, wanted, atol=1e-9)


def test_entropy_clips_what_is_far_away_and_keeps_what_is_evenly_spread():
    far = entropy_range(*histogram(SHAPES["one far away"]))
    assert far[0] == pytest.approx(-1, abs=1e-3)
    assert 1 <= far[1] < 10
    even = RANDOM.uniform(0, 1, 5_000)
    assert entropy_range(*histogram(even))[1] == pytest.approx(even.max(), rel=0.02)


def test_entropy_is_not_moved_by_zeros_which_int8_keeps_exactly():
    values = SHAPES["after ReLU"]
    more = np.append(values, np.zeros(50_000))
    assert entropy_range(*histogram(more)) == entropy_range(*histogram(values))


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("bins", [64, 2048])
def test_no_method_gives_more_than_the_values_span(shape: str, bins: int):
    counts, low, high = histogram(SHAPES[shape], bins)
    for found in (entropy_range(counts, low, high), mse_range(counts, low, high)):
        assert min(low, 0) <= found[0] <= found[1] <= max(high, 0)
        assert found[1] > found[0] or low == high


def quantized(values: np.ndarray, low: float, high: float, levels: int) -> np.ndarray:
    """By the definition of QuantizeLinear, with onnxruntime's scale and zero point."""
    scale = (high - low) / (levels - 1)
    zero = round(-low / scale)
    return (np.clip(np.rint(values / scale) + zero, 0, levels - 1) - zero) * scale


def test_squared_errors_are_those_of_the_values_themselves():
    values, counts = RANDOM.standard_normal(50), RANDOM.integers(1, 9, 50).astype(np.float64)
    lows, highs = np.array([-3.0, -1.0, 0.0]), np.array([3.0, 2.5, 1.0])
    wanted = [
        (counts * (quantized(values, low, high, 16) - values) ** 2).sum()
        for low, high in zip(lows, highs, strict=True)
    ]
    np.testing.assert_allclose(squared_errors(values, counts, lows, highs, 16), wanted)


@pytest.mark.parametrize("shape", sorted(set(SHAPES) - {"constant"}))
@pytest.mark.parametrize("levels", [16, 256])
def test_mse_is_near_the_best_of_all_pairs_of_ends(shape: str, levels: int):
    values = SHAPES[shape].astype(np.float32).astype(np.float64)
    counts, low, high = histogram(values)
    found = mse_range(counts, low, high, levels)
    low, high = min(low, 0.0), max(high, 0.0)
    shares = np.linspace(0.04, 1, 25)
    pairs = {(low * a, high * b) for a in shares for b in shares if low * a < high * b}
    errors = [((quantized(values, a, b, levels) - values) ** 2).sum() for a, b in pairs]
    own = ((quantized(values, *found, levels) - values) ** 2).sum()
    whole = ((quantized(values, low, high, levels) - values) ** 2).sum()
    assert own <= whole * 1.001
    assert own <= min(errors) * 1.1

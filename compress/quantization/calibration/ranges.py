"""Ranges for int8 from a histogram: what is cut off makes the steps of what is left finer."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from compress.quantization.calibration.histogram import Histogram

Range = tuple[float, float]
Floats = npt.NDArray[np.float64]

#: Levels that entropy compares with: of int8 on each side of zero, and where there is one side.
_LEVELS, _ONE_SIDED = 128, 256
#: Values that a level which only clipped ones fall into is taken to hold.
_EMPTY = 1e-4
#: Shares of the whole range that are tried for the least squared error, 7 % apart.
_SHARES = np.geomspace(1.0, 0.01, 64)


def percentile_range(histogram: Histogram, low: float, high: float, percentile: float) -> Range:
    """Cut off the same share of the values at both ends, `100 - percentile` percent in all.

    The range holds the exact percentiles and is at most a bin wider at each end.

    Args:
        low, high: least and largest value.
    """
    total = int(histogram.counts.sum())
    below = np.cumsum(histogram.counts)
    cut = total * (100 - percentile) / 200
    first = int(np.searchsorted(below, cut, side="right"))
    last = int(np.searchsorted(below, total - cut, side="left"))
    edges = histogram.edges
    return max(float(edges[min(first, len(below) - 1)]), low), min(float(edges[last + 1]), high)


def entropy_range(histogram: Histogram, low: float, high: float) -> Range:
    """The range that loses least information: the least KL divergence from what int8 leaves of it.

    As in TensorRT (Migacz, 8-bit inference with TensorRT, GTC 2017) and NVIDIA's
    pytorch-quantization: magnitudes are clipped at each edge in turn, the bins up to it are pooled
    into the levels of int8, and zeros, which int8 keeps exactly, count no more than their
    neighbours. As in MXNet and onnxruntime, what is clipped into an empty level does not rule an
    edge out. All edges are tried at once, by cumulated sums.

    Args:
        low, high: least and largest value.
    """
    one_sided = low >= 0 or high <= 0
    bins = histogram.bins
    both = histogram.counts[bins:] + histogram.counts[:bins][::-1]
    used = int(np.flatnonzero(both)[-1]) + 1 if both.any() else 0
    levels = _ONE_SIDED if one_sided else _LEVELS
    if used <= levels:
        return low, high
    counts = both[:used].astype(np.float64)
    counts[0] = counts[1]
    edge = levels + int(np.argmin(divergences(counts, levels)))
    limit = edge * histogram.width
    return max(-limit, low), min(limit, high)


def divergences(counts: Floats, levels: int) -> Floats:
    """KL divergence for every number of bins that can be kept, from `levels` to all of them.

    Args:
        counts: (bins,), of magnitudes.

    Returns:
        (bins - levels + 1,), in nats; infinity where nothing would be left unclipped.
    """
    kept = np.arange(levels, len(counts) + 1)
    inside = _cumulated(counts)
    clipped = inside[-1] - inside[kept]
    last = counts[kept - 1]
    own = _cumulated(_times_log(counts))[kept]
    own += _times_log(last + clipped) - _times_log(last)
    # Level g starts at the first bin j with j · levels / kept ≥ g.
    starts = -(-np.arange(levels + 1) * kept[:, None] // levels)
    pooled = np.diff(inside[starts], axis=1)
    filled = np.diff(_cumulated(counts > 0)[starts], axis=1)
    filled[:, -1] += (last == 0) & (clipped > 0)
    logs = np.log(np.where(pooled > 0, pooled, _EMPTY) / np.maximum(filled, 1))
    cross = (pooled * logs).sum(axis=1) + clipped * logs[:, -1]
    left = np.maximum(inside[kept] + _EMPTY * ((pooled[:, -1] == 0) & (clipped > 0)), _EMPTY)
    found = (own - cross) / inside[-1] - np.log(inside[-1]) + np.log(left)
    return np.where(inside[kept] > 0, found, np.inf)


def _cumulated(values: npt.NDArray[np.float64] | npt.NDArray[np.bool_]) -> Floats:
    return np.concatenate([[0.0], np.cumsum(values, dtype=np.float64)])


def _times_log(values: Floats) -> Floats:
    return np.asarray(values * np.log(np.where(values > 0, values, 1.0)))


def mse_range(histogram: Histogram, low: float, high: float, levels: int = 256) -> Range:
    """The range of the least squared error of quantization, zero point and rounding included.

    Both ends are drawn in together first, then each by itself.

    Args:
        low, high: least and largest value; zero is taken in.
        levels: of the integer type, 256 for int8 and uint8.
    """
    low, high = min(low, 0.0), max(high, 0.0)
    seen = histogram.counts > 0
    counts = histogram.counts[seen].astype(np.float64)
    centres = (histogram.edges[:-1][seen] + histogram.width / 2).clip(low, high)
    for joint in ((1, 1), (1, 0), (0, 1)):
        lows = low * np.where(joint[0], _SHARES, 1.0)
        highs = high * np.where(joint[1], _SHARES, 1.0)
        best = int(np.argmin(squared_errors(centres, counts, lows, highs, levels)))
        low, high = float(lows[best]), float(highs[best])
    return low, high


def squared_errors(
    values: Floats, counts: Floats, lows: Floats, highs: Floats, levels: int
) -> Floats:
    """Sum of squared errors for each range, with onnxruntime's scale and zero point.

    Args:
        values: (n,), and how often each was counted, (n,).
        lows, highs: (ranges,), around zero.

    Returns:
        (ranges,).
    """
    scales = (highs - lows) / (levels - 1)
    scales = np.where(scales >= np.finfo(np.float32).tiny, scales, 1.0)[:, None]
    zeros = np.rint(-lows[:, None] / scales)
    found = np.rint(values / scales)
    found += zeros
    found.clip(0, levels - 1, out=found)
    found -= zeros
    found *= scales
    found -= values
    np.square(found, out=found)
    return np.asarray(found @ counts)

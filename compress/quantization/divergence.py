"""How far a model's outputs are from those of the fp32 model it was made from.

*Relative error* is the L2 norm of the difference over that of the fp32 outputs; in decibels,
-20 · log10 of it is the signal-to-quantization-noise ratio. It fits any output and costs nothing.
*KL divergence* compares the probabilities that scores stand for. It does not see what no softmax
sees, such as a shift of all scores, and it weighs what could change an answer.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from compress.runtime.onnxruntime import Array

_Wide = npt.NDArray[np.float64]
_LEAST = 1e-12


def relative_error(expected: Sequence[Sequence[Array]], found: Sequence[Sequence[Array]]) -> float:
    """Root mean square over the outputs of ‖found − expected‖ / ‖expected‖, both over all batches.

    Of an output of whole numbers the share that differs counts; one of another shape counts as
    wholly different. Where the expected value is no number, the found one has no say.

    Args:
        expected, found: batches of outputs, of any shapes.

    Returns:
        0 for equal outputs, 1 for an error as large as the outputs; infinite where a number was
        expected and none came.
    """
    squares = [
        _relative_square([batch[place] for batch in expected], [batch[place] for batch in found])
        for place in range(len(expected[0]))
    ]
    return math.sqrt(sum(squares) / len(squares))


def _relative_square(expected: list[Array], found: list[Array]) -> float:
    if any(one.shape != other.shape for one, other in zip(expected, found, strict=True)):
        return 1.0
    if expected[0].dtype.kind != "f":
        differing = sum(int((a != b).sum()) for a, b in zip(expected, found, strict=True))
        return (differing / max(1, sum(one.size for one in expected))) ** 2
    error = power = 0.0
    for one, other in zip(expected, found, strict=True):
        counts = np.isfinite(one)
        kept, difference = one[counts].astype(float), other[counts].astype(float)
        if not np.isfinite(difference).all():
            return math.inf
        error += float(np.square(difference - kept).sum())
        power += float(np.square(kept).sum())
    if power == 0:
        return math.inf if error else 0.0
    return error / power


def score_divergence(
    expected: Sequence[Sequence[Array]], found: Sequence[Sequence[Array]]
) -> float:
    """KL divergence of the softmax of the found scores from that of the expected ones, in nats.

    The mean over all rows, then over the outputs that hold scores: floating point, two classes or
    more. Classes are on the last axis, of images (batch, classes, height, width) on the second.
    What is probabilities already is taken as it is.

    Args:
        expected, found: batches of outputs.

    Returns:
        0 for equal probabilities; infinite where a number was expected and none came.
    """
    means = []
    for place, first in enumerate(expected[0]):
        if first.dtype.kind == "f" and first.ndim >= 2 and first.shape[_axis(first)] > 1:
            rows = [
                _row_divergences(one[place], other[place])
                for one, other in zip(expected, found, strict=True)
            ]
            means.append(float(np.concatenate(rows).mean()))
    return sum(means) / len(means) if means else relative_error(expected, found)


def _row_divergences(expected: Array, found: Array) -> _Wide:
    """(rows,), in nats."""
    if expected.shape != found.shape:
        return np.array([math.inf])
    axis = _axis(expected)
    right, left = _log_probabilities(expected, axis), _log_probabilities(found, axis)
    divergence: _Wide = (np.exp(right) * (right - left)).sum(axis=axis).ravel()
    divergence[~np.isfinite(divergence)] = math.inf
    divergence[np.isnan(right).any(axis=axis).ravel()] = 0  # none was expected
    return divergence.clip(min=0)


def _axis(scores: Array) -> int:
    return 1 if scores.ndim >= 4 else scores.ndim - 1


def _log_probabilities(scores: Array, axis: int) -> _Wide:
    wide = scores.astype(float)
    sums = wide.sum(axis=axis)
    if (wide >= 0).all() and np.allclose(sums, 1, atol=1e-3):
        logarithms: _Wide = np.log(wide.clip(min=_LEAST))
        return logarithms
    with np.errstate(invalid="ignore"):  # infinite scores make no number, which counts as such
        shifted = wide - wide.max(axis=axis, keepdims=True)
        found: _Wide = shifted - np.log(np.exp(shifted).sum(axis=axis, keepdims=True))
    return found.clip(min=math.log(_LEAST))

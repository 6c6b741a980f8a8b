"""Small inputs of an LSTM magnified, so that one scale for all of them does not round them away.

onnxruntime's int8 LSTM quantizes its whole input by one range. Features such as the energies of
mel bands span five orders of magnitude, and all but the loudest become zero. So each input goes in
several times, with t the largest magnitude and r = 64, 16, 4, 1:

    x · W = beyond · W + Σ (r · within) · W_r
    within = clip(x, -t / 64, t / 64), beyond = x - within

W_64 is W / 64 rounded to what int8 weights can hold, and each further one what those before it
left over: the coarser a part of an input is rounded, the smaller are its weights. In fp32 the sum
is exact. All of it is one product for a whole sequence; those of the hidden state stay as they are.
Related: `compress.quantization.outliers`, which takes the inputs of products apart.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from onnx import NodeProto

from compress.export.bodies import has_bodies
from compress.quantization.calibration.statistics import Statistics
from compress.quantization.calibration.tensor import TensorStatistics
from compress.quantization.editing import Array, Edit, rewrite
from compress.quantization.rewriting.files import load, save

#: How often small values are magnified, most first. Above 64 no int8 weight is left of W / r.
_FACTORS = (64.0, 16.0, 4.0, 1.0)
_LARGEST_INT8 = 127
#: Share of values that have to be small: the parts of an input are five times as many numbers.
_MANY = 0.5


def magnify_inputs(source: Path, target: Path, statistics: Statistics) -> frozenset[str]:
    """Write a copy of an fp32 ONNX file that computes the same, for int8 with a scale for each row.

    Args:
        statistics: of the inputs of its LSTM nodes.

    Returns:
        Names of the LSTM nodes more than half of whose inputs are small; where there is none, as
        in a file with bodies of If, Loop or Scan, nothing is written.
    """
    model = load(source)
    if has_bodies(model):
        return frozenset()
    largest = {
        name: max(-entry.low, entry.high)
        for name, entry in statistics.tensors.items()
        if _share_of_small(entry) > _MANY
    }
    magnify = _Magnify(largest)
    if rewrite(model, {"LSTM": magnify}):
        save(model, target)
    return frozenset(magnify.done)


@dataclass
class _Magnify:
    """Gives LSTM nodes their inputs in parts.

    Attributes:
        largest: magnitude in each value whose numbers are mostly small, by its name.
        parts: of the values that were magnified, the name of all parts in one.
        done: names of the nodes.
    """

    largest: Mapping[str, float]
    parts: dict[str, str] = field(default_factory=dict)
    done: list[str] = field(default_factory=list)

    def __call__(self, edit: Edit, node: NodeProto) -> bool:
        name, weight = node.input[0], edit.weight(node.input[1])
        if name not in self.largest or weight is None:
            return False
        if name not in self.parts:
            self.parts[name] = self._magnified(edit, name, weight.shape[2])
        stored = edit.constant(f"{node.input[1]}_in_parts", weights_in_parts(weight))
        edit.add_changed(node, {name: self.parts[name], node.input[1]: stored})
        self.done.append(node.name)
        return True

    def _magnified(self, edit: Edit, name: str, features: int) -> str:
        limit = np.float32(self.largest[name] / _FACTORS[0])
        low = edit.constant(f"{name}_low", np.array(-limit))
        high = edit.constant(f"{name}_high", np.array(limit))
        within = edit.add("Clip", [name, low, high], edit.fresh(f"{name}_within"))
        beyond = edit.add("Sub", [name, within], edit.fresh(f"{name}_beyond"))
        parts = edit.add("Concat", [within] * len(_FACTORS) + [beyond], axis=2)
        factors = np.repeat(np.array([*_FACTORS, 1.0], np.float32), features)
        return edit.add("Mul", [parts, edit.constant(f"{name}_factors", factors)])


def _share_of_small(entry: TensorStatistics) -> float:
    """Share of numbers that a factor of 64 leaves within the range; 0 of none, and of zeros."""
    counts, limit = entry.histogram.counts, max(-entry.low, entry.high) / _FACTORS[0]
    if not entry.count or not limit:
        return 0.0
    small = np.abs(entry.histogram.edges[:-1] + entry.histogram.width / 2) < limit
    return float(counts[small].sum() / counts.sum())


def weights_in_parts(weight: Array) -> Array:
    """Weights for magnified inputs; (directions, gates, features) to (…, 5 features).

    All but those of the last two parts stand on the steps of int8 with a scale for each row, and
    the whole has the scale that the weights had alone.
    """
    step = np.abs(weight).max(axis=2, keepdims=True).astype(np.float64) / _LARGEST_INT8
    step[step == 0] = 1.0
    left, parts = weight.astype(np.float64), list[Array]()
    for factor in _FACTORS[:-1]:
        parts.append(np.round(left / factor / step) * step)
        left = left - factor * parts[-1]
    return np.concatenate([*parts, left, weight], axis=2).astype(np.float32)

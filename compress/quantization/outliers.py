"""Activations with a few very large values, in two parts that are rounded each by itself.

One scale for all values leaves the many small ones a few levels where a few are a hundred times as
large. LLM.int8() (Dettmers et al., 2022, arXiv:2208.07339) takes such values apart by features and
multiplies them in fp16. Here they are taken apart by magnitude, as no feature is known to hold them
all, and both parts are int8:

    x · w = clip(x, -t, t) · w + (x - clip(x, -t, t)) · w

That costs a second product and leaves the small values steps of 2 t / 255. The bound is the one of
the least squared error. Convolutions are left alone: onnxruntime rounds their sums to int8 as well,
which have outliers of their own.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from onnx import NodeProto

from compress.export.bodies import has_bodies
from compress.quantization.calibration.histogram import Histogram
from compress.quantization.calibration.statistics import Statistics
from compress.quantization.editing import Edit, rewrite
from compress.quantization.rewriting.files import load, save

#: How many times smaller the mean squared error has to become: a bit.
_LEAST_GAIN = 4.0
#: Shares of the largest magnitude that are tried as the bound, 7 % apart.
_SHARES = np.geomspace(1.0, 0.01, 64)


def split_outliers(
    source: Path, target: Path, statistics: Statistics, nodes: Collection[str]
) -> frozenset[str]:
    """Write a copy of an fp32 ONNX file that computes the same, with outliers apart.

    Args:
        statistics: of the file's tensors.
        nodes: names of the nodes that are to be taken apart.

    Returns:
        Names of the nodes that were: products by a constant whose other factor has outliers. In a
        file with bodies of If, Loop or Scan there are none; then nothing is written.
    """
    model = load(source)
    if has_bodies(model):
        return frozenset()
    bounds = {name: bound(entry.histogram) for name, entry in statistics.tensors.items()}
    known = {name: found for name, found in bounds.items() if found is not None}
    split = _Split(known, frozenset(nodes))
    if rewrite(model, {"Gemm": split, "MatMul": split}):
        save(model, target)
    return frozenset(split.done)


def bound(histogram: Histogram) -> float | None:
    """Magnitude from which values are outliers; None where splitting gains too little."""
    seen = histogram.counts > 0
    if not histogram.limit or not seen.any():
        return None
    counts = histogram.counts[seen] / histogram.counts.sum()
    values = np.abs(histogram.edges[:-1][seen] + histogram.width / 2)
    largest = float(values.max())
    bounds = largest * _SHARES
    beyond = np.array([counts[values > limit].sum() for limit in bounds])
    # Rounding to steps of s costs s²/12 a value; what is not beyond the bound leaves a zero, which
    # int8 holds exactly.
    errors = bounds**2 + beyond * (largest - bounds) ** 2
    best = int(np.argmin(errors))
    return float(bounds[best]) if errors[best] * _LEAST_GAIN <= errors[0] else None


@dataclass
class _Split:
    """Takes nodes apart by their first input.

    Attributes:
        bounds: by the name of a value.
        nodes: names of those that are wanted.
        parts: of the values that were cut, the names of what is within and beyond the bound.
        done: names of the nodes that were taken apart.
    """

    bounds: Mapping[str, float]
    nodes: frozenset[str]
    parts: dict[str, tuple[str, str]] = field(default_factory=dict)
    done: list[str] = field(default_factory=list)

    def __call__(self, edit: Edit, node: NodeProto) -> bool:
        name = node.input[0]
        wanted = node.name in self.nodes and name in self.bounds
        if not wanted or edit.weight(node.input[1]) is None:
            return False
        if name not in self.parts:
            self.parts[name] = self._cut(edit, name)
        within, beyond = (edit.fresh(f"{node.output[0]}_{part}") for part in ("within", "beyond"))
        for part, output, inputs in (
            (self.parts[name][0], within, node.input[1:]),
            (self.parts[name][1], beyond, node.input[1:2]),  # the bias is added once
        ):
            copy = NodeProto()
            copy.CopyFrom(node)
            copy.name = output
            copy.input[:], copy.output[:] = [part, *inputs], [output]
            edit.nodes.append(copy)
        edit.add("Add", [within, beyond], node.output[0])
        self.done.append(node.name)
        return True

    def _cut(self, edit: Edit, name: str) -> tuple[str, str]:
        limit = np.float32(self.bounds[name])
        low = edit.constant(f"{name}_low", np.array(-limit))
        high = edit.constant(f"{name}_high", np.array(limit))
        within = edit.add("Clip", [name, low, high], edit.fresh(f"{name}_within"))
        return within, edit.add("Sub", [name, within], edit.fresh(f"{name}_beyond"))

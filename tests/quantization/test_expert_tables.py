"""Matrices that a Gather picks by number, such as those of experts, stored as int8."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from small_graphs import INT64, save, value

from compress.quantization.dynamic import quantize_dynamic_int8
from compress.quantization.weight_only import quantize_weights
from compress.runtime.onnxruntime import Session

INDEX = np.array([[0, 3], [-1, 1]])


@pytest.mark.parametrize(
    ("shape", "scales"), [((4, 32, 48), (4, 1, 48)), ((64, 8, 16), (64, 1, 1))]
)
@pytest.mark.parametrize("quantize", [quantize_weights, quantize_dynamic_int8])
def test_each_matrix_has_scales_of_its_own(
    tmp_path: Path, shape: tuple[int, ...], scales: tuple[int, ...], quantize: Callable[..., object]
):
    table = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    table *= np.arange(1, shape[0] + 1, dtype=np.float32)[:, None, None]
    nodes = [helper.make_node("Gather", ["table", "i"], ["y"], "experts")]
    ends = [value("i", ["n", 2], INT64)], [value("y", ["n", 2, *shape[1:]])]
    source = save(tmp_path / "a.onnx", nodes, *ends, {"table": table})
    quantize(source, tmp_path / "b.onnx")
    tensors = onnx.load(tmp_path / "b.onnx").graph.initializer
    stored = {tensor.data_type: tuple(tensor.dims) for tensor in tensors}
    assert stored == {TensorProto.INT8: shape, TensorProto.FLOAT: scales}
    found, wanted = Session(tmp_path / "b.onnx").run(INDEX), table[INDEX]
    assert found.shape == wanted.shape
    off, largest = (np.abs(one).max(axis=(2, 3)) for one in (found - wanted, wanted))
    assert (off > 0).all()
    assert (off <= largest / 127 / 2 * 1.001).all()

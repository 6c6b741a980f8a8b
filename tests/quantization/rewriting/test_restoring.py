"""Weights stored as integers, restored, against onnxruntime's own DequantizeLinear."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto
from sketch import Sketch, kinds, run

from compress.quantization.dynamic import quantize_dynamic_int8
from compress.quantization.rewriting.restoring import restore_weights
from compress.quantization.rewriting.simplify import simplify

RANDOM = np.random.default_rng(0)


def stored(g: Sketch, kind: type, scales: tuple[int, ...], *, zero: bool, **settings) -> str:
    """A product with a weight of (64, 32) that is stored as integers."""
    info = np.iinfo(kind)
    weight = RANDOM.integers(max(info.min, -(2**15)), min(info.max, 2**15), (64, 32))
    inputs = [g.constant(weight, kind), g.constant(RANDOM.random(scales) / 100)]
    if zero:
        inputs.append(g.constant(RANDOM.integers(0, 9, scales), kind))
    x = g.input(shape=("batch", 64))
    return g.MatMul(x, g.DequantizeLinear(*inputs, **settings))


@pytest.mark.parametrize("kind", [np.int8, np.uint8, np.int16, np.uint16])
@pytest.mark.parametrize(
    ("scales", "axis"), [((), 1), ((1,), 1), ((32,), 1), ((64,), 0), ((32,), -1)]
)
def test_a_weight_is_what_onnxruntime_restores(kind: type, scales: tuple[int, ...], axis: int):
    g = Sketch(opset=21)
    model = g.output(stored(g, kind, scales, zero=True, axis=axis)).model()
    x = RANDOM.standard_normal((5, 64)).astype(np.float32)
    expected = run(model, x)[0]
    assert restore_weights(model) == 1
    assert "DequantizeLinear" not in kinds(model)
    np.testing.assert_allclose(run(model, x)[0], expected, rtol=1e-5, atol=1e-3)


def test_without_a_zero_point_and_only_what_is_constant():
    g = Sketch(opset=21)
    made = stored(g, np.int8, (32,), zero=False, axis=1)
    model = g.output(g.DequantizeLinear(g.Cast(made, to=TensorProto.INT8), 0.1)).model()
    assert restore_weights(model) == 1
    assert kinds(model) == {"MatMul": 1, "Cast": 1, "DequantizeLinear": 1}


def test_scales_for_blocks_and_what_is_written_with_casts():
    g = Sketch(opset=21)
    weight, x = RANDOM.integers(-9, 9, (64, 32)), g.input(shape=("batch", 64))
    scales, centre = g.constant(RANDOM.random((4, 32))), g.constant(np.full((1, 64), 3))
    blocks = g.DequantizeLinear(g.constant(weight, np.int8), scales, axis=0, block_size=16)
    shifted = g.Sub(g.Cast(g.constant(weight.T + 9, np.uint8), to=1), centre)
    cast = g.Transpose(g.Mul(shifted, 0.01), perm=[1, 0])
    model = g.output(g.Add(g.MatMul(x, blocks), g.MatMul(x, cast))).model()
    rows = RANDOM.standard_normal((5, 64)).astype(np.float32)
    expected = run(model, rows)[0]
    assert restore_weights(model) == 5
    assert kinds(model) == {"MatMul": 2, "Add": 1}
    np.testing.assert_allclose(run(model, rows)[0], expected, rtol=1e-5, atol=1e-4)


def test_such_a_model_then_has_products_for_int8(tmp_path):
    g = Sketch(opset=21)
    model = g.output(stored(g, np.int8, (32,), zero=False, axis=1)).model()
    onnx.save(model, tmp_path / "model.onnx")
    rewrites = simplify(tmp_path / "model.onnx", tmp_path / "prepared.onnx")
    assert "stored integers restored" in {entry.name for entry in rewrites if not entry.undone}
    quantize_dynamic_int8(tmp_path / "prepared.onnx", tmp_path / "int8.onnx")
    assert kinds(onnx.load(tmp_path / "int8.onnx"))["DynamicQuantizeMatMul"] == 1

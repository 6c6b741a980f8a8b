"""Graphs that are quantized already pass through, with the rest of them rewritten."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper
from sketch import (
    RANDOM,
    Sketch,
    constants_as_nodes,
    gelu,
    kinds,
    numbers,
    same_outputs,
    save,
)

from compress.quantization.dynamic import quantize_dynamic_int8
from compress.quantization.rewriting.simplify import simplify
from compress.runtime.onnxruntime import Session


def qdq():
    """Static int8 as QDQ: weights as integers, which folding must not turn into floats."""
    g = Sketch(13)
    zero, scale = g.constant(0, np.int64), 0.02
    zero = "zero"
    g.constants.append(numpy_helper.from_array(np.int8(0), zero))
    weight = RANDOM.integers(-127, 128, (8, 8)).astype(np.int8)
    g.constants.append(numpy_helper.from_array(weight, "weight"))

    def through(x):
        return g.DequantizeLinear(g.QuantizeLinear(x, scale, zero), scale, zero)

    weights = g.DequantizeLinear("weight", 0.01, zero)
    x = through(g.input("x", ("n", 8)))
    return g.output(through(g.Identity(g.MatMul(x, weights)))).model()


def test_a_static_int8_graph_passes_unharmed(tmp_path):
    source = save(constants_as_nodes(qdq()), tmp_path / "m.onnx")
    simplify(source, tmp_path / "out.onnx")
    found = onnx.load(tmp_path / "out.onnx")
    assert kinds(found) == {"QuantizeLinear": 2, "DequantizeLinear": 3, "MatMul": 1}
    types = {tensor.name: tensor.data_type for tensor in found.graph.initializer}
    assert types["weight"] == TensorProto.INT8
    x = numbers(6, 8)
    np.testing.assert_array_equal(*(Session(p).run(x) for p in (source, tmp_path / "out.onnx")))


def test_a_dynamic_int8_graph_keeps_its_operators_and_gets_the_others(tmp_path):
    g = Sketch(18)
    x = g.MatMul(g.input("x", ("n", 64)), g.constant(numbers(64, 64)))
    save(g.output(gelu(g, x)).model(), tmp_path / "fp32.onnx")
    source = tmp_path / "int8.onnx"
    quantize_dynamic_int8(tmp_path / "fp32.onnx", source)
    simplify(source, tmp_path / "out.onnx")
    assert kinds(onnx.load(tmp_path / "out.onnx")) == {"DynamicQuantizeMatMul": 1, "Gelu": 1}
    x = numbers(6, 64)
    np.testing.assert_allclose(*(Session(p).run(x) for p in (source, tmp_path / "out.onnx")), 1e-4)


def stored_int8():
    """Weights as integers that each call turns into floats."""
    g = Sketch(13)
    weight = RANDOM.integers(-127, 128, (64, 64)).astype(np.int8)
    g.constants.append(numpy_helper.from_array(weight, "weight"))
    floats = g.Mul(g.Cast("weight", to=TensorProto.FLOAT), 0.01)
    return g.output(gelu(g, g.MatMul(g.input("x", ("n", 64)), floats))).model()


def test_weights_that_are_only_stored_as_integers_are_restored(tmp_path):
    source = save(stored_int8(), tmp_path / "m.onnx")
    assert not [r for r in simplify(source, tmp_path / "out.onnx") if r.undone]
    found = onnx.load(tmp_path / "out.onnx")
    assert kinds(found) == {"MatMul": 1, "Gelu": 1}
    same_outputs(source, tmp_path / "out.onnx", numbers(5, 64))

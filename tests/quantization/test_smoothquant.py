"""Smoothed models compute the same, and lose less in int8 where channels differ much."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import helper
from small_graphs import save, value

from compress.quantization.calibration import collect
from compress.quantization.config import QuantizeConfig
from compress.quantization.smoothquant import smooth
from compress.quantization.static import quantize_static_int8
from compress.runtime.onnxruntime import Session

RANDOM = np.random.default_rng(0)
WIDTH = 16


def normal(*shape: int) -> np.ndarray:
    return RANDOM.standard_normal(shape).astype(np.float32)


def block(path: Path, outlier: float = 60.0) -> Path:
    """A normalization with one large channel, two products that read it, a feed-forward part."""
    node = helper.make_node
    nodes = [
        node("LayerNormalization", ["x", "scale", "shift"], ["n"], "norm", axis=-1),
        node("MatMul", ["n", "wq"], ["q"], "query"),
        node("MatMul", ["n", "wk"], ["k0"], "key"),
        node("Add", ["k0", "bk"], ["k"], "key bias"),
        node("Mul", ["q", "k"], ["h"], "mixed"),
        node("MatMul", ["h", "w1"], ["f0"], "first"),
        node("Add", ["f0", "b1"], ["f"], "first bias"),
        node("Relu", ["f"], ["r"], "relu"),
        node("MatMul", ["r", "w2"], ["y"], "second"),
    ]
    scale = np.ones(WIDTH, np.float32)
    scale[3] = outlier
    small = normal(WIDTH, WIDTH) / 4
    small[3] /= outlier
    key = normal(WIDTH, WIDTH) / 4
    key[3] /= outlier
    constants = {
        "scale": scale,
        "shift": normal(WIDTH),
        "wq": small,
        "wk": key,
        "bk": normal(WIDTH),
        "w1": normal(WIDTH, 2 * WIDTH),
        "b1": normal(2 * WIDTH),
        "w2": normal(2 * WIDTH, WIDTH),
    }
    shapes = [value("x", ["n", "t", WIDTH])], [value("y", ["n", "t", WIDTH])]
    return save(path, nodes, *shapes, constants)


def test_answers_stay_and_int8_loses_less(tmp_path: Path):
    source, target = block(tmp_path / "m.onnx"), tmp_path / "smooth.onnx"
    batches = [(normal(8, 6, WIDTH),) for _ in range(3)]
    config = QuantizeConfig()
    assert smooth(source, target, batches, config) >= 1
    rows = normal(32, 6, WIDTH)
    expected = Session(source).run(rows)
    np.testing.assert_allclose(Session(target).run(rows), expected, rtol=1e-3, atol=1e-3)
    before, after = (collect(path, batches).tensors["n"] for path in (source, target))
    assert after.high - after.low < (before.high - before.low) / 3
    errors = []
    for path in (source, target):
        ranges = collect(path, batches).ranges()
        quantize_static_int8(path, tmp_path / "8.onnx", ranges, config, kinds=("MatMul",))
        errors.append(float(np.square(Session(tmp_path / "8.onnx").run(rows) - expected).mean()))
    assert errors[1] < errors[0] / 2


def test_what_something_else_reads_is_divided_for_the_products_alone(tmp_path: Path):
    source = block(tmp_path / "m.onnx")
    model = onnx.load(source)
    model.graph.node.append(helper.make_node("Add", ["n", "y"], ["z"], "residual"))
    relu = next(node for node in model.graph.node if node.op_type == "Relu")
    relu.op_type = "Tanh"
    model.graph.output.append(value("z", ["n", "t", WIDTH]))
    onnx.save(model, source)
    batches = [(normal(4, 6, WIDTH),)]
    target = tmp_path / "smooth.onnx"
    assert smooth(source, target, batches, QuantizeConfig()) == 1
    found = {node.name: node for node in onnx.load(target).graph.node}
    (scaled,) = found["query"].input[:1]
    assert found[scaled].input[0] == found["residual"].input[0] == "n"
    assert found["key"].input[0] == scaled
    assert [found[name].input[0] for name in ("first", "second")] == ["h", "r"]
    rows = normal(16, 6, WIDTH)
    for wanted, made in zip(
        Session(source).outputs_of((rows,)), Session(target).outputs_of((rows,)), strict=True
    ):
        np.testing.assert_allclose(made, wanted, rtol=1e-3, atol=1e-3)


def test_a_node_is_added_only_where_it_pays(tmp_path: Path):
    """Channels that are alike: some alpha is always a little better, and not worth a Mul."""
    weights = {"w": normal(WIDTH, WIDTH)}
    nodes = [
        helper.make_node("Tanh", ["x"], ["t"], "tanh"),
        helper.make_node("MatMul", ["t", "w"], ["y"], "product"),
    ]
    shapes = [value("x", ["n", WIDTH])], [value("y", ["n", WIDTH])]
    source, target = save(tmp_path / "m.onnx", nodes, *shapes, weights), tmp_path / "smooth.onnx"
    assert smooth(source, target, [(normal(64, WIDTH),)], QuantizeConfig()) == 0
    assert onnx.load(target) == onnx.load(source)

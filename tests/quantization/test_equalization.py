"""Layers that are equalized compute the same, and have the ranges that the paper asks for."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper
from small_graphs import save, value

from compress.quantization.calibration import collect
from compress.quantization.config import QuantizeConfig
from compress.quantization.equalization import equalize
from compress.quantization.static import quantize_static_int8
from compress.runtime.onnxruntime import Session

RANDOM = np.random.default_rng(0)


def normal(*shape: int) -> np.ndarray:
    return RANDOM.standard_normal(shape).astype(np.float32)


def uneven(weight: np.ndarray, axis: int) -> np.ndarray:
    """Channels that differ by up to a hundred times."""
    factors = 10.0 ** RANDOM.uniform(-1, 1, weight.shape[axis])
    shape = [1] * weight.ndim
    shape[axis] = -1
    return (weight * factors.reshape(shape)).astype(np.float32)


def chain(path: Path) -> Path:
    """Convolution, depthwise convolution, pooling, convolution; then two linear layers."""
    node = helper.make_node
    nodes = [
        node("Conv", ["x", "w1", "b1"], ["c1"], "one", pads=[1, 1, 1, 1]),
        node("Relu", ["c1"], ["r1"], "r1"),
        node("Conv", ["r1", "w2", "b2"], ["c2"], "two", pads=[1, 1, 1, 1], group=8),
        node("LeakyRelu", ["c2"], ["r2"], "r2"),
        node("MaxPool", ["r2"], ["p"], "pool", kernel_shape=[2, 2], strides=[2, 2]),
        node("Conv", ["p", "w3"], ["c3"], "three"),
        node("Sigmoid", ["c3"], ["s"], "bends"),
        node("Flatten", ["s"], ["f"], "flat"),
        node("Gemm", ["f", "w4", "b4"], ["g"], "four", transB=1),
        node("Relu", ["g"], ["r4"], "r4"),
        node("MatMul", ["r4", "w5"], ["m"], "five"),
        node("Add", ["b5", "m"], ["y"], "added"),
    ]
    constants = {
        "w1": uneven(normal(8, 2, 3, 3), 0),
        "b1": normal(8),
        "w2": uneven(normal(8, 1, 3, 3), 0),
        "b2": normal(8),
        "w3": uneven(normal(4, 8, 1, 1), 1),
        "w4": uneven(normal(16, 64), 0),
        "b4": normal(16),
        "w5": uneven(normal(16, 3), 0),
        "b5": normal(3),
    }
    shapes = [value("x", ["n", 2, 8, 8])], [value("y", ["n", 3])]
    return save(path, nodes, *shapes, constants)


def weights(path: Path) -> dict[str, np.ndarray]:
    return {t.name: numpy_helper.to_array(t) for t in onnx.load(path).graph.initializer}


def test_the_answers_stay_and_both_sides_get_the_same_ranges(tmp_path: Path):
    source, target = chain(tmp_path / "m.onnx"), tmp_path / "equal.onnx"
    assert equalize(source, target) == 3
    rows = normal(6, 2, 8, 8)
    np.testing.assert_allclose(
        Session(target).run(rows), Session(source).run(rows), rtol=1e-4, atol=1e-4
    )
    found = weights(target)
    np.testing.assert_allclose(
        np.abs(found["w4"]).max(axis=1), np.abs(found["w5"]).max(axis=1), rtol=1e-2
    )
    for one, two in (
        (("w1", (1, 2, 3)), ("w2", (1, 2, 3))),
        (("w2", (1, 2, 3)), ("w3", (0, 2, 3))),
    ):
        np.testing.assert_allclose(
            np.abs(found[one[0]]).max(axis=one[1]),
            np.abs(found[two[0]]).max(axis=two[1]),
            rtol=1e-2,
        )


def test_one_scale_a_tensor_then_costs_less_accuracy(tmp_path: Path):
    source, target = chain(tmp_path / "m.onnx"), tmp_path / "equal.onnx"
    equalize(source, target)
    rows = normal(64, 2, 8, 8)
    expected, errors = Session(source).run(rows), []
    for path in (source, target):
        ranges = collect(path, [(rows,)]).ranges()
        quantize_static_int8(path, tmp_path / "8.onnx", ranges, QuantizeConfig(per_channel=False))
        errors.append(float(np.abs(Session(tmp_path / "8.onnx").run(rows) - expected).mean()))
    assert errors[1] < errors[0]


@pytest.mark.parametrize("between", ["Sigmoid", "two readers", "output"])
def test_layers_that_something_else_reads_or_bends_are_left_alone(tmp_path: Path, between: str):
    node = helper.make_node
    nodes = [
        node("MatMul", ["x", "w1"], ["a"], "one"),
        node("Sigmoid" if between == "Sigmoid" else "Relu", ["a"], ["b"], "middle"),
        node("MatMul", ["b", "w2"], ["y"], "two"),
    ]
    outputs = [value("y", ["n", 3])]
    if between == "two readers":
        nodes.append(node("Neg", ["b"], ["z"], "other"))
        outputs.append(value("z", ["n", 4]))
    if between == "output":
        outputs.append(value("b", ["n", 4]))
    constants = {"w1": normal(2, 4), "w2": normal(4, 3)}
    source = save(tmp_path / "m.onnx", nodes, [value("x", ["n", 2])], outputs, constants)
    assert equalize(source, tmp_path / "equal.onnx") == 0
    assert onnx.load(tmp_path / "equal.onnx") == onnx.load(source)


def test_a_channel_of_zeros_is_left_alone(tmp_path: Path):
    node = helper.make_node
    nodes = [
        node("MatMul", ["x", "w1"], ["a"], "one"),
        node("MatMul", ["a", "w2"], ["y"], "two"),
    ]
    constants = {"w1": uneven(normal(2, 4), 1), "w2": normal(4, 3)}
    constants["w1"][:, 1] = 0
    constants["w2"][2] = 0
    shapes = [value("x", ["n", 2])], [value("y", ["n", 3])]
    source = save(tmp_path / "m.onnx", nodes, *shapes, constants)
    assert equalize(source, tmp_path / "equal.onnx") == 1
    found = weights(tmp_path / "equal.onnx")
    for name in constants:
        assert np.isfinite(found[name]).all()
    np.testing.assert_array_equal(found["w1"][:, 1:3], constants["w1"][:, 1:3])

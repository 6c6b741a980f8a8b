"""A saturating CPU's answers, against its instruction done by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from pair_sums import rows, saturated

from compress.quantization.saturation import emulate, saturates
from compress.runtime.onnxruntime import Session

X_SCALE, X_ZERO = np.float32(0.02), 100


def quantized(x: np.ndarray) -> np.ndarray:
    return np.clip(np.rint(x / X_SCALE) + X_ZERO, 0, 255).astype(np.int64)


def model(
    path: Path, kind: str, weights: np.ndarray, shape: list[int], **attributes: object
) -> Path:
    """Q → DQ → the node, with int8 weights; scales are 0.01 for each output."""
    out = weights.shape[1] if kind == "MatMul" else weights.shape[0]
    axis = 1 if kind == "MatMul" else 0
    constants = {
        "xs": X_SCALE,
        "xz": np.uint8(X_ZERO),
        "w": weights,
        "ws": np.full(out, 0.01, np.float32),
        "wz": np.zeros(out, np.int8),
        "b": np.arange(out, dtype=np.float32),
    }
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "xs", "xz"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "xs", "xz"], ["dx"]),
        helper.make_node("DequantizeLinear", ["w", "ws", "wz"], ["dw"], axis=axis),
        helper.make_node(
            kind, ["dx", "dw"] + ["b"] * (kind != "MatMul"), ["y"], name="it", **attributes
        ),
    ]
    given = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", *shape])
    made = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    tensors = [numpy_helper.from_array(np.asarray(v), name) for name, v in constants.items()]
    graph = helper.make_graph(nodes, "g", [given], [made], tensors)
    opset = [helper.make_opsetid("", 18)]
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=9), path)
    return path


@pytest.mark.parametrize("width", [6, 7])
@pytest.mark.parametrize("kind", ["MatMul", "Gemm"])
def test_products_are_cut_as_the_instruction_cuts_them(kind: str, width: int, tmp_path: Path):
    weights = np.random.default_rng(1).integers(-127, 128, (5, width)).astype(np.int8)
    stored = weights.T if kind == "MatMul" else weights
    more = {} if kind == "MatMul" else {"transB": 1}
    source = model(tmp_path / "a.onnx", kind, np.ascontiguousarray(stored), [width], **more)
    found = emulate(source, tmp_path / "b.onnx")
    assert 0 < found.at_risk["it"] < 1
    x = rows(50, width)
    sums = saturated(quantized(x), weights.astype(np.int64)) - X_ZERO * weights.sum(axis=1)
    expected = sums * X_SCALE * 0.01 + (0 if kind == "MatMul" else np.arange(5))
    answers = Session(tmp_path / "b.onnx").run(x)
    np.testing.assert_allclose(answers, expected, rtol=1e-4, atol=1e-3)
    assert np.abs(answers - Session(source).run(x)).max() > 1


def test_products_of_more_axes(tmp_path: Path):
    weights = np.random.default_rng(1).integers(-127, 128, (6, 4)).astype(np.int8)
    source = model(tmp_path / "a.onnx", "MatMul", weights, [3, 6])
    emulate(source, tmp_path / "b.onnx")
    x = rows(5, 3, 6)
    flat = quantized(x).reshape(-1, 6)
    sums = saturated(flat, weights.T.astype(np.int64)) - X_ZERO * weights.sum(axis=0)
    expected = (sums * X_SCALE * 0.01).reshape(5, 3, 4)
    np.testing.assert_allclose(Session(tmp_path / "b.onnx").run(x), expected, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("channels", [1, 2, 3])
@pytest.mark.parametrize("pads", [[0, 0, 0, 0], [1, 1, 1, 1], [0, 1, 2, 0]])
def test_convolutions_are_cut_with_the_channel_innermost(
    channels: int, pads: list[int], tmp_path: Path
):
    weights = np.random.default_rng(1).integers(-127, 128, (4, channels, 3, 2)).astype(np.int8)
    source = model(
        tmp_path / "a.onnx", "Conv", weights, [channels, 7, 6], pads=pads, strides=[2, 1]
    )
    emulate(source, tmp_path / "b.onnx")
    x = rows(3, channels, 7, 6)
    top, left, bottom, right = pads
    sides = ((0, 0), (0, 0), (top, bottom), (left, right))
    raw = np.pad(quantized(x), sides, constant_values=X_ZERO)
    flat = weights.transpose(0, 2, 3, 1).reshape(4, -1).astype(np.int64)
    answers = Session(tmp_path / "b.onnx").run(x)
    for row in range(answers.shape[2]):
        for column in range(answers.shape[3]):
            patch = raw[:, :, 2 * row : 2 * row + 3, column : column + 2]
            inner = patch.transpose(0, 2, 3, 1).reshape(3, -1)
            sums = saturated(inner, flat) - X_ZERO * flat.sum(axis=1)
            expected = sums * X_SCALE * 0.01 + np.arange(4)
            np.testing.assert_allclose(answers[:, :, row, column], expected, rtol=1e-4, atol=1e-3)


def test_weights_of_seven_bits_are_never_cut(tmp_path: Path):
    weights = np.random.default_rng(1).integers(-64, 65, (5, 8)).astype(np.int8)
    source = model(tmp_path / "a.onnx", "Gemm", weights, [8], transB=1)
    assert emulate(source, tmp_path / "b.onnx").at_risk == {"it": 0.0}
    assert len(onnx.load(tmp_path / "b.onnx").graph.node) == 4


def test_which_processors_cut():
    assert saturates("x86_64", ["avx2"])
    assert saturates("x86_64", ["avx2", "avx512f"])
    assert not saturates("x86_64", ["avx2", "avx_vnni"])
    assert not saturates("x86_64", ["avx512f", "avx512_vnni"])
    assert not saturates("aarch64", ["asimddp"])

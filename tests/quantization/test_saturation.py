"""A saturating CPU's answers, against its instruction done by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from compress.quantization.dynamic import quantize_dynamic_int8
from compress.quantization.saturation import Saturation, emulate, saturates
from compress.quantization.weight_only import quantize_symmetric
from compress.runtime.onnxruntime import Session

X_SCALE, X_ZERO = np.float32(0.02), 100


def rows(count: int, *shape: int) -> np.ndarray:
    """Inputs that reach both ends of the activations' range."""
    return np.random.default_rng(0).uniform(-2, 3.1, (count, *shape)).astype(np.float32)


def quantized(x: np.ndarray) -> np.ndarray:
    return np.clip(np.rint(x / X_SCALE) + X_ZERO, 0, 255).astype(np.int64)


def saturated(x: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Σ over pairs of the sum of two products, cut to 16 bits; x (n, in), weights (out, in)."""
    total = np.zeros((len(x), len(weights)), np.int64)
    for at in range(0, x.shape[1], 2):
        pair = sum(x[:, k, None] * weights[None, :, k] for k in range(at, min(at + 2, x.shape[1])))
        total += np.clip(pair, -(2**15), 2**15 - 1)
    return total


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


def by_range(x: np.ndarray) -> tuple[np.ndarray, np.float32, int]:
    """A call's uint8, by ONNX's DynamicQuantizeLinear: scale and zero point from its own range."""
    low, high = np.minimum(x.min(), 0), np.maximum(x.max(), 0)
    scale = np.float32((high - low) / np.float32(255)) or np.float32(1)
    zero = int(np.clip(np.rint(-low / scale), 0, 255))
    return np.clip(np.rint(x / scale) + zero, 0, 255).astype(np.int64), scale, zero


def dynamic_product(x: np.ndarray, weights: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """x (n, in) · weights (out, in), with sums cut to 16 bits."""
    values, x_scale, zero = by_range(x)
    wide = weights.astype(np.int64)
    return (saturated(values, wide) - zero * wide.sum(axis=1)) * x_scale * scale


def dynamic_model(path: Path, weights: np.ndarray, scale: np.ndarray, rank: int = 2) -> Path:
    constants = {"w": np.ascontiguousarray(weights.T), "s": scale, "b": np.arange(len(weights))}
    constants["b"] = constants["b"].astype(np.float32)
    nodes = [
        helper.make_node(
            "DynamicQuantizeMatMul", ["x", "w", "s", "", "b"], ["y"], "it", domain="com.microsoft"
        )
    ]
    shape = ["n", "t", weights.shape[1]][-rank:]
    given = helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)
    return saved(path, nodes, [given], ["y"], constants)


def saved(path: Path, nodes: list, inputs: list, outputs: list, constants: dict) -> Path:
    made = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs]
    tensors = [numpy_helper.from_array(np.asarray(v), name) for name, v in constants.items()]
    graph = helper.make_graph(nodes, "g", inputs, made, tensors)
    opset = [helper.make_opsetid("", 18), helper.make_opsetid("com.microsoft", 1)]
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=9), path)
    return path


def integers(*shape: int, most: int = 127, seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).integers(-most, most + 1, shape).astype(np.int8)


@pytest.mark.parametrize("width", [6, 7])
@pytest.mark.parametrize("per_channel", [True, False])
def test_dynamic_products_are_cut_by_the_range_of_the_call(
    width: int, per_channel: bool, tmp_path: Path
):
    weights = integers(5, width)
    scale = np.float32([0.01, 0.02, 0.03, 0.04, 0.05] if per_channel else 0.01)
    source = dynamic_model(tmp_path / "a.onnx", weights, scale)
    found = emulate(source, tmp_path / "b.onnx")
    assert (list(found.at_risk), found.left_out, found.dynamic) == (["it"], (), True)
    for x in (rows(50, width), rows(3, width) * 7):
        expected = dynamic_product(x, weights, scale) + np.arange(5)
        answers = Session(tmp_path / "b.onnx").run(x)
        np.testing.assert_allclose(answers, expected, rtol=1e-4, atol=2e-3)
        assert np.abs(answers - Session(source).run(x)).max() > 1


def test_dynamic_products_of_more_axes_have_one_range(tmp_path: Path):
    weights, scale = integers(4, 6), np.full(4, 0.01, np.float32)
    source = dynamic_model(tmp_path / "a.onnx", weights, scale, rank=3)
    emulate(source, tmp_path / "b.onnx")
    x = rows(5, 3, 6)
    expected = dynamic_product(x.reshape(-1, 6), weights, scale) + np.arange(4)
    answers = Session(tmp_path / "b.onnx").run(x)
    np.testing.assert_allclose(answers, expected.reshape(5, 3, 4), rtol=1e-4, atol=2e-3)


def test_dynamic_products_of_seven_bits_are_left_alone(tmp_path: Path):
    source = dynamic_model(tmp_path / "a.onnx", integers(5, 8, most=64), np.float32(0.01))
    assert emulate(source, tmp_path / "b.onnx") == Saturation({"it": 0.0}, ())
    assert [node.op_type for node in onnx.load(tmp_path / "b.onnx").graph.node] == [
        "DynamicQuantizeMatMul"
    ]


def test_a_gru_step_by_step_is_cut_in_its_loop(tmp_path: Path):
    random, hidden = np.random.default_rng(0), 64
    tensors = {
        "w": random.uniform(-0.3, 0.3, (1, 3 * hidden, 48)).astype(np.float32),
        "r": random.uniform(-0.3, 0.3, (1, 3 * hidden, hidden)).astype(np.float32),
    }
    node = helper.make_node(
        "GRU", ["x", "w", "r"], ["a"], "gru", hidden_size=hidden, linear_before_reset=1
    )
    last = helper.make_node("Squeeze", ["a", "axis"], ["y"])
    given = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["t", "n", 48])
    tensors["axis"] = np.array([1])
    source = saved(tmp_path / "a.onnx", [node, last], [given], ["y"], tensors)
    quantize_dynamic_int8(source, tmp_path / "b.onnx", by_step=True)
    found = emulate(tmp_path / "b.onnx", tmp_path / "c.onnx")
    assert len(found.at_risk) == 2
    assert all(0.1 < share < 0.9 for share in found.at_risk.values())
    x = random.uniform(0, 1, (6, 3, 48)).astype(np.float32)
    weights = {name: quantize_symmetric(tensors[name][0].T, 1) for name in "wr"}
    w, r = ((values.T, scale.ravel()) for values, scale in weights.values())
    gates, h = dynamic_product(x.reshape(-1, 48), *w).reshape(6, 3, -1), np.zeros((3, hidden))
    for step in range(6):
        parts = dynamic_product(h.astype(np.float32), *r)
        update, reset = (
            sigmoid(gates[step][:, part] + parts[:, part])
            for part in (slice(0, hidden), slice(hidden, 2 * hidden))
        )
        new = np.tanh(gates[step][:, 2 * hidden :] + reset * parts[:, 2 * hidden :])
        h = update * h + (1 - update) * new
        answers = Session(tmp_path / "c.onnx").every_output((x,))[0][step]
        np.testing.assert_allclose(answers, h, atol=0.01)
    assert np.abs(answers - Session(tmp_path / "b.onnx").every_output((x,))[0][-1]).max() > 0.1


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def lstm_model(path: Path, direction: str, weights: dict[str, np.ndarray], **given: bool) -> Path:
    """DynamicQuantizeLSTM as the dynamic quantizer writes it, of 8 units and 6 features."""
    ways = len(weights["w"])
    constants = {
        "w": np.ascontiguousarray(weights["w"].transpose(0, 2, 1)),
        "r": np.ascontiguousarray(weights["r"].transpose(0, 2, 1)),
        "b": np.random.default_rng(5).normal(0, 0.3, (ways, 64)).astype(np.float32),
        "s": weights["s"],
        "z": np.zeros(weights["s"].shape, np.int8),
    }
    inputs = ["x", "w", "r", "b", "lengths" * given.get("lengths", False), "h0", "c0", ""]
    inputs[5:7] = inputs[5:7] if given.get("state") else ["", ""]
    inputs += ["s", "z", "s", "z"]
    outputs = ["all", "last", "cell"]
    more = {"direction": direction, "hidden_size": 8, "input_forget": 0, "domain": "com.microsoft"}
    node = helper.make_node("DynamicQuantizeLSTM", inputs, outputs, "lstm", **more)
    taken = [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["t", "n", 6])]
    if given.get("lengths"):
        taken.append(helper.make_tensor_value_info("lengths", TensorProto.INT32, ["n"]))
    if given.get("state"):
        taken += [
            helper.make_tensor_value_info(name, TensorProto.FLOAT, [ways, "n", 8])
            for name in ("h0", "c0")
        ]
    return saved(path, [node], taken, outputs, constants)


def lstm_weights(ways: int, most: int) -> dict[str, np.ndarray]:
    return {
        "w": integers(ways, 32, 6, most=most),
        "r": integers(ways, 32, 8, most=most, seed=2),
        "s": np.random.default_rng(3).uniform(0.003, 0.006, (ways, 32)).astype(np.float32),
    }


@pytest.mark.parametrize("direction", ["forward", "reverse", "bidirectional"])
@pytest.mark.parametrize("given", [{}, {"lengths": True}, {"state": True}])
def test_an_lstm_taken_apart_is_the_kernel_where_nothing_is_cut(
    direction: str, given: dict[str, bool], tmp_path: Path
):
    ways = 1 + (direction == "bidirectional")
    weights = lstm_weights(ways, most=63)
    weights["w"][:, 0, :2] = 127  # one pair, of which the first feature is never there
    source = lstm_model(tmp_path / "a.onnx", direction, weights, **given)
    found = emulate(source, tmp_path / "b.onnx")
    assert found.dynamic
    assert 0 < found.at_risk["lstm"] < 0.01
    # One row: with more, onnxruntime may quantize the state of each by a range of its own.
    x = np.random.default_rng(4).uniform(0, 1, (7, 1, 6)).astype(np.float32)
    x[:, :, 0] = 0
    feeds: list[np.ndarray] = [x]
    if given.get("lengths"):
        feeds.append(np.array([5], np.int32))
    if given.get("state"):
        feeds += [np.random.default_rng(6).normal(size=(ways, 1, 8)).astype(np.float32)] * 2
    expected = Session(source).every_output(tuple(feeds))
    for want, got in zip(expected, Session(tmp_path / "b.onnx").every_output(feeds), strict=True):
        np.testing.assert_allclose(got, want, atol=1e-5)


def test_an_lstm_is_cut_in_every_step(tmp_path: Path):
    weights = lstm_weights(1, most=127)
    source = lstm_model(tmp_path / "a.onnx", "forward", weights)
    emulate(source, tmp_path / "b.onnx")
    x = np.random.default_rng(4).uniform(-0.2, 1, (7, 3, 6)).astype(np.float32)
    states, last, cells = Session(tmp_path / "b.onnx").every_output((x,))
    biases = np.random.default_rng(5).normal(0, 0.3, (1, 64)).astype(np.float32)[0]
    scale = weights["s"][0]
    gates = dynamic_product(x.reshape(-1, 6), weights["w"][0], scale).reshape(7, 3, 32)
    gates += biases[:32] + biases[32:]
    h = c = np.zeros((3, 8))
    for step in range(7):
        whole = gates[step] + dynamic_product(h.astype(np.float32), weights["r"][0], scale)
        i, o, f, new = np.split(whole, 4, axis=1)
        c = sigmoid(f) * c + sigmoid(i) * np.tanh(new)
        h = sigmoid(o) * np.tanh(c)
        np.testing.assert_allclose(states[step, 0], h, atol=0.01)
    np.testing.assert_allclose(last[0], h, atol=0.01)
    np.testing.assert_allclose(cells[0], c, atol=0.02)
    assert np.abs(states - Session(source).every_output((x,))[0]).max() > 0.05


def test_an_lstm_that_cannot_be_taken_apart_is_left_out(tmp_path: Path):
    source = lstm_model(tmp_path / "a.onnx", "forward", lstm_weights(1, most=127))
    model = onnx.load(source)
    model.graph.node[0].attribute.append(helper.make_attribute("clip", 3.0))
    onnx.save(model, source)
    assert emulate(source, tmp_path / "b.onnx") == Saturation({}, ("DynamicQuantizeLSTM",))


def test_which_processors_cut():
    assert saturates("x86_64", ["avx2"])
    assert saturates("x86_64", ["avx2", "avx512f"])
    assert not saturates("x86_64", ["avx2", "avx_vnni"])
    assert not saturates("x86_64", ["avx512f", "avx512_vnni"])
    assert not saturates("aarch64", ["asimddp"])

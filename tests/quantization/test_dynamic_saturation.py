"""A saturating CPU's answers where activations are quantized by the range of the call."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from pair_sums import dynamic_product, integers, rows, saved

from compress.quantization.dynamic import quantize_dynamic_int8
from compress.quantization.saturation import Saturation, emulate
from compress.quantization.weight_only import quantize_symmetric
from compress.runtime.onnxruntime import Session


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

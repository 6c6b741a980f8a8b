"""GRU and RNN taken apart into steps: exactly the same in fp32, close to it in int8."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import ModelProto, TensorProto, helper, numpy_helper

from compress.export.graph import operators, shorten_names
from compress.quantization import by_step
from compress.quantization.dynamic import quantize_dynamic_int8
from compress.quantization.editing import Edit, rewrite

UNITS, FEATURES = 64, 40
WAYS = ("forward", "reverse", "bidirectional")
LENGTHS = np.array([9, 1, 4, 7], np.int32)


def layer(
    kind: str,
    way: str = "forward",
    *,
    lengths: bool = True,
    outputs: tuple[str, ...] = ("every", "last"),
    biases: bool = True,
    units: int = UNITS,
    state: bool = False,
    opset: int = 20,
    **attributes: Any,
) -> ModelProto:
    """A model of one node, from `x` (time, batch, features)."""
    random, gates = np.random.default_rng(0), 3 if kind == "GRU" else 1
    directions, bound = 1 + (way == "bidirectional"), units**-0.5
    shapes = {
        "w": (gates * units, FEATURES),
        "r": (gates * units, units),
        "b": (2 * gates * units,),
    }
    constants = {
        name: random.uniform(-bound, bound, (directions, *shape)).astype(np.float32)
        for name, shape in shapes.items()
        if name != "b" or biases
    }
    given = {"x": (TensorProto.FLOAT, ["time", "batch", FEATURES])}
    if lengths:
        given["lengths"] = (TensorProto.INT32, ["batch"])
    if state:
        given["state"] = (TensorProto.FLOAT, [directions, "batch", units])
    made = {"every": ["time", directions, "batch", units], "last": [directions, "batch", units]}
    if kind == "GRU":
        attributes = {"linear_before_reset": 1, **attributes}
    names = {"x", "w", "r", "b", "lengths", "state"} & {*given, *constants}
    inputs = [name if name in names else "" for name in ("x", "w", "r", "b", "lengths", "state")]
    results = [name if name in outputs else "" for name in made]
    node = helper.make_node(kind, inputs, results, hidden_size=units, direction=way, **attributes)
    graph = helper.make_graph(
        [node],
        "g",
        [helper.make_tensor_value_info(name, *entry) for name, entry in given.items()],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, made[name]) for name in outputs],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    opsets = [helper.make_opsetid("", opset)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=9)


def run(model: ModelProto, lengths: bool, batch: int = 4, time: int = 9) -> list[np.ndarray]:
    onnx.checker.check_model(model)
    x = np.random.default_rng(1).standard_normal((time, batch, FEATURES)).astype(np.float32)
    feeds = {"x": x} | ({"lengths": np.minimum(LENGTHS[:batch], time)} if lengths else {})
    session = onnxruntime.InferenceSession(model.SerializeToString())
    for entry in session.get_inputs():
        if entry.name == "state":
            shape = (entry.shape[0], batch, UNITS)
            feeds["state"] = np.random.default_rng(2).uniform(-1, 1, shape).astype(np.float32)
    return [np.asarray(output) for output in session.run(None, feeds)]


def apart(model: ModelProto, **settings: Any) -> ModelProto:
    changed = ModelProto()
    changed.CopyFrom(model)

    def convert(edit: Edit, node: onnx.NodeProto) -> bool:
        return by_step.convert_by_step(edit, node, **settings)

    assert rewrite(changed, {"GRU": convert, "RNN": convert}) == 1
    return changed


def exact_product(
    edit: Edit, x: str, name: str, weight: np.ndarray, bias: str = "", **_: object
) -> str:
    product = edit.add("MatMul", [x, edit.constant(name, weight)])
    return edit.add("Add", [product, bias]) if bias else product


@pytest.mark.parametrize(("lengths", "state"), [(False, False), (True, False), (True, True)])
@pytest.mark.parametrize(("kind", "way"), [*itertools.product(("GRU", "RNN"), WAYS)])
def test_the_steps_are_the_node_itself_but_for_int8(
    kind: str, way: str, lengths: bool, state: bool, monkeypatch: pytest.MonkeyPatch
):
    for outputs in (("every", "last"), ("every",), ("last",)):
        settings = {"lengths": lengths, "state": state, "outputs": outputs}
        model = layer(kind, way, biases=len(outputs) == 2, **settings)
        quantized = apart(model)
        with monkeypatch.context() as patch:
            patch.setattr(by_step, "add_product", exact_product)
            exact = apart(model)
        for batch, time in ((4, 9), (1, 1), (2, 3)):
            expected = run(model, lengths, batch, time)
            for found, same in zip(run(exact, lengths, batch, time), expected, strict=True):
                np.testing.assert_allclose(found, same, atol=1e-6)
            for found, close in zip(run(quantized, lengths, batch, time), expected, strict=True):
                np.testing.assert_allclose(found, close, atol=0.02)


@pytest.mark.parametrize("per_channel", [True, False])
def test_the_state_behind_each_length_stays(per_channel: bool):
    model = apart(layer("GRU", outputs=("last",)), per_channel=per_channel)
    x = np.random.default_rng(1).standard_normal((9, 1, FEATURES)).astype(np.float32)
    session = onnxruntime.InferenceSession(model.SerializeToString())
    for length in (1, 4, 9):
        (whole,) = session.run(None, {"x": x, "lengths": np.array([length], np.int32)})
        cut = {"x": x[:length], "lengths": np.array([length], np.int32)}
        np.testing.assert_allclose(whole, session.run(None, cut)[0], atol=0.01)


def test_relu(monkeypatch: pytest.MonkeyPatch):
    model = layer("RNN", lengths=False, activations=["Relu"])
    monkeypatch.setattr(by_step, "add_product", exact_product)
    for found, same in zip(run(apart(model), False), run(model, False), strict=True):
        np.testing.assert_allclose(found, same, atol=1e-5)


@pytest.mark.parametrize(
    "model",
    [
        layer("GRU", units=32),
        layer("GRU", linear_before_reset=0),
        layer("GRU", activations=["Sigmoid", "Sigmoid"]),
        layer("RNN", clip=1.0),
        layer("RNN", opset=14),
    ],
    ids=["narrow", "other reset", "other activation", "clipped", "old opset"],
)
def test_other_nodes_are_left_alone(model: ModelProto):
    before = model.SerializeToString()
    converters = dict.fromkeys(("GRU", "RNN"), by_step.convert_by_step)
    assert rewrite(model, converters) == 0
    assert model.SerializeToString() == before


def test_the_file_is_smaller_and_counts_as_int8(tmp_path: Path):
    onnx.save(layer("GRU", "bidirectional"), tmp_path / "a.onnx")
    quantize_dynamic_int8(tmp_path / "a.onnx", tmp_path / "b.onnx", by_step=True)
    model = onnx.load(tmp_path / "b.onnx")
    counts = operators(model)
    assert counts == {"MatMul": {"fp32": 2, "int8 (dynamic)": 2}}  # 40 features: a small product
    assert (tmp_path / "b.onnx").stat().st_size < 0.6 * (tmp_path / "a.onnx").stat().st_size
    expected = run(model, True)
    for found, same in zip(run(shorten_names(model), True), expected, strict=True):
        np.testing.assert_array_equal(found, same)

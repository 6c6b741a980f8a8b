"""From a model to its candidates: what fails alone, and what is left in fp32 by design."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from compress.data.samples import from_calls
from compress.errors import InputError
from compress.export.graph import operators
from compress.measure.agreement import Agreement
from compress.quantization.building import REWRITTEN, build, make_all
from compress.quantization.config import QuantizeConfig
from compress.runtime.onnxruntime import Session


def write(path: Path, nodes: list, tensors: dict[str, np.ndarray], shape: list, out: list) -> Path:
    given = helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)
    made = helper.make_tensor_value_info("y", TensorProto.FLOAT, out)
    constants = [numpy_helper.from_array(value, name) for name, value in tensors.items()]
    graph = helper.make_graph(nodes, "g", [given], [made], constants)
    opset = [helper.make_opsetid("", 13)]
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=8), path)
    return path


def judge(path: Path, rows: np.ndarray) -> Agreement:
    return Agreement(from_calls("mine", [(rows,)], Session(path).declared()), path, "error")


def test_a_candidate_that_does_not_load_fails_alone(tmp_path: Path, trained_onnx: Path):
    def broken(path: Path) -> None:
        path.write_bytes(b"no model")

    def refused(path: Path) -> None:
        raise InputError("the data holds NaN.")

    good = {"good": lambda path: path.write_bytes(trained_onnx.read_bytes())}
    files, failures = make_all({"broken": broken, **good}, tmp_path)
    assert files == {}
    assert failures["good"] == "could not be built: no operator became int8"
    assert failures["broken"].startswith("does not load: not a valid ONNX model: ")
    with pytest.raises(InputError, match=r"^the data holds NaN\.$"):
        make_all({"refused": refused}, tmp_path)


def test_two_lstm_layers_are_also_tried_with_the_first_in_fp32(tmp_path: Path):
    random, hidden = np.random.default_rng(0), 64

    def normal(*shape: int) -> np.ndarray:
        return (0.1 * random.normal(size=shape)).astype(np.float32)

    tensors = {f"{kind}{at}": normal(1, 4 * hidden, hidden) for kind in "wr" for at in "01"}
    tensors["axis"] = np.array([1])
    lstm = {"hidden_size": hidden}
    nodes = [
        helper.make_node("LSTM", ["x", "w0", "r0"], ["a"], name="one", **lstm),
        helper.make_node("Squeeze", ["a", "axis"], ["b"]),
        helper.make_node("LSTM", ["b", "w1", "r1"], ["c"], name="two", **lstm),
        helper.make_node("Squeeze", ["c", "axis"], ["y"]),
    ]
    path = write(tmp_path / "m.onnx", nodes, tensors, ["t", 1, hidden], ["t", 1, hidden])
    rows = random.normal(size=(40, 1, hidden)).astype(np.float32)
    made = build(path, tmp_path, judge(path, rows), QuantizeConfig())
    counts = {name: operators(onnx.load(file))["LSTM"] for name, file in made.files.items()}
    assert counts["dynamic"] == {"int8 (dynamic)": 2}
    assert counts["dynamic, first LSTM fp32"] == {"fp32": 1, "int8 (dynamic)": 1}


def test_what_rewriting_alone_gives_is_a_candidate(tmp_path: Path):
    random = np.random.default_rng(0)
    tensors = {
        "w": random.normal(size=(16, 16)).astype(np.float32),
        "three": np.array(3, np.float32),
        "zero": np.array(0, np.float32),
        "six": np.array(6, np.float32),
    }
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["a"]),
        helper.make_node("Add", ["a", "three"], ["b"]),
        helper.make_node("Clip", ["b", "zero", "six"], ["c"]),
        helper.make_node("Mul", ["a", "c"], ["d"]),
        helper.make_node("Div", ["d", "six"], ["y"]),
    ]
    path = write(tmp_path / "m.onnx", nodes, tensors, ["n", 16], ["n", 16])
    rows = random.normal(size=(40, 16)).astype(np.float32)
    made = build(path, tmp_path, judge(path, rows), QuantizeConfig())
    kinds = [node.op_type for node in onnx.load(made.files[REWRITTEN]).graph.node]
    assert kinds == ["MatMul", "HardSwish"]
    assert {entry.name for entry in made.rewrites} >= {"HardSwish", "opset raised"}
    np.testing.assert_allclose(
        Session(made.files[REWRITTEN]).run(rows), Session(path).run(rows), rtol=1e-4, atol=1e-5
    )
    only = build(path, tmp_path, judge(path, rows), QuantizeConfig(method="dynamic"))
    assert REWRITTEN not in only.files


def test_weights_that_were_listed_as_inputs_make_the_rewritten_file_a_candidate(tmp_path: Path):
    """onnxruntime folds nothing into what callers may replace: it takes several times as long."""
    weights = {"w": np.random.default_rng(0).normal(size=(16, 16)).astype(np.float32)}
    nodes = [helper.make_node("MatMul", ["x", "w"], ["y"])]
    model = onnx.load(write(tmp_path / "m.onnx", nodes, weights, ["n", 16], ["n", 16]))
    model.graph.input.append(helper.make_tensor_value_info("w", TensorProto.FLOAT, [16, 16]))
    model.ir_version = 3
    onnx.save(model, tmp_path / "m.onnx")
    rows = np.random.default_rng(1).normal(size=(40, 16)).astype(np.float32)
    made = build(tmp_path / "m.onnx", tmp_path, judge(tmp_path / "m.onnx", rows), QuantizeConfig())
    assert [value.name for value in onnx.load(made.files[REWRITTEN]).graph.input] == ["x"]


def test_what_onnxruntime_does_itself_makes_no_candidate(tmp_path: Path):
    weights = {"w": np.random.default_rng(0).normal(size=(16, 16)).astype(np.float32)}
    nodes = [helper.make_node("MatMul", ["x", "w"], ["y"])]
    path = write(tmp_path / "m.onnx", nodes, weights, ["n", 16], ["n", 16])
    rows = np.random.default_rng(1).normal(size=(40, 16)).astype(np.float32)
    made = build(path, tmp_path, judge(path, rows), QuantizeConfig())
    assert "opset raised" in {entry.name for entry in made.rewrites}
    assert REWRITTEN not in made.files

"""What an fp32 graph looks like in fp16: its casts, its weights, its loops and branches."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from halves import converted, counts, difference, numbers
from onnx import TensorProto, helper
from small_graphs import save, value

from compress.export.graph import operators
from compress.export.loading import load_onnx
from compress.quantization.rewriting import files

node = helper.make_node


def test_a_value_that_several_fp32_nodes_read_is_cast_once(tmp_path: Path):
    nodes = [
        node("MatMul", ["x", "w"], ["a"], "product"),
        node("ReduceMean", ["a", "axes"], ["b"], "mean"),
        node("ReduceSum", ["a", "axes"], ["c"], "sum"),
        node("Add", ["b", "c"], ["d"], "both"),
        node("Sub", ["a", "d"], ["y"], "less"),
    ]
    constants = {"w": numbers(8, 8, seed=1), "axes": np.array([1])}
    outputs = [value("y", ["n", 8]), value("a", ["n", 8])]
    path = save(tmp_path / "m.onnx", nodes, [value("x", ["n", 8])], outputs, constants)
    rows = numbers(16, 8)
    half = converted(path, rows)
    assert difference(path, half, rows) < 5e-3
    # x; a, which is also an output; b; c; y
    assert counts(half)["Cast"] == 5


def test_a_weight_of_an_fp32_node_is_not_rounded(tmp_path: Path):
    nodes = [
        node("Add", ["x", "b"], ["a"], "rounded"),
        node("Pow", ["b", "two"], ["s"], "squares"),
        node("Mul", ["s", "s"], ["t"], "t"),
        node("ReduceSum", ["t"], ["u"], "sum"),
        node("Mul", ["a", "u"], ["y"], "scaled"),
    ]
    constants = {"b": np.float32([1 + 2**-12, 2]), "two": np.array(2, np.float32)}
    path = save(
        tmp_path / "m.onnx", nodes, [value("x", ["n", 2])], [value("y", ["n", 2])], constants
    )
    half = converted(path, numbers(4, 2))
    weights = [t for t in onnx.load(half).graph.initializer if t.dims]
    assert {t.data_type: list(t.dims) for t in weights} == {
        TensorProto.FLOAT: [2],
        TensorProto.FLOAT16: [2],
    }


def branch(name: str, weight: np.ndarray) -> onnx.GraphProto:
    tensor = onnx.numpy_helper.from_array(weight, "w")
    body = [node("MatMul", ["h", "w"], ["z"], f"{name}_product"), node("Relu", ["z"], [name])]
    return helper.make_graph(body, name, [], [value(name, None)], [tensor])


def test_branches_whose_weights_have_one_name(tmp_path: Path):
    nodes = [
        node("MatMul", ["x", "w"], ["h"], "product"),
        node("If", ["which"], ["c"], "if", then_branch=branch("yes", numbers(8, 8, seed=2)),
             else_branch=branch("no", numbers(8, 8, seed=3))),
        node("Add", ["c", "h"], ["y"], "sum"),
    ]  # fmt: skip
    inputs = [value("x", ["n", 8]), value("which", [], TensorProto.BOOL)]
    constants = {"w": numbers(8, 8, seed=1)}
    path = save(tmp_path / "m.onnx", nodes, inputs, [value("y", ["n", 8])], constants)
    rows = numbers(16, 8)
    half = converted(path, rows, np.array(True))
    for which in (True, False):
        assert difference(path, half, rows, np.array(which)) < 5e-3
    assert operators(load_onnx(half)) == {"MatMul": {"fp16": 3}}


def test_a_loop_over_steps(tmp_path: Path):
    body = helper.make_graph(
        [
            node("MatMul", ["state", "w"], ["m"], "inner"),
            node("Add", ["m", "step"], ["a"], "add"),
            node("Tanh", ["a"], ["new"], "bend"),
            node("Identity", ["new"], ["all"], "same"),
        ],
        "step",
        [value("state", ["n", 4]), value("step", ["n", 4])],
        [value("new", ["n", 4]), value("all", ["n", 4])],
    )
    nodes = [
        node("Scan", ["start", "x"], ["last", "y"], "scan", body=body, num_scan_inputs=1),
    ]
    inputs = [value("x", ["t", 3, 4])]
    constants = {"w": numbers(4, 4, seed=1), "start": np.zeros((3, 4), np.float32)}
    path = save(tmp_path / "m.onnx", nodes, inputs, [value("y", ["t", 3, 4])], constants)
    rows = numbers(7, 3, 4)
    half = converted(path, rows)
    assert difference(path, half, rows) < 5e-3
    assert operators(load_onnx(half)) == {"MatMul": {"fp16": 1}}


def test_scales_of_a_resize_stay_what_the_operator_wants(tmp_path: Path):
    nodes = [node("Resize", ["x", "", "scales"], ["r"], "larger"), node("Relu", ["r"], ["y"], "b")]
    constants = {"scales": np.float32([1, 1, 2, 2])}
    inputs = [value("x", ["n", 1, 3, 3])]
    path = save(tmp_path / "m.onnx", nodes, inputs, [value("y", ["n", 1, 6, 6])], constants)
    rows = numbers(2, 1, 3, 3)
    assert difference(path, converted(path, rows), rows) < 1e-3


@pytest.mark.parametrize("opset", [11, 13, 21])
def test_files_of_any_version_and_size(opset: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(files, "_LARGEST", 1000)  # of weights, which are then beside the graph
    nodes = [
        node("MatMul", ["x", "w"], ["a"], "product"),
        node("Pow", ["a", "two"], ["b"], "squares"),
        node("MatMul", ["b", "w"], ["y"], "again"),
    ]
    constants = {"w": numbers(32, 32, seed=1), "two": np.array(2, np.float32)}
    ends = [value("x", ["n", 32])], [value("y", ["n", 32])]
    path = save(tmp_path / "m.onnx", nodes, *ends, constants, opset=opset)
    files.save(files.load(path), path)
    assert (tmp_path / "m.onnx.data").stat().st_size >= 4096
    rows = numbers(16, 32)
    assert difference(path, converted(path, rows), rows) < 5e-3

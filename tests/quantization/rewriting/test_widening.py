"""Graphs in fp16 that compute in fp32 inside, and are the same ones from outside."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from half_graphs import FP16, halves, node, perceptron
from onnx import TensorProto, helper, numpy_helper
from sketch import Sketch, by_name, gelu, kinds, run
from small_graphs import FLOAT, INT64, save, value, whole

from compress.export.bodies import graphs
from compress.quantization.rewriting.simplify import simplify
from compress.quantization.rewriting.widening import computes_in_fp16, widen

BOOL = TensorProto.BOOL


def interface(model: onnx.ModelProto) -> list[onnx.ValueInfoProto]:
    return [*model.graph.input, *model.graph.output]


def fp16_parts(model: onnx.ModelProto) -> list[str]:
    """What of the inner graph is fp16 still, but for casts to outputs."""
    results = {entry.name for entry in model.graph.output}
    found = []
    for graph in graphs(model.graph):
        found += [entry.name for entry in graph.initializer if entry.data_type == FP16]
        for each in (each for each in graph.node if not results.intersection(each.output)):
            found += [each.op_type for a in each.attribute if FP16 in (a.i, a.t.data_type)]
        if graph is not model.graph:
            values = (*graph.input, *graph.output)
            found += [v.name for v in values if v.type.tensor_type.elem_type == FP16]
    return found


def widened(path: Path, places: int, *feeds: np.ndarray) -> onnx.ModelProto:
    """The graph in fp32, which gives next to the same under the same names and types."""
    before, after = onnx.load(path), onnx.load(path)
    assert computes_in_fp16(before)
    assert widen(after) == places
    assert interface(after) == interface(before)
    assert fp16_parts(after) == []
    assert not computes_in_fp16(after)
    onnx.checker.check_model(after, full_check=True)
    for want, got in zip(run(before, *feeds), run(after, *feeds), strict=True):
        assert got.dtype == want.dtype
        largest = np.abs(want).max()
        np.testing.assert_allclose(got.astype(float), want.astype(float), 0, 2e-3 * largest)
    return after


@pytest.mark.parametrize("beside", ["", "weights.bin"])
def test_weights_and_casts_at_the_edge(beside: str, tmp_path: Path):
    path, rows = perceptron(tmp_path / "m.onnx", beside=beside), halves(5, 64)
    found = widened(path, 6, rows)
    assert kinds(found) == {"Cast": 2, "MatMul": 1, "Add": 1, "Relu": 1, "Gemm": 1}
    assert [found.graph.node[place].op_type for place in (0, -1)] == ["Cast", "Cast"]
    done = by_name(simplify(path, tmp_path / "out.onnx", (rows,)))
    assert done["half precision to fp32"].places == 6
    assert not any(entry.undone for entry in done.values())
    again = by_name(simplify(tmp_path / "out.onnx", tmp_path / "again.onnx", (rows,)))
    assert "half precision to fp32" not in again


@pytest.mark.parametrize("kind", [FLOAT, TensorProto.BFLOAT16])
def test_nothing_changes_without_fp16(kind: int, tmp_path: Path):
    model = onnx.load(save(tmp_path / "m.onnx", [node("MatMul", ["x", "w"], ["y"])],
                        [value("x", ["n", 4], kind)], [value("y", ["n", 4], kind)]))  # fmt: skip
    model.graph.initializer.append(helper.make_tensor("w", kind, [4, 4], [1.0] * 16))
    before = model.SerializeToString()
    assert widen(model) == 0
    assert model.SerializeToString() == before


def test_a_graph_with_fp16_at_its_edge_alone_stays(tmp_path: Path):
    nodes = [
        node("Cast", ["x"], ["a"], to=FLOAT),
        node("MatMul", ["a", "w"], ["b"]),
        node("Cast", ["b"], ["y"], to=FP16),
    ]
    path = save(tmp_path / "m.onnx", nodes, [value("x", ["n", 4], FP16)],
                [value("y", ["n", 4], FP16)], {"w": whole(4, 4)})  # fmt: skip
    before = onnx.load(path)
    model = onnx.load(path)
    assert widen(model) == 0
    assert model == before


def test_a_normalization_that_was_kept_in_fp32(tmp_path: Path):
    nodes = [
        node("MatMul", ["x", "w"], ["a"]),
        node("Cast", ["a"], ["b"], to=FLOAT),
        node("LayerNormalization", ["b", "scale"], ["c"]),
        node("Cast", ["c"], ["d"], to=FP16),
        node("Add", ["d", "x"], ["e"]),
        node("CastLike", ["count", "w"], ["f"]),
        node("Mul", ["e", "f"], ["y"]),
    ]
    constants = {"w": halves(4, 4), "scale": np.float32([1, 2, 3, 4]), "count": np.array(3)}
    path = save(tmp_path / "m.onnx", nodes, [value("x", ["n", 4], FP16)],
                [value("y", ["n", 4], FP16)], constants)  # fmt: skip
    rows = halves(3, 4, seed=1)
    widened(path, 4, rows)
    assert not [r for r in simplify(path, tmp_path / "out.onnx", (rows,)) if r.undone]
    found = onnx.load(tmp_path / "out.onnx")
    assert kinds(found) == {"Cast": 3, "MatMul": 1, "LayerNormalization": 1, "Add": 1, "Mul": 1}
    casts = {each.input[0] for each in found.graph.node if each.op_type == "Cast"}
    assert casts == {"x", "count", "y_fp32"}


def test_inputs_and_outputs_that_others_read_as_well(tmp_path: Path):
    nodes = [
        node("Relu", ["x"], ["a"]),
        node("Cast", ["x"], ["whole"], to=INT64),
        node("Add", ["x", "a"], ["y"]),
        node("Mul", ["y", "w"], ["z"]),
    ]
    outputs = [value("y", ["n", 4], FP16), value("z", ["n", 4], FP16), value("w", [4], FP16)]
    outputs += [value("whole", ["n", 4], INT64), value("x", ["n", 4], FP16)]
    path = save(tmp_path / "m.onnx", nodes, [value("x", ["n", 4], FP16)], outputs, {"w": halves(4)})
    found = widened(path, 5, halves(3, 4, seed=1))
    assert kinds(found)["Cast"] == 5


def test_weights_that_callers_may_replace(tmp_path: Path):
    path = perceptron(tmp_path / "m.onnx", 4)
    model = onnx.load(path)
    model.graph.input.append(value("b1", [4], FP16))
    onnx.save(model, path)
    found = onnx.load(path)
    assert widen(found) == 6
    assert interface(found) == interface(model)
    rows, sessions = halves(3, 4), []
    for each in (model, found):
        sessions.append(ort.InferenceSession(each.SerializeToString()))
    for feeds in ({"x": rows}, {"x": rows, "b1": halves(4, seed=9)}):
        want, got = (session.run(None, feeds)[0] for session in sessions)
        np.testing.assert_allclose(got, want, 0, 1e-2)
    model.ir_version = 3  # such files list every weight
    for tensor in model.graph.initializer:
        if tensor.name != "b1":
            model.graph.input.append(value(tensor.name, tensor.dims, FP16))
    onnx.save(model, path)
    simplify(path, tmp_path / "out.onnx", (rows,))
    assert fp16_parts(onnx.load(tmp_path / "out.onnx")) == []


def body(nodes: list, name: str, result: str) -> onnx.GraphProto:
    return helper.make_graph(nodes, name, [], [value(result, None, FP16)])


def test_bodies(tmp_path: Path):
    """A Loop and an If, whose bodies read an fp16 input, and name fp16 in each way there is."""
    two = numpy_helper.from_array(np.array(2, np.float16))
    branches = {
        "then_branch": body([node("Constant", [], ["two"], value=two),
                             node("Mul", ["x", "two"], ["t"])], "then", "t"),
        "else_branch": body([node("ConstantOfShape", ["size"], ["e"], value=helper.make_tensor(
                             "", FP16, [1], [3.0]))], "else", "e"),
    }  # fmt: skip
    step = helper.make_graph(
        [
            node("Cast", ["i"], ["half"], to=FP16),
            node("Add", ["state", "half"], ["sum"]),
            node("Add", ["sum", "x"], ["next"]),
            node("Identity", ["going"], ["still"]),
        ],
        "step",
        [value("i", [], INT64), value("going", [], BOOL), value("state", None, FP16)],
        [value("still", [], BOOL), value("next", None, FP16)],
    )
    nodes = [
        node("If", ["choice"], ["chosen"], **branches),
        node("Loop", ["times", "true", "chosen"], ["y"], body=step),
    ]
    constants = {"size": np.array([4]), "times": np.array(3), "true": np.array(True)}
    inputs = [value("x", [4], FP16), value("choice", [], BOOL)]
    path = save(tmp_path / "m.onnx", nodes, inputs, [value("y", [4], FP16)], constants)
    for choice in (True, False):
        widened(path, 5, halves(4), np.array(choice))


def test_types_that_nodes_name(tmp_path: Path):
    nodes = [
        node("EyeLike", ["x"], ["eye"], dtype=FP16),
        node("Mul", ["x", "eye"], ["a"]),
        node("HannWindow", ["size"], ["window"], output_datatype=FP16),
        node("Add", ["a", "window"], ["b"]),
        node("Constant", [], ["c"], value=numpy_helper.from_array(halves(4))),
        node("Add", ["b", "c"], ["y"]),
    ]
    path = save(tmp_path / "m.onnx", nodes, [value("x", [4, 4], FP16)], [value("y", [4, 4], FP16)],
                {"size": np.array(4)})  # fmt: skip
    model = onnx.load(path)
    assert widen(model) == 5
    assert fp16_parts(model) == []
    onnx.checker.check_model(model, full_check=True)


def test_an_activation_is_known_by_its_numbers(tmp_path: Path):
    """√2 is 1.4140625 in fp16, 1e-4 beside it; as one of many numbers it may be just that."""
    g = Sketch(18)
    product = g.MatMul(g.input("x", ("n", 8)), g.constant(halves(8, 2)))
    model = g.output(gelu(g, product), ("n", 2)).model()
    for tensor in model.graph.initializer:
        values = numpy_helper.to_array(tensor).astype(np.float16)
        tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
    pair = numpy_helper.from_array(np.full(2, math.sqrt(2), np.float16), "pair")
    model.graph.initializer.append(pair)
    model.graph.node.append(node("Mul", [model.graph.output[0].name, "pair"], ["y"]))
    for entry in interface(model):
        entry.type.tensor_type.elem_type = FP16
    model.graph.output[0].name = "y"
    onnx.save(model, tmp_path / "m.onnx")
    rows = halves(3, 8)
    widened(tmp_path / "m.onnx", 7, rows)
    simplify(tmp_path / "m.onnx", tmp_path / "out.onnx", (rows,))
    found = onnx.load(tmp_path / "out.onnx")
    assert kinds(found) == {"Cast": 2, "MatMul": 1, "Gelu": 1, "Mul": 1}
    pair = next(entry for entry in found.graph.initializer if list(entry.dims) == [2])
    assert set(numpy_helper.to_array(pair)) == {1.4140625}


def test_scales_of_quantized_values(tmp_path: Path):
    nodes = [
        node("QuantizeLinear", ["x", "s", "zero"], ["q"]),
        node("DequantizeLinear", ["q", "s", "zero"], ["a"]),
        node("DequantizeLinear", ["w", "s"], ["b"]),
        node("MatMul", ["a", "b"], ["y"]),
    ]
    constants = {"s": np.array(0.25, np.float16), "zero": np.array(0, np.int8)}
    constants["w"] = whole(4, 4).astype(np.int8)
    path = save(tmp_path / "m.onnx", nodes, [value("x", ["n", 4], FP16)],
                [value("y", ["n", 4], FP16)], constants, opset=19)  # fmt: skip
    found = widened(path, 3, halves(3, 4))
    assert kinds(found)["Cast"] == 2

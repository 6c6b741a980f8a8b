"""What a graph consists of, counted against graphs written down by hand; names and doc strings."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import ModelProto, TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from compress.data.task import Task
from compress.errors import ModelFileError
from compress.export.bodies import graphs
from compress.export.graph import operators, precision, shorten_names, strip
from compress.export.loading import load_graph, load_onnx
from compress.quantization.calibration import collect
from compress.quantization.config import QuantizeConfig
from compress.quantization.dynamic import quantize_dynamic_int8
from compress.quantization.rewriting.simplify import simplify
from compress.quantization.static import quantize_static_int8
from compress.quantization.weight_only import quantize_weights
from compress.runtime.onnxruntime import Session

#: The network of `tiny_spec`: a stem, two blocks of two convolutions, one shortcut, one linear.
WHOLE = {"Conv": 6, "Gemm": 1}


def graph(
    nodes: list[Any], constants: dict[str, np.ndarray], kind: int = TensorProto.FLOAT
) -> ModelProto:
    """A model from `x` to `y`, both (n, 4)."""
    tensors = [numpy_helper.from_array(value, name) for name, value in constants.items()]
    x = helper.make_tensor_value_info("x", kind, ["n", 4])
    y = helper.make_tensor_value_info("y", kind, ["n", 4])
    opset = helper.make_opsetid("", 18)
    made = helper.make_graph(nodes, "g", [x], [y], tensors)
    return helper.make_model(made, opset_imports=[opset], ir_version=9)


def matmul(dtype: type = np.float32, kind: int = TensorProto.FLOAT) -> ModelProto:
    weight = np.eye(4, dtype=dtype)
    return graph([helper.make_node("MatMul", ["x", "w"], ["y"])], {"w": weight}, kind)


def outputs(model: ModelProto) -> np.ndarray:
    rows = np.random.default_rng(0).standard_normal((5, 4)).astype(np.float32)
    (found,) = ReferenceEvaluator(model).run(None, {"x": rows})
    return found


@pytest.fixture(scope="module")
def prepared(trained_onnx: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("prepared") / "prepared.onnx"
    simplify(trained_onnx, path)
    return path


def test_a_file_is_read(tmp_path: Path):
    onnx.save(matmul(), tmp_path / "m.onnx")
    assert load_onnx(tmp_path / "m.onnx") == matmul()


@pytest.mark.parametrize("beside", [False, True])
def test_a_graph_is_read_without_the_values_of_its_weights(tmp_path: Path, beside: bool):
    weights = {"w": np.ones((64, 64), np.float32), "b": np.arange(4, dtype=np.float32)}
    nodes = [helper.make_node("MatMul", ["x", "w"], ["m"]), helper.make_node("Add", "mb", "y")]
    onnx.save(graph(nodes, weights), tmp_path / "m.onnx", save_as_external_data=beside)
    whole, found = (load(tmp_path / "m.onnx") for load in (load_onnx, load_graph))
    assert whole.ByteSize() > 64 * 64 * 4 > found.ByteSize() + 8192
    assert operators(found) == operators(whole)
    assert [list(tensor.dims) for tensor in found.graph.initializer] == [[64, 64], [4]]
    np.testing.assert_array_equal(numpy_helper.to_array(found.graph.initializer[1]), weights["b"])


@pytest.mark.parametrize("raw", [b"", b"not a model", b"\x00" * 64, bytes(range(256))])
def test_a_damaged_file_is_one_line(tmp_path: Path, raw: bytes):
    path = tmp_path / "m.onnx"
    path.write_bytes(raw)
    with pytest.raises(ModelFileError) as caught:
        load_onnx(path)
    assert str(caught.value).startswith(f"{path}: not a valid ONNX model: ")
    assert "\n" not in str(caught.value)


def test_a_cut_off_file_is_refused(tmp_path: Path, trained_onnx: Path):
    path = tmp_path / "m.onnx"
    path.write_bytes(trained_onnx.read_bytes()[:-100])
    with pytest.raises(ModelFileError, match="not a valid ONNX model"):
        load_onnx(path)


def test_a_missing_file_and_an_empty_graph(tmp_path: Path):
    with pytest.raises(ModelFileError) as caught:
        load_onnx(tmp_path / "no.onnx")
    assert str(caught.value) == f"{tmp_path / 'no.onnx'}: no such file; expected an ONNX model."
    empty = graph([], {})
    empty.graph.output[0].CopyFrom(empty.graph.input[0])
    onnx.save(empty, tmp_path / "empty.onnx")
    with pytest.raises(ModelFileError) as caught:
        load_onnx(tmp_path / "empty.onnx")
    assert str(caught.value) == (
        f"{tmp_path / 'empty.onnx'}: the graph has no nodes; expected a trained model."
    )


def test_operators_of_a_float_model(trained_onnx: Path):
    counts = operators(onnx.load(trained_onnx))
    assert counts == {kind: {"fp32": number} for kind, number in WHOLE.items()}
    assert precision(counts) == "fp32"


def test_operators_of_a_half_precision_model():
    assert operators(matmul(np.float16, TensorProto.FLOAT16)) == {"MatMul": {"fp16": 1}}


def test_operators_of_a_graph_that_only_moves_values():
    counts = operators(graph([helper.make_node("Relu", ["x"], ["y"])], {}))
    assert counts == {}
    assert precision(counts) == "fp32"


def test_operators_of_a_static_model(prepared: Path, tmp_path: Path, tiny_task: Task):
    path = tmp_path / "static.onnx"
    ranges = collect(prepared, [(tiny_task.train.inputs[:32].numpy(),)]).ranges()
    quantize_static_int8(prepared, path, ranges, QuantizeConfig())
    counts = operators(onnx.load(path))
    assert counts == {kind: {"int8 (static)": number} for kind, number in WHOLE.items()}
    assert precision(counts) == "int8 (static)"


def test_operators_of_a_mixed_model(prepared: Path, tmp_path: Path, tiny_task: Task):
    first = next(node.name for node in onnx.load(prepared).graph.node if node.op_type == "Conv")
    path, rows = tmp_path / "static.onnx", tiny_task.train.inputs[:32].numpy()
    ranges = collect(prepared, [(rows,)]).ranges()
    quantize_static_int8(prepared, path, ranges, QuantizeConfig(), keep_fp32=(first,))
    counts = operators(onnx.load(path))
    assert counts == {"Conv": {"fp32": 1, "int8 (static)": 5}, "Gemm": {"int8 (static)": 1}}
    assert precision(counts) == "int8 (static)"


def test_operators_of_a_dynamic_model(prepared: Path, tmp_path: Path):
    quantize_dynamic_int8(prepared, tmp_path / "dynamic.onnx")
    counts = operators(onnx.load(tmp_path / "dynamic.onnx"))
    assert counts == {"Conv": {"int8 (dynamic)": 6}, "MatMul": {"int8 (dynamic)": 1}}
    assert precision(counts) == "int8 (dynamic)"


def test_operators_of_a_weight_only_model(prepared: Path, tmp_path: Path):
    large = [
        tensor.name
        for tensor in onnx.load(prepared).graph.initializer
        if np.prod(tensor.dims) >= 256
    ]
    count = quantize_weights(prepared, tmp_path / "weights.onnx")
    counts = operators(onnx.load(tmp_path / "weights.onnx"))
    assert count == len(large) == 4
    assert counts == {"Conv": {"fp32, int8 weights": 4, "fp32": 2}, "Gemm": {"fp32": 1}}
    assert precision(counts) == "fp32, int8 weights"


@given(
    st.dictionaries(
        st.sampled_from("abc"),
        st.dictionaries(st.text("xyz", min_size=1), st.integers(1, 9), max_size=3),
    )
)
@settings(max_examples=40, deadline=None)
def test_the_precision_of_most_operators_counts(counts: dict[str, dict[str, int]]):
    totals: dict[str, int] = {}
    for entry in counts.values():
        for name, number in entry.items():
            totals[name] = totals.get(name, 0) + number
    found = precision(counts)
    assert totals.get(found, 0) == max(totals.values(), default=0)


def test_strip_removes_what_a_debugger_reads_and_nothing_else():
    model = matmul()
    model.doc_string = model.graph.doc_string = model.graph.node[0].doc_string = "words"
    model.graph.node[0].metadata_props.add(key="pkg.torch.onnx.stack_trace", value="line 1")
    model.graph.initializer[0].doc_string = model.graph.input[0].doc_string = "words"
    model.graph.value_info.append(model.graph.input[0])
    assert strip(model) is model
    assert b"words" not in model.SerializeToString()
    assert not model.graph.node[0].metadata_props
    assert not model.graph.value_info
    assert model == strip(matmul())
    np.testing.assert_array_equal(outputs(model), outputs(matmul()))


NAMES = st.lists(
    st.text("abxy_/.", min_size=1, max_size=3), min_size=4, max_size=40, unique=True
).map(lambda names: [name for name in names if name not in ("x", "y")])


@given(NAMES.filter(lambda names: len(names) > 3), st.randoms(use_true_random=False))
@settings(max_examples=40, deadline=None)
def test_short_names_keep_outputs_and_the_names_of_inputs_and_outputs(
    names: list[str], random: Any
):
    weights = names[:2]
    known, nodes = ["x", *weights], []
    for name in [*names[2:], "y"]:
        pair = [random.choice(known), known[-1]]
        nodes.append(helper.make_node(random.choice(["Add", "Sub"]), pair, [name], name=name))
        known.append(name)
    values = np.random.default_rng(1).standard_normal((2, 1, 4)).astype(np.float32)
    model = graph(nodes, dict(zip(weights, values, strict=True)))
    expected = outputs(model)
    short = shorten_names(model)
    onnx.checker.check_model(short)
    np.testing.assert_array_equal(outputs(short), expected)
    assert [value.name for value in (*short.graph.input, *short.graph.output)] == ["x", "y"]
    assert [node.name for node in short.graph.node] == [*names[2:], "y"]
    assert all(len(node.output[0]) <= 2 for node in short.graph.node)


def test_short_names_of_many_values_stay_apart():
    count = 1500  # beyond two letters
    names = ["x", *(f"a long name {number}" for number in range(count)), "y"]
    nodes = [helper.make_node("Add", [left, "one"], [right]) for left, right in pairwise(names)]
    short = shorten_names(graph(nodes, {"one": np.ones(1, np.float32)}))
    made = [node.output[0] for node in short.graph.node]
    assert len(set(made)) == count + 1
    assert max(map(len, made)) == 3


def test_a_real_model_gets_smaller_and_answers_bit_identically(
    prepared: Path, tmp_path: Path, tiny_task: Task
):
    path, rows = tmp_path / "static.onnx", tiny_task.train.inputs[:32].numpy()
    quantize_static_int8(prepared, path, collect(prepared, [(rows,)]).ranges(), QuantizeConfig())
    model = onnx.load(path)
    expected, size = Session(path).run(rows), path.stat().st_size
    onnx.save(shorten_names(strip(model)), path)
    np.testing.assert_array_equal(Session(path).run(rows), expected)
    assert path.stat().st_size < size


def test_bodies_name_outer_values_as_the_graph_does():
    inner = helper.make_tensor_value_info("inner", TensorProto.FLOAT, None)
    bodies = [
        helper.make_graph(
            [helper.make_node(kind, ["x", "outer name"], ["inner"])], "b", [], [inner]
        )
        for kind in ("Add", "Sub")
    ]
    nodes = [
        helper.make_node("Identity", ["weight"], ["outer name"]),
        helper.make_node("If", ["yes"], ["y"], then_branch=bodies[0], else_branch=bodies[1]),
    ]
    constants = {"weight": np.ones(4, np.float32), "yes": np.array(True)}
    model = graph(nodes, constants)
    expected = outputs(model)
    np.testing.assert_array_equal(outputs(shorten_names(model)), expected)
    read = [node.input[1] for body in list(graphs(model.graph))[1:] for node in body.node]
    assert read == [model.graph.node[0].output[0]] * 2
    assert [len(name) for name in read] == [1, 1]


def test_scaled_values_are_no_stored_weights():
    # Attention scales one side of a MatMul by a constant: nothing there is int8.
    scale = numpy_helper.from_array(np.array([0.5], np.float32), "scale")
    nodes = [
        helper.make_node("Mul", ["x", "scale"], ["k"]),
        helper.make_node("MatMul", ["x", "k"], ["y"]),
    ]
    square = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [3, 3]) for name in "xy"]
    model = helper.make_model(helper.make_graph(nodes, "g", square[:1], square[1:], [scale]))
    assert operators(model) == {"MatMul": {"fp32": 1}}


def test_static_and_dynamic_in_one_graph_are_both_named():
    counts = {"Conv": {"int8 (static)": 1}, "LSTM": {"int8 (dynamic)": 1}, "Gemm": {"fp32": 1}}
    assert precision(counts) == "int8 (static, dynamic)"
    assert precision({**counts, "MatMul": {"fp32": 3}}) == "int8 (static, dynamic), fp32"
    assert precision({"LSTM": {"int8 (dynamic)": 1}, "Gemm": {"fp32": 2}}) == "int8 (dynamic), fp32"


def test_blocks_of_4_bits_and_attention_are_counted():
    nodes = [
        helper.make_node("MatMulNBits", ["x", "w", "s"], ["y"], domain="com.microsoft"),
        helper.make_node("Attention", ["y", "y", "y"], ["z"]),
    ]
    counts = operators(graph(nodes, {}))
    assert counts == {"Attention": {"fp32": 1}, "MatMul": {"int4 weights": 1}}

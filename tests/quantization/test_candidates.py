"""Which static candidates a graph gets, and what they leave in fp32."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from compress.errors import CompressError
from compress.export.graph import operators
from compress.quantization.candidates import FP32_SUMS, SLOWER, Candidates
from compress.quantization.config import QuantizeConfig
from compress.quantization.prepared import Prepared
from compress.quantization.rewriting.simplify import simplify
from compress.quantization.variants import Variants
from compress.runtime.interface import open_model
from compress.runtime.onnxruntime import Session


def bytes_model(folder: Path) -> Path:
    """An embedding, a convolution, and what follows multiplied with itself: as in classifiers."""
    random = np.random.default_rng(0)
    tensors = {
        "table": random.normal(size=(600, 8)).astype(np.float32),
        "weight": random.normal(size=(16, 8, 3)).astype(np.float32),
    }
    nodes = [
        helper.make_node("Gather", ["x", "x_"], ["rows"]),
        helper.make_node("Transpose", ["rows"], ["turned"], perm=[0, 2, 1]),
        helper.make_node("Conv", ["turned", "weight"], ["made"], pads=[1, 1]),
        helper.make_node("Mul", ["made", "made"], ["y"]),
    ]
    nodes[0].input[:] = ["table", "x"]
    given = helper.make_tensor_value_info("x", TensorProto.INT64, ["n", 12])
    result = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 16, 12])
    constants = [numpy_helper.from_array(value, name) for name, value in tensors.items()]
    graph = helper.make_graph(nodes, "g", [given], [result], constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    onnx.save(model, folder / "model.onnx")
    return folder / "model.onnx"


def int8(path: Path) -> set[str]:
    """The operators of which both sides are int8: they read and make what stands in QDQ."""
    graph = onnx.load(path).graph
    made = {node.output[0] for node in graph.node if node.op_type == "DequantizeLinear"}
    kept = {node.input[0] for node in graph.node if node.op_type == "QuantizeLinear"}
    return {
        node.op_type for node in graph.node if made & set(node.input) and kept & set(node.output)
    }


def table(path: Path) -> np.dtype:
    """What the first Gather of a graph reads from."""
    graph = onnx.load(path).graph
    name = next(node.input[0] for node in graph.node if node.op_type == "Gather")
    return next(numpy_helper.to_array(t).dtype for t in graph.initializer if t.name == name)


def test_pieces_and_embeddings_stay_fp32_where_they_may_cost_the_budget(tmp_path: Path):
    samples = (np.random.default_rng(1).integers(0, 600, (32, 12)),)
    simplify(bytes_model(tmp_path), tmp_path / "prepared.onnx", samples)
    prepared = Prepared(tmp_path / "prepared.onnx", tmp_path, [samples], QuantizeConfig())
    made = {**Candidates(prepared).makers(), **Variants(prepared).makers()}
    for name in ("static", "static, layers alone", "static, layers alone, ranges of least error"):
        made[name](tmp_path / f"{name}.onnx")
    assert int8(tmp_path / "static.onnx") - {"Transpose"} == {"Gather", "Conv", "Mul"}
    alone = int8(tmp_path / "static, layers alone.onnx")
    assert alone == {"Conv"}
    assert table(tmp_path / "static, layers alone.onnx") == np.int8
    last = tmp_path / "static, layers alone, ranges of least error.onnx"
    assert int8(last) == {"Conv"}
    assert table(last) == np.float32
    Variants(prepared).part_static((), tmp_path / "part.onnx")
    assert int8(tmp_path / "part.onnx") == {"Conv"}


def test_symmetric_activations_are_for_openvino(tmp_path: Path):
    samples = (np.random.default_rng(1).integers(0, 600, (32, 12)),)
    simplify(bytes_model(tmp_path), tmp_path / "prepared.onnx", samples)
    for runtimes, there in (((), False), (("openvino-bf16",), True)):
        prepared = Prepared(
            tmp_path / "prepared.onnx", tmp_path, [samples], QuantizeConfig(), runtimes=runtimes
        )
        made = Candidates(prepared).makers()
        assert ("static, symmetric" in made) is there
    made["static, symmetric"](tmp_path / "made.onnx")
    graph = onnx.load(tmp_path / "made.onnx").graph
    zeros = {node.input[2] for node in graph.node if node.op_type == "QuantizeLinear"}
    stored = [numpy_helper.to_array(t) for t in graph.initializer if t.name in zeros]
    assert stored
    assert not any(zero.any() for zero in stored)


def test_for_openvino_convolutions_between_pieces_give_fp32(tmp_path: Path):
    samples = (np.random.default_rng(1).integers(0, 600, (32, 12)),)
    simplify(bytes_model(tmp_path), tmp_path / "prepared.onnx", samples)
    given = (tmp_path / "prepared.onnx", tmp_path, [samples], QuantizeConfig())
    name, few = f"static, layers alone{FP32_SUMS}", f"{SLOWER}{FP32_SUMS}"
    assert not {name, few} & Candidates(Prepared(*given)).makers().keys()
    prepared = Prepared(*given, runtimes=("openvino",), calls=(32, lambda _: samples))
    made = Candidates(prepared).makers()
    made[name](tmp_path / "made.onnx")
    graph = onnx.load(tmp_path / "made.onnx").graph
    (convolution,) = (node for node in graph.node if node.op_type == "Conv")
    kinds = {value: node.op_type for node in graph.node for value in node.output}
    readers = {node.op_type for node in graph.node if convolution.output[0] in node.input}
    assert {kinds[value] for value in convolution.input[:2]} == {"DequantizeLinear"}
    assert "QuantizeLinear" not in readers
    with pytest.raises(CompressError, match="no layer is slower"):
        made[few](tmp_path / "few.onnx")  # as nothing has been found to be slower
    prepared.slower = frozenset({convolution.name})
    made[few](tmp_path / "few.onnx")
    (kept,) = (
        node for node in onnx.load(tmp_path / "few.onnx").graph.node if node.op_type == "Conv"
    )
    assert kept.input[0] == "turned"


def test_openvino_gives_the_answers_of_what_was_made_for_it(tmp_path: Path):
    pytest.importorskip("openvino", reason="OpenVINO is not installed")
    random = np.random.default_rng(0)
    weights = {f"w{at}": random.normal(0, 0.3, (8, 8, 3, 3)).astype(np.float32) for at in range(2)}
    weights["last"] = random.normal(0, 0.3, (8, 16, 1, 1)).astype(np.float32)
    nodes, name = [], "x"
    for at in range(2):
        nodes.append(helper.make_node("Conv", [name, f"w{at}"], [f"c{at}"], pads=[1] * 4))
        nodes.append(helper.make_node("Sigmoid", [f"c{at}"], [f"s{at}"]))
        nodes.append(helper.make_node("Mul", [f"c{at}", f"s{at}"], [f"m{at}"]))
        name = f"m{at}"
    nodes.append(helper.make_node("Concat", ["m0", "m1"], ["both"], axis=1))
    nodes.append(helper.make_node("Conv", ["both", "last"], ["y"]))
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 8, 16, 16])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 8, 16, 16])],
        [numpy_helper.from_array(value, name) for name, value in weights.items()],
    )
    opset = [helper.make_opsetid("", 18)]
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=9), tmp_path / "m.onnx")
    samples = (random.normal(size=(8, 8, 16, 16)).astype(np.float32),)
    simplify(tmp_path / "m.onnx", tmp_path / "prepared.onnx", samples)
    given = (tmp_path / "prepared.onnx", tmp_path, [samples], QuantizeConfig())
    made = Candidates(Prepared(*given, runtimes=("openvino",))).makers()
    made[f"static, layers alone{FP32_SUMS}"](tmp_path / "made.onnx")
    expected = Session(tmp_path / "prepared.onnx").run(*samples)
    found = open_model("openvino", tmp_path / "made.onnx").run(*samples)
    assert 0 < np.linalg.norm(found - expected) / np.linalg.norm(expected) < 0.03


def test_convolutions_in_front_of_a_gru_are_static_and_it_is_dynamic(tmp_path: Path):
    random = np.random.default_rng(0)
    shapes = {"c": (32, 8, 3), "w": (1, 192, 32), "r": (1, 192, 64)}
    tensors = {name: random.normal(0, 0.2, shape) for name, shape in shapes.items()}
    nodes = [
        helper.make_node("Conv", ["x", "c"], ["h"], "conv", pads=[1, 1]),
        helper.make_node("Transpose", ["h"], ["t"], "turn", perm=[2, 0, 1]),
        helper.make_node(
            "GRU", ["t", "w", "r"], ["y"], "gru", hidden_size=64, linear_before_reset=1
        ),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 8, 12])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [12, 1, "n", 64])],
        [numpy_helper.from_array(v.astype(np.float32), name) for name, v in tensors.items()],
    )
    opset = [helper.make_opsetid("", 18)]
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=9), tmp_path / "m.onnx")
    samples = (random.normal(size=(4, 8, 12)).astype(np.float32),)
    prepared = Prepared(tmp_path / "m.onnx", tmp_path, [samples], QuantizeConfig())
    made = Candidates(prepared).makers()
    made["static convolutions, the rest dynamic"](tmp_path / "made.onnx")
    found = operators(onnx.load(tmp_path / "made.onnx"))
    assert found["Conv"] == {"int8 (static)": 1}
    assert "GRU" not in found  # its products are int8, step by step
    expected, answer = (Session(tmp_path / f"{name}.onnx").run(samples) for name in ("m", "made"))
    assert np.linalg.norm(answer - expected) < 0.05 * np.linalg.norm(expected)


@pytest.mark.parametrize(("units", "built"), [(32, False), (64, True)])
def test_a_gru_too_narrow_to_gain_is_not_taken_apart(tmp_path: Path, units: int, built: bool):
    shapes = {"v": (128, 128), "w": (1, 3 * units, 128), "r": (1, 3 * units, units)}
    nodes = [
        helper.make_node("MatMul", ["x", "v"], ["m"], "m"),
        helper.make_node("GRU", ["m", "w", "r"], ["y"], "gru", hidden_size=units),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["t", "n", 128])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["t", 1, "n", units])],
        [numpy_helper.from_array(np.ones(s, np.float32), name) for name, s in shapes.items()],
    )
    opset = [helper.make_opsetid("", 18)]
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=9), tmp_path / "m.onnx")
    samples = (np.ones((2, 3, 128), np.float32),)
    prepared = Prepared(tmp_path / "m.onnx", tmp_path, [samples], QuantizeConfig())
    assert ("dynamic, step by step" in Candidates(prepared).makers()) is built


def test_a_transposed_convolution_is_int8_for_openvino_and_only_stored_for_onnxruntime(
    tmp_path: Path,
):
    random = np.random.default_rng(0)
    shapes = {"c": (8, 3, 3, 3), "t": (8, 8, 2, 2), "d": (4, 8, 1, 1)}
    nodes = [
        helper.make_node("Conv", ["x", "c"], ["h"], "conv", pads=[1] * 4),
        helper.make_node("ConvTranspose", ["h", "t"], ["u"], "up", strides=[2, 2]),
        helper.make_node("Conv", ["u", "d"], ["y"], "last"),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3, 8, 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 4, 16, 16])],
        [
            numpy_helper.from_array(random.normal(0, 0.3, shape).astype(np.float32), name)
            for name, shape in shapes.items()
        ],
    )
    opset = [helper.make_opsetid("", 18)]
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=9), tmp_path / "m.onnx")
    samples = (random.normal(size=(4, 3, 8, 8)).astype(np.float32),)
    given = (tmp_path / "m.onnx", tmp_path, [samples], QuantizeConfig())
    found = {}
    for runtimes in ((), ("openvino",)):
        made = Candidates(Prepared(*given, runtimes=runtimes)).makers()
        made["static"](tmp_path / "made.onnx")
        found[runtimes] = operators(onnx.load(tmp_path / "made.onnx"))
        expected, answer = (Session(tmp_path / f"{n}.onnx").run(samples) for n in ("m", "made"))
        assert 0 < np.linalg.norm(answer - expected) < 0.05 * np.linalg.norm(expected)
    assert found[()]["ConvTranspose"] == {"fp32, int8 weights": 1}
    assert found["openvino",]["ConvTranspose"] == {"int8 (static)": 1}
    assert {entry["Conv"]["int8 (static)"] for entry in found.values()} == {2}

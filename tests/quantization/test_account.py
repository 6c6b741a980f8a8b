"""Why a node is not int8, told of real quantized files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper
from small_graphs import save, value

from compress.data.task import Task
from compress.measure.judge import TaskJudge
from compress.quantization import candidates
from compress.quantization.account import account_of_nodes
from compress.quantization.building import build
from compress.quantization.config import QuantizeConfig
from compress.quantization.dynamic import quantize_dynamic_int8
from compress.quantization.weight_only import quantize_weights


@pytest.fixture(scope="module")
def files(
    trained_onnx: Path, tiny_task: Task, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("account")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(candidates, "slower_layers", lambda fp32, int8, names, **_: {names[0]})
        return build(trained_onnx, folder, TaskJudge(tiny_task), QuantizeConfig(samples=32)).files


def told(path: Path) -> dict[tuple[str, str], str]:
    found = account_of_nodes(onnx.load(path))
    assert all(entry["name"] for entry in found)
    return {(e["operator"], e["precision"]): e.get("why", "") for e in found}


def test_each_technique_says_why_a_node_is_not_int8(files: dict[str, Path], trained_onnx: Path):
    assert told(files["static"]) == {("Conv", "int8 (static)"): "", ("Gemm", "int8 (static)"): ""}
    assert told(files["static, slower layers fp32"])["Conv", "fp32"] == (
        "left in fp32 by the choice: in int8 it was slower or lost too much"
    )
    weights = told(files["weight-only"])
    assert weights["Conv", "fp32, int8 weights"] == (
        "weights are stored as integers and computed in fp32"
    )
    assert weights["Gemm", "fp32"] == "fewer than 256 weights do not pay for their scales"
    assert told(trained_onnx)["Conv", "fp32"] == (
        "left in fp32 by the choice: in int8 it was slower or lost too much"
    )


def test_beside_products_by_the_range_of_each_call_convolutions_stay_fp32(tmp_path: Path):
    constants = {"k": np.ones((8, 8, 3), np.float32), "w": np.ones((8, 2048), np.float32)}
    nodes = [
        helper.make_node("Conv", ["x", "k"], ["c"], "c"),
        helper.make_node("Transpose", ["c"], ["t"], "t", perm=[0, 2, 1]),
        helper.make_node("MatMul", ["t", "w"], ["y"], "m"),
    ]
    shapes = [value("x", ["n", 8, 9])], [value("y", ["n", 7, 2048])]
    source = save(tmp_path / "m.onnx", nodes, *shapes, constants)
    quantize_dynamic_int8(source, tmp_path / "dynamic.onnx")
    found = told(tmp_path / "dynamic.onnx")
    assert found["MatMul", "int8 (dynamic)"] == ""
    assert found["Conv", "fp32"] == (
        "convolutions are faster in fp32 than with ranges taken in each call"
    )


def by_name(path: Path) -> dict[str, str]:
    return {entry["name"]: entry.get("why", "") for entry in account_of_nodes(onnx.load(path))}


def test_weights_that_no_int8_operator_takes_are_told_with_the_reason(tmp_path: Path):
    node = helper.make_node
    constants = {
        "many": np.ones((4, 64, 64), np.float32),
        "vector": np.ones(9000, np.float32),
        "left": np.ones((64, 128), np.float32),
        "w": np.ones((64, 128), np.float32),
        "experts": np.ones((4, 64, 64), np.float32),
        "small": np.ones((4, 8), np.float32),
        "scale": np.ones((128,), np.float32),
        "half": np.array(0.5, np.float32),
    }
    nodes = [
        node("MatMul", ["x", "many"], ["a"], "many"),
        node("Transpose", ["a"], ["t"], "turned", perm=[0, 2, 1]),
        node("MatMul", ["t", "x"], ["p"], "computed"),
        node("Mul", ["half", "p"], ["h"], "halved"),
        node("MatMul", ["h", "left"], ["b"], "right"),
        node("MatMul", ["w", "bt"], ["c"], "left"),
        node("Transpose", ["b"], ["bt"], "turned again", perm=[0, 2, 1]),
        node("Einsum", ["b", "scale"], ["d"], "scaled", equation="btd,d->btd"),
        node("GatherND", ["experts", "picked"], ["e"], "experts"),
        node("Gather", ["small", "picked"], ["f"], "small"),
        node("MatMul", ["wide", "vector"], ["g"], "vector"),
    ]
    nodes[5], nodes[6] = nodes[6], nodes[5]
    inputs = [value("x", [4, 64, 64]), value("wide", ["n", 9000])]
    inputs.append(value("picked", ["n", 1], onnx.TensorProto.INT64))
    outputs = [value(name, None) for name in "cdefg"]
    source = save(tmp_path / "m.onnx", nodes, inputs, outputs, constants)
    quantize_dynamic_int8(source, tmp_path / "dynamic.onnx")
    assert by_name(tmp_path / "dynamic.onnx") == {
        "many": "",
        "computed": "both sides are computed: there are no weights to quantize",
        "right": "",
        "left": "dynamic int8 has no product with weights on the left",
        "scaled": "onnxruntime has no int8 Einsum, and this one is no product of two",
        "experts": "it reads what is no row of a table, which stays as it is",
        "vector": "dynamic int8 has no product with a vector of weights",
    }


def test_an_embedding_that_another_node_reads_says_so(tmp_path: Path):
    constants = {"table": np.ones((64, 128), np.float32), "w": np.ones((128, 128), np.float32)}
    nodes = [
        helper.make_node("Gather", ["table", "i"], ["e"], "embedding"),
        helper.make_node("MatMul", ["e", "w"], ["m"], "m"),
        helper.make_node("Einsum", ["m", "table"], ["y"], "tied", equation="nd,vd->nv"),
    ]
    shapes = [value("i", ["n"], onnx.TensorProto.INT64)], [value("y", ["n", 64])]
    source = save(tmp_path / "m.onnx", nodes, *shapes, constants)
    quantize_dynamic_int8(source, tmp_path / "dynamic.onnx")
    assert by_name(tmp_path / "dynamic.onnx")["embedding"] == (
        "its table is read along its columns, or by another node as well"
    )


@pytest.mark.parametrize(
    ("units", "why"),
    [
        (32, "onnxruntime has no int8 GRU, and under 64 units none gains"),
        (64, "onnxruntime has no int8 GRU; step by step it was slower or lost too much"),
    ],
)
def test_a_narrow_recurrent_layer_is_not_said_to_have_been_tried(
    tmp_path: Path, units: int, why: str
):
    constants = {
        "w": np.ones((1, 3 * units, 128), np.float32),
        "r": np.ones((1, 3 * units, units), np.float32),
        "v": np.ones((128, 128), np.float32),
    }
    nodes = [
        helper.make_node("MatMul", ["x", "v"], ["m"], "m"),
        helper.make_node("GRU", ["m", "w", "r"], ["y"], "gru", hidden_size=units),
    ]
    shapes = [value("x", ["t", "n", 128])], [value("y", ["t", 1, "n", units])]
    source = save(tmp_path / "m.onnx", nodes, *shapes, constants)
    quantize_dynamic_int8(source, tmp_path / "dynamic.onnx")
    assert by_name(tmp_path / "dynamic.onnx")["gru"] == why


def test_few_weights_beside_those_that_are_stored_as_integers(tmp_path: Path):
    constants = {"k": np.ones((8, 8, 4), np.float32), "l": np.ones((2, 8, 3), np.float32)}
    nodes = [
        helper.make_node("Conv", ["x", "k"], ["c"], "large"),
        helper.make_node("Conv", ["c", "l"], ["y"], "small"),
    ]
    shapes = [value("x", ["n", 8, 9])], [value("y", ["n", 2, 4])]
    quantize_weights(save(tmp_path / "m.onnx", nodes, *shapes, constants), tmp_path / "w.onnx")
    assert by_name(tmp_path / "w.onnx") == {
        "large": "weights are stored as integers and computed in fp32",
        "small": "fewer than 256 weights do not pay for their scales",
    }


def test_a_table_in_fp16_makes_no_model_one_in_fp16(tmp_path: Path):
    constants = {"table": np.ones((64, 128), np.float16), "w": np.ones((8, 8), np.float32)}
    nodes = [
        helper.make_node("Gather", ["table", "i"], ["e"], "embedding"),
        helper.make_node("MatMul", ["x", "w"], ["y"], "m"),
    ]
    inputs = [value("i", ["n"], onnx.TensorProto.INT64), value("x", ["n", 8])]
    outputs = [value("y", ["n", 8]), value("e", ["n", 128], onnx.TensorProto.FLOAT16)]
    assert by_name(save(tmp_path / "m.onnx", nodes, inputs, outputs, constants)) == {
        "m": "fewer than 8,192 weights do not pay for the conversion"
    }

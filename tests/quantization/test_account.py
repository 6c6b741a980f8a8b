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
    assert weights["Gemm", "fp32"] == "64 weights are too few to pay for the conversion"
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

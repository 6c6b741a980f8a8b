"""Profiles: figures from results that are given, and real workers on models that are known."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import ModelProto, TensorProto, helper, numpy_helper

from compress.errors import InputError, WorkerFailed
from compress.measure.config import BenchConfig
from compress.measure.precision import node_precision, tensor_text
from compress.measure.profile import (
    ProfileConfig,
    bench_profiles,
    idle_model,
    merge,
    profile,
)

ONE = ProfileConfig(workers=1)
FLOAT, INT8, INT64 = ("float", [2, 3]), ("uint8", [2, 3]), ("int64", [3])


def graph(nodes: list, *tensors: np.ndarray, width: int = 64) -> ModelProto:
    """A model from "x" to "y", (batch, width); initializers are "w0", "w1", …."""
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", width]) for name in "xy"]
    weights = [numpy_helper.from_array(tensor, f"w{at}") for at, tensor in enumerate(tensors)]
    made = helper.make_graph(nodes, "g", values[:1], values[1:], weights)
    opset = [helper.make_opsetid("", 18)]
    return helper.make_model(made, opset_imports=opset, ir_version=9)


def saved(path: Path, model: ModelProto) -> Path:
    onnx.save(model, path)
    return path


def float_model(name: str = "<script>alert(1)</script>") -> ModelProto:
    weight = np.eye(64, dtype=np.float32)
    return graph(
        [
            helper.make_node("MatMul", ["x", "w0"], ["a"], name="first"),
            helper.make_node("Relu", ["a"], ["b"], name=name),
            helper.make_node("MatMul", ["b", "w0"], ["y"], name="second"),
        ],
        weight,
    )


def int8_model() -> ModelProto:
    return graph(
        [
            helper.make_node("DynamicQuantizeLinear", ["x"], ["q", "s", "z"], name="quantize"),
            helper.make_node("MatMulInteger", ["q", "w0", "z"], ["i"], name="product"),
            helper.make_node("Cast", ["i"], ["f"], name="cast", to=TensorProto.FLOAT),
            helper.make_node("Mul", ["f", "s"], ["m"], name="scale"),
            helper.make_node("Softmax", ["m"], ["y"], name="softmax"),
        ],
        np.ones((64, 64), np.int8),
    )


def looping_model() -> ModelProto:
    info = helper.make_tensor_value_info
    body = helper.make_graph(
        [
            helper.make_node("Identity", ["go"], ["on"], name="condition"),
            helper.make_node("MatMul", ["state", "w0"], ["product"], name="inner"),
            helper.make_node("Tanh", ["product"], ["next"], name="bend"),
        ],
        "body",
        [
            info("at", TensorProto.INT64, []),
            info("go", TensorProto.BOOL, []),
            info("state", TensorProto.FLOAT, None),
        ],
        [info("on", TensorProto.BOOL, []), info("next", TensorProto.FLOAT, None)],
    )
    loop = helper.make_node("Loop", ["w1", "", "x"], ["y"], body=body, name="loop")
    return graph([loop], np.eye(64, dtype=np.float32), np.array(5))


def result(wall_us: float, cost_us: float = 2.0, **times: float) -> dict:
    """What a worker answers; keyword `name_operator` to microseconds."""
    nodes = []
    for key, us in times.items():
        name, operator = key.split("_")
        nodes.append(
            {
                "key": [f"0 {name}"],
                "name": name,
                "operator": operator,
                "provider": "CPUExecutionProvider",
                "inputs": [FLOAT],
                "outputs": [FLOAT],
                "inside": None,
                "runs": 1.0,
                "us": us,
            }
        )
    return {"calls": 10, "us": 50.0, "wall_us": wall_us, "cost_us": cost_us, "nodes": nodes}


def test_figures_of_several_processes_by_hand():
    found = merge(
        [
            result(20, a_MatMul=6, b_MatMul=2, c_QLinearConv=8),
            result(22, a_MatMul=4, b_MatMul=2, c_QLinearConv=9),
            result(21, a_MatMul=5, b_MatMul=2, c_QLinearConv=10),
            result(90, a_MatMul=80, b_MatMul=2, c_QLinearConv=9),
        ],
        ProfileConfig(workers=4, batch=3, threads=2),
    )
    # Of four the lowest and the highest go: a 5.5, b 2, c 9.
    assert [(node.name, node.us) for node in found.nodes] == [("c", 9.0), ("a", 5.5), ("b", 2.0)]
    assert found.kernels_us == 16.5
    assert [(entry.operator, entry.nodes, entry.us) for entry in found.operators] == [
        ("QLinearConv", 1, 9.0),
        ("MatMul", 2, 7.5),
    ]
    assert [entry.share for entry in found.operators] == pytest.approx([9 / 16.5, 7.5 / 16.5])
    assert found.operators[1].workers_us == [8, 6, 7, 82]
    assert found.operators[1].share_range == pytest.approx((6 / 15, 82 / 91))
    assert (found.wall_us, found.calls, found.batch, found.threads) == (21.5, 40, 3, 2)
    assert found.outside_us == 5.0
    assert (found.int8_nodes, found.int8_share) == (1, pytest.approx(9 / 16.5))
    assert found.workers_kernels_us == [16, 15, 17, 91]


def test_kernels_too_short_for_the_profiler_have_no_share():
    found = merge([result(3, a_Relu=0.0)], ONE)
    assert (found.kernels_us, found.nodes[0].share, found.operators[0].share) == (0, 0, 0)


def test_a_node_that_one_process_did_not_see():
    found = merge([result(9, a_Relu=4), result(9, a_Relu=4, b_Tanh=2)], ProfileConfig(workers=2))
    assert [(entry.operator, entry.workers_us) for entry in found.operators] == [
        ("Relu", [4, 4]),
        ("Tanh", [0, 2]),
    ]


@pytest.mark.parametrize(
    ("operator", "inputs", "outputs", "expected"),
    [
        ("MatMul", [FLOAT], [FLOAT], "fp32"),
        ("MatMul", [("float16", [2])], [("float16", [2])], "fp16"),
        ("MatMul", [INT64], [INT64], "integers"),
        ("FusedConv", [FLOAT], [FLOAT], "fp32"),
        ("Shape", [FLOAT], [INT64], "integers"),
        ("Greater", [FLOAT], [("bool", [2])], "integers"),
        ("QLinearConv", [INT8], [INT8], "int8 (static)"),
        ("QLinearAdd", [INT8], [INT8], "int8 (static)"),
        ("QuickGelu", [FLOAT], [FLOAT], "fp32"),
        ("MatMulInteger", [INT8], [("int32", [2])], "int8 (dynamic)"),
        ("DynamicQuantizeLSTM", [FLOAT], [FLOAT], "int8 (dynamic)"),
        ("MaxPool", [INT8], [INT8], "int8"),
        ("Gather", [("int8", [2]), INT64], [("int8", [2])], "int8"),
        ("QuantizeLinear", [FLOAT], [INT8], "int8 conversion"),
        ("Cast", [INT8], [FLOAT], "int8 conversion"),
        ("Cast", [INT64], [FLOAT], "fp32"),
        ("MatMulNBits", [FLOAT], [FLOAT], "int4 weights"),
        ("Loop", [INT64, FLOAT], [FLOAT], "control flow"),
    ],
)
def test_the_precision_of_a_node(operator: str, inputs: list, outputs: list, expected: str):
    assert node_precision(operator, inputs, outputs) == expected


def test_shapes_as_text():
    assert tensor_text("float", [2, 8, 192]) == "fp32 2×8×192"
    assert tensor_text("int64", []) == "int64 scalar"


def test_a_real_model_and_an_int8_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    monkeypatch.setenv("TMPDIR", str(folder))
    arms = {
        "float": saved(tmp_path / "float.onnx", float_model()),
        "int8": saved(tmp_path / "int8.onnx", int8_model()),
        "loop": saved(tmp_path / "loop.onnx", looping_model()),
    }
    before = {path.name for path in tmp_path.iterdir()}
    steps: list[tuple] = []
    config = ProfileConfig(workers=1, batch=2)
    found = profile(arms, config, progress=lambda *step: steps.append(step))

    plain = found["float"]
    assert {entry.operator: entry.nodes for entry in plain.operators} == {"MatMul": 2, "Relu": 1}
    names = {node.name: (node.operator, node.runs) for node in plain.nodes}
    assert names == {
        "first": ("MatMul", 1),
        "<script>alert(1)</script>": ("Relu", 1),
        "second": ("MatMul", 1),
    }
    assert all("fp32 2×64" in node.shapes for node in plain.nodes)
    assert all(node.provider == "CPUExecutionProvider" for node in plain.nodes)
    assert sum(node.us for node in plain.nodes) == pytest.approx(plain.kernels_us)
    assert (plain.int8_nodes, plain.int8_share) == (0, 0)
    assert plain.wall_us < plain.profiled_us
    assert plain.calls >= 12

    int8 = found["int8"]
    assert int8.int8_nodes == 1
    precisions = {node.operator: node.precision for node in int8.nodes}
    assert precisions["DynamicQuantizeLinear"] == "int8 conversion"
    assert [kind for kind, value in precisions.items() if value == "int8 (dynamic)"]

    looped = {node.name: (node.inside, node.runs) for node in found["loop"].nodes}
    assert looped["loop"] == (None, 1)
    assert looped["inner"] == looped["bend"] == ("loop", 5)
    total = {entry.operator: entry.nodes for entry in found["loop"].operators}
    assert total == {"Loop": 1, "MatMul": 1, "Tanh": 1, "Identity": 1}

    assert steps == [("profile", step, 3) for step in (1, 2, 3)]
    assert {path.name for path in tmp_path.iterdir()} == before
    assert not [*folder.rglob("*.json"), *folder.rglob("*.onnx")]


def test_real_samples_reach_the_model(tmp_path: Path):
    model = saved(tmp_path / "model.onnx", float_model())
    rows = np.zeros((7, 64), np.float32)
    config = ProfileConfig(workers=1, batch=7)
    found = profile({"a": model}, config, inputs=lambda batch: (rows[:batch],))["a"]
    assert "fp32 7×64" in found.nodes[0].shapes
    wide = np.zeros((7, 65), np.float32)
    with pytest.raises(WorkerFailed, match=r"measuring a: the process died: .*float32 \[7, 65\]"):
        profile({"a": model}, config, inputs=lambda batch: (wide[:batch],))


def test_a_model_that_does_not_load_is_named(tmp_path: Path):
    path = tmp_path / "bad.onnx"
    path.write_bytes(b"no model")
    with pytest.raises(WorkerFailed) as caught:
        profile({"bad one": path}, ONE)
    assert str(caught.value).startswith("measuring bad one: the process died: ")
    assert "\n" not in str(caught.value)


def test_a_model_that_fails_beside_others_has_no_profile(tmp_path: Path):
    path = tmp_path / "bad.onnx"
    path.write_bytes(b"no model")
    good = saved(tmp_path / "good.onnx", float_model())
    failed: dict[str, str] = {}
    found = profile({"bad": path, "good": good}, ProfileConfig(workers=2), failed=failed)
    assert (found.keys(), failed.keys()) == ({"good"}, {"bad"})
    assert failed["bad"].startswith("the process died: ")
    assert len(found["good"].workers_wall_us) == 2


def test_the_idle_model_is_what_it_says():
    onnx.checker.check_model(idle_model(3))
    assert [node.op_type for node in idle_model(3).graph.node] == ["Add"] * 3


def test_a_benchmark_profiles_only_where_asked(tmp_path: Path, trained_onnx: Path):
    arms = {"a": trained_onnx}
    assert bench_profiles(arms, BenchConfig(), inputs=None) == ({}, {})
    BenchConfig(profile=True).check_here("cpu")
    with pytest.raises(InputError, match=r"^benchmark\.profile: on 'cuda' the profiler sees when"):
        BenchConfig(profile=True).check_here("cuda")

"""A model whose weights lie in a file beside it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from typer.testing import CliRunner

from compress.artifact import load_artifact, wrap_onnx
from compress.cli.app import app
from compress.onnx_files import files_of, model_digest, sha256, size_bytes
from compress.runtime.onnxruntime import Session

VALUES = 64 * 64


@pytest.fixture
def beside(tmp_path: Path) -> Path:
    """Products, the second one in a branch: weights in two files."""
    value = helper.make_tensor_value_info
    weights = [np.random.default_rng(at).normal(size=(64, 64)).astype(np.float32) for at in (0, 1)]
    body = helper.make_graph(
        [helper.make_node("MatMul", ["h", "inner"], ["b"])],
        "body",
        [],
        [value("b", TensorProto.FLOAT, ["n", 64])],
        [numpy_helper.from_array(weights[1], "inner")],
    )
    graph = helper.make_graph(
        [
            helper.make_node("MatMul", ["x", "outer"], ["h"]),
            helper.make_node("If", ["which"], ["y"], then_branch=body, else_branch=body),
        ],
        "g",
        [value("x", TensorProto.FLOAT, ["n", 64]), value("which", TensorProto.BOOL, [])],
        [value("y", TensorProto.FLOAT, ["n", 64])],
        [numpy_helper.from_array(weights[0], "outer")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    (tmp_path / "in").mkdir()
    path = tmp_path / "in" / "m.onnx"
    for tensor in (model.graph.initializer[0], body_weight(model)):
        place = f"{tensor.name}.bin"
        (path.parent / place).write_bytes(tensor.raw_data)
        onnx.external_data_helper.set_external_data(tensor, place)
        tensor.ClearField("raw_data")
    path.write_bytes(model.SerializeToString())
    return path


def body_weight(model: onnx.ModelProto) -> TensorProto:
    branches = model.graph.node[1].attribute
    branches[1].g.initializer[0].CopyFrom(branches[0].g.initializer[0])
    branches[1].g.initializer[0].name = "other"
    branches[1].g.node[0].input[1] = "other"
    return branches[0].g.initializer[0]


def test_files_size_and_digest_count_all_weights(beside: Path):
    folder = beside.parent
    assert files_of(beside) == [beside, folder / "inner.bin", folder / "outer.bin"]
    assert size_bytes(beside) == beside.stat().st_size + 2 * 4 * VALUES
    before = model_digest(beside)
    assert wrap_onnx(beside).card.key == before
    (folder / "outer.bin").write_bytes(np.zeros(VALUES, np.float32).tobytes())
    assert model_digest(beside) != before


def test_files_outside_of_the_folder_are_not_looked_at(beside: Path):
    (beside.parent / "outer.bin").rename(beside.parents[1] / "secret.bin")
    model = onnx.load(beside, load_external_data=False)
    for place in ("../secret.bin", str(beside.parents[1] / "secret.bin")):
        model.graph.initializer[0].external_data[0].value = place
        beside.write_bytes(model.SerializeToString())
        assert files_of(beside) == [beside, beside.parent / "inner.bin"]


def test_one_file_is_its_own_digest_and_what_is_no_model_is_one_file(tmp_path: Path):
    (tmp_path / "m.onnx").write_bytes(b"nothing of that kind")
    assert files_of(tmp_path / "m.onnx") == [tmp_path / "m.onnx"]
    assert model_digest(tmp_path / "m.onnx") == sha256(tmp_path / "m.onnx")


def test_an_fp32_model_that_stays_takes_its_weights_along(tmp_path: Path):
    """Nothing is better than it: the artifact is a copy, which has to run by itself."""
    weights = np.random.default_rng(0).normal(size=(64, 64)).astype(np.float32)
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        "g",
        [value("x", TensorProto.FLOAT, ["n", 64])],
        [value("y", TensorProto.FLOAT, ["n", 64])],
        [numpy_helper.from_array(weights, "w")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    (tmp_path / "in").mkdir()
    source = tmp_path / "in" / "m.onnx"
    onnx.save(model, source, save_as_external_data=True, location="w.bin", size_threshold=0)
    rows = np.random.default_rng(1).normal(size=(64, 64)).astype(np.float32)
    np.savez(tmp_path / "rows.npz", x=rows)
    short = ["benchmark.batch=[1]", "benchmark.workers=1", "benchmark.rounds=2"]
    result = CliRunner().invoke(
        app,
        [
            *("quantize", str(source), "--data", f"npz:{tmp_path / 'rows.npz'}"),
            *("--agreement", "error", "--max-drop", "0"),  # no int8 keeps that
            *("--out", str(tmp_path / "out"), *short),
        ],
    )
    assert result.exit_code in (0, 1), result.output
    (tmp_path / "in" / "w.bin").unlink()
    made = load_artifact(tmp_path / "out")
    evidence = made.card.evidence
    assert evidence["size_bytes"][0] >= 4 * VALUES
    np.testing.assert_allclose(Session(made.onnx).run(rows), rows @ weights, rtol=1e-4, atol=1e-4)

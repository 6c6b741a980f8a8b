"""Whether two models do the same job is told before anything is measured."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from compress.errors import ShapeMismatch
from compress.pipeline.alike import check_alike


def write(
    path: Path,
    taken: tuple[int | str, ...] = ("n", 3),
    width: int = 2,
    outputs: tuple[str, ...] = ("y",),
    kind: int = TensorProto.FLOAT,
) -> Path:
    """A product with a (3, width) matrix; every further output is a copy of it."""
    given = helper.make_tensor_value_info("x", TensorProto.FLOAT, taken)
    made = [helper.make_tensor_value_info(name, kind, None) for name in outputs]
    weight = numpy_helper.from_array(np.ones((3, width), np.float32), "w")
    nodes = [helper.make_node("MatMul", ["x", "w"], ["product"])]
    nodes += [helper.make_node("Cast", ["product"], [name], to=kind) for name in outputs]
    graph = helper.make_graph(nodes, "g", [given], made, [weight])
    opset = [helper.make_opsetid("", 18)]
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=9), path)
    return path


@pytest.fixture
def before(tmp_path: Path) -> Path:
    return write(tmp_path / "before.onnx")


def test_an_equal_model_needs_no_note(before: Path, tmp_path: Path):
    assert check_alike(before, write(tmp_path / "after.onnx")) == []


def test_a_fixed_batch_may_stand_beside_an_open_one(before: Path, tmp_path: Path):
    assert check_alike(before, write(tmp_path / "after.onnx", taken=(2, 3))) == []


def test_outputs_of_another_shape(before: Path, tmp_path: Path):
    after = write(tmp_path / "after.onnx", width=5)
    with pytest.raises(ShapeMismatch) as stop:
        check_alike(before, after)
    assert str(stop.value) == (
        f"the models give different outputs for the same inputs [2, 3]: {before} [2, 2], "
        f"{after} [2, 5]. Their first outputs have to mean the same."
    )


def test_inputs_of_another_shape(before: Path, tmp_path: Path):
    after = write(tmp_path / "after.onnx", taken=("n", "time", 3))
    with pytest.raises(ShapeMismatch) as stop:
        check_alike(before, after)
    assert str(stop.value) == (
        f"the models take different inputs: {before} x tensor(float) [?, 3]; {after} x "
        "tensor(float) [?, ?, 3]. A gate compares two models on the same samples: export both "
        "with the same input names, types and shapes."
    )


def test_an_open_length_beside_a_fixed_one_needs_data(tmp_path: Path):
    some = write(tmp_path / "open.onnx", taken=("n", "time", 3))
    fixed = write(tmp_path / "fixed.onnx", taken=("n", 7, 3))
    with pytest.raises(ShapeMismatch, match=r"without data an open dimension is 1.*--data"):
        check_alike(some, fixed)
    assert check_alike(some, fixed, sample=(np.ones((2, 7, 3), np.float32),)) == []


def test_what_a_caller_would_notice_is_noted(before: Path, tmp_path: Path):
    renamed = write(tmp_path / "renamed.onnx", outputs=("z",), kind=TensorProto.DOUBLE)
    assert check_alike(before, renamed) == [
        "The outputs are named y before and z now.",
        "The first output was tensor(float) and is tensor(double) now.",
    ]
    more = write(tmp_path / "more.onnx", outputs=("y", "z"))
    assert check_alike(before, more) == [
        "The baseline has 1 outputs, the candidate 2; only the first was compared."
    ]

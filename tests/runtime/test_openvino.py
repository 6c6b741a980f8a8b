"""OpenVINO against onnxruntime on the same files."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from compress.data.task import Task
from compress.errors import DeviceUnavailable, InputError, ModelFileError, ShapeMismatch
from compress.runtime.interface import import_runtime, open_model
from compress.runtime.onnxruntime import Session


def test_without_the_extra_one_line_names_it(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "openvino", None)
    monkeypatch.delitem(sys.modules, "compress.runtime.openvino", raising=False)
    with pytest.raises(InputError, match=r"pip install 'compress-kit\[openvino\]'"):
        import_runtime("openvino")


@pytest.fixture
def openvino():
    return pytest.importorskip("openvino")


def test_it_answers_as_onnxruntime_does(openvino, trained_onnx: Path, tiny_task: Task):
    rows = tiny_task.test.inputs.numpy()
    model = open_model("openvino", trained_onnx, threads=1)
    expected = Session(trained_onnx).run(rows)
    np.testing.assert_allclose(model.run(rows, batch_size=25), expected, rtol=1e-3, atol=1e-4)
    call = model.bind(rows[:3])
    call()
    model.prepare()


def test_a_bound_call_is_compiled_for_its_shapes(openvino, trained_onnx: Path, monkeypatch):
    model = open_model("openvino", trained_onnx)
    compiled = []
    compile_model = openvino.Core.compile_model

    def spy(core, graph, *rest):
        compiled.append(graph.inputs[0].partial_shape)
        return compile_model(core, graph, *rest)

    monkeypatch.setattr(openvino.Core, "compile_model", spy)
    model.bind(np.zeros((3, 1, 12, 12), np.float32))()
    assert [list(shape.to_shape()) for shape in compiled] == [[3, 1, 12, 12]]


def test_bf16_is_near_and_is_not_fp32(openvino, trained_onnx: Path, tiny_task: Task):
    rows = tiny_task.test.inputs.numpy()
    expected = Session(trained_onnx).run(rows)
    found = open_model("openvino-bf16", trained_onnx).run(rows)
    np.testing.assert_allclose(found, expected, atol=0.05 * np.abs(expected).max())
    if "BF16" in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        assert np.abs(found - expected).max() > 1e-4


def test_examples_are_those_of_onnxruntime(openvino, trained_onnx: Path):
    (found,) = open_model("openvino", trained_onnx).example(3)
    (expected,) = Session(trained_onnx).example(3)
    np.testing.assert_array_equal(found, expected)
    assert found.dtype == expected.dtype


def scalar_model(path: Path) -> Path:
    """x to the power of a number."""
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 4])
    power = helper.make_tensor_value_info("power", TensorProto.FLOAT, [])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 4])
    graph = helper.make_graph(
        [helper.make_node("Pow", ["x", "power"], ["y"])], "g", [x, power], [y]
    )
    opset = [helper.make_opsetid("", 18)]
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=9), path)
    return path


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_a_number_alone_is_an_input(runtime: str, tmp_path: Path):
    pytest.importorskip(runtime)
    model = open_model(runtime, scalar_model(tmp_path / "m.onnx"))
    feeds = (np.float32([[1, 2, 3, 4]]), np.array(2, np.float32))
    (found,) = model.outputs_of(feeds)
    np.testing.assert_allclose(found, feeds[0] ** 2, rtol=1e-6)
    model.bind(feeds)()


def test_what_fails_in_a_call_is_one_line(openvino, trained_onnx: Path, monkeypatch):
    model = open_model("openvino", trained_onnx)

    def fail(*_):
        raise RuntimeError(
            "Exception from src/infer_request.cpp:104:\nCheck 'a' failed\nno room\n\n"
        )

    monkeypatch.setattr(openvino.InferRequest, "infer", fail)
    with pytest.raises(ModelFileError, match=r"fails on inputs \[3, 1, 12, 12\]: no room$"):
        model.run(np.zeros((3, 1, 12, 12), np.float32))


def test_what_does_not_fit_is_one_line(openvino, trained_onnx: Path, tmp_path: Path):
    model = open_model("openvino", trained_onnx)
    for wrong in (np.zeros((2, 1, 5), np.float32), np.zeros((2, 1, 12, 12))):
        with pytest.raises(ShapeMismatch, match=r"takes .*the data is float(32|64) \[2, 1, "):
            model.bind(wrong)
    bad = tmp_path / "bad.onnx"
    bad.write_bytes(b"no model")
    with pytest.raises(ModelFileError, match=r"bad\.onnx: OpenVINO cannot load it: \S") as caught:
        open_model("openvino", bad)
    assert "\n" not in str(caught.value)
    with pytest.raises(ModelFileError, match="no such file"):
        open_model("openvino", tmp_path / "none.onnx")
    with pytest.raises(DeviceUnavailable, match="for the CPU"):
        open_model("openvino", trained_onnx, "cuda")

"""Files over which onnxruntime crashes; made up, as the real crash takes a large file."""

from __future__ import annotations

import re

import nested
import numpy as np
import onnx
import onnxruntime
import pytest
from nested import body, branches, model, normal, run, saved, value
from onnx import helper

from compress.errors import ModelFileError
from compress.quantization.rewriting import crashing
from compress.quantization.rewriting.crashing import check_loads, loadable
from compress.runtime.isolated import Crashed


def doubled(known):
    then = body([helper.make_node("Add", ["x", "x"], ["p"])], ["p"])
    otherwise = body([helper.make_node("Neg", ["x"], ["q"])], ["q"])
    inputs = [value("x")] + ([] if known else [value("c", [], bool)])
    constants = {"c": np.array(True)} if known else {}
    return model([branches("c", ["y"], then, otherwise)], inputs, [value("y")], constants)


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "copy").mkdir()
    return tmp_path / "copy"


def test_a_file_that_loads_is_taken_as_it_is(folder, tmp_path):
    source = saved(doubled(known=True), tmp_path / "m.onnx")
    assert loadable(source, folder) == source
    check_loads(source)


def test_a_copy_without_the_if_stands_for_a_file_that_crashes(monkeypatch, folder, tmp_path):
    monkeypatch.setattr(crashing, "_open", nested.crash_over_if)
    source = saved(doubled(known=True), tmp_path / "m.onnx")
    copy = loadable(source, folder)
    assert copy == folder / "m.onnx"
    assert [node.op_type for node in onnx.load(copy).graph.node] == ["Add"]
    x = normal(2, 3)
    np.testing.assert_array_equal(run(copy, x)[0], 2 * x)


def test_a_crash_that_remains_is_told_in_one_line(monkeypatch, folder, tmp_path):
    monkeypatch.setattr(crashing, "_open", nested.crash)
    source = saved(doubled(known=False), tmp_path / "m.onnx")
    message = (
        f"{source}: onnxruntime crashes (SIGSEGV) as it loads the file; expected a graph that "
        f"onnxruntime {onnxruntime.__version__} runs, such as an export without If, Loop and Scan."
    )
    with pytest.raises(ModelFileError, match=f"^{re.escape(message)}$"):
        loadable(source, folder)
    with pytest.raises(Crashed, match=r"^onnxruntime crashes \(SIGSEGV\)$"):
        check_loads(source)


def test_what_is_no_model_is_for_its_user_to_tell(folder, tmp_path):
    (tmp_path / "m.onnx").write_bytes(b"no model")
    assert loadable(tmp_path / "m.onnx", folder) == tmp_path / "m.onnx"
    with pytest.raises(ModelFileError, match="onnxruntime cannot load it"):
        check_loads(tmp_path / "m.onnx")


def test_a_file_with_bodies_that_fails_is_for_its_user_to_tell(folder, tmp_path):
    broken = doubled(known=False)
    broken.graph.node[0].input[0] = "nobody"
    onnx.save(broken, tmp_path / "m.onnx")
    assert loadable(tmp_path / "m.onnx", folder) == tmp_path / "m.onnx"
    with pytest.raises(ModelFileError, match="onnxruntime cannot load it"):
        check_loads(tmp_path / "m.onnx")

"""Files that lack something, lie in several pieces, or are no model."""

from __future__ import annotations

import onnx
import pytest
from sketch import Sketch, block, gelu, kinds, numbers, same_outputs, save

from compress.errors import ModelFileError
from compress.quantization.rewriting import files
from compress.quantization.rewriting.simplify import simplify


def beside(folder, name="weights.bin"):
    """A block whose weights lie in a file beside it."""
    model = block(13)
    folder.mkdir()
    onnx.save(model, folder / "m.onnx", save_as_external_data=True, location=name, size_threshold=0)
    return folder / "m.onnx"


def test_weights_beside_the_file(tmp_path, monkeypatch):
    source = beside(tmp_path / "in")
    monkeypatch.chdir(tmp_path)
    simplify(source.relative_to(tmp_path), tmp_path / "out.onnx")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in", "out.onnx"]
    same_outputs(source, tmp_path / "out.onnx", numbers(2, 3, 8))


def test_weights_that_are_missing(tmp_path):
    source = beside(tmp_path / "in")
    (tmp_path / "in" / "weights.bin").unlink()
    with pytest.raises(ModelFileError, match=r"m.onnx: not a valid ONNX model: .*weights.bin") as e:
        simplify(source, tmp_path / "out.onnx")
    assert "\n" not in str(e.value)


@pytest.mark.parametrize("place", ["../secret.bin", "/etc/hostname", "a/../../secret.bin"])
def test_weights_outside_of_the_folder_are_refused(place, tmp_path):
    source = beside(tmp_path / "in")
    (tmp_path / "in" / "weights.bin").rename(tmp_path / "secret.bin")
    model = onnx.load(source, load_external_data=False)
    for tensor in model.graph.initializer:
        next(entry for entry in tensor.external_data if entry.key == "location").value = place
    onnx.save(model, source)
    with pytest.raises(ModelFileError, match=r"m.onnx: not a valid ONNX model: .*") as error:
        simplify(source, tmp_path / "out.onnx")
    assert "\n" not in str(error.value)
    assert place.rpartition("/")[2] in str(error.value)
    assert not (tmp_path / "out.onnx").exists()


def test_more_weights_than_protobuf_takes(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "_LARGEST", 100)
    g = Sketch(13)
    x = g.MatMul(g.input(shape=("n", 32)), g.constant(numbers(32, 32)))
    source = save(g.output(gelu(g, x)).model(), tmp_path / "m.onnx")
    for _ in range(2):  # the second time over what the first one left
        assert not [r for r in simplify(source, tmp_path / "out.onnx") if r.undone]
        assert (tmp_path / "out.onnx.data").stat().st_size == 32 * 32 * 4
    assert kinds(onnx.load(tmp_path / "out.onnx"))["Gelu"] == 1
    same_outputs(source, tmp_path / "out.onnx", numbers(2, 32))


def test_files_that_are_no_model(tmp_path):
    path = tmp_path / "m.onnx"
    with pytest.raises(ModelFileError, match=r"m.onnx: no such file; expected an ONNX model."):
        simplify(path, tmp_path / "out.onnx")
    path.write_bytes(b"")
    with pytest.raises(ModelFileError, match=r"the graph has no nodes; expected a trained model."):
        simplify(path, tmp_path / "out.onnx")
    path.write_text("no model at all")
    with pytest.raises(ModelFileError, match=r"m.onnx: not a valid ONNX model: "):
        simplify(path, tmp_path / "out.onnx")
    assert [entry.name for entry in tmp_path.iterdir()] == ["m.onnx"]


@pytest.mark.parametrize("part", [0.1, 0.5, 0.9, 0.99])
def test_truncated_files(part, tmp_path):
    whole = block(13).SerializeToString()
    (tmp_path / "m.onnx").write_bytes(whole[: int(part * len(whole))])
    with pytest.raises(ModelFileError, match=r"m.onnx: ") as error:
        simplify(tmp_path / "m.onnx", tmp_path / "out.onnx")
    assert "\n" not in str(error.value)


def test_more_weights_than_protobuf_takes_in_the_bodies(tmp_path, monkeypatch):
    weights = {name: numbers(32, 32) for name in ("a", "b")}
    bodies = {}
    for name, weight in weights.items():
        made = onnx.helper.make_tensor_value_info(f"{name}_y", onnx.TensorProto.FLOAT, ["n", 32])
        node = onnx.helper.make_node("MatMul", ["x", f"{name}_w"], [f"{name}_y"])
        constant = onnx.numpy_helper.from_array(weight, f"{name}_w")
        bodies[name] = onnx.helper.make_graph([node], name, [], [made], [constant])
    value = onnx.helper.make_tensor_value_info
    choice = onnx.helper.make_node(
        "If", ["which"], ["y"], then_branch=bodies["a"], else_branch=bodies["b"]
    )
    graph = onnx.helper.make_graph(
        [choice],
        "g",
        [value("x", onnx.TensorProto.FLOAT, ["n", 32]), value("which", onnx.TensorProto.BOOL, [])],
        [value("y", onnx.TensorProto.FLOAT, ["n", 32])],
    )
    opsets = [onnx.helper.make_opsetid("", 18)]
    model = onnx.helper.make_model(graph, opset_imports=opsets, ir_version=9)
    before = model.SerializeToString()
    monkeypatch.setattr(files, "_LARGEST", 100)
    files.save(model, tmp_path / "m.onnx")
    assert (tmp_path / "m.onnx").stat().st_size < 32 * 32 * 4
    assert (tmp_path / "m.onnx.data").stat().st_size >= 2 * 32 * 32 * 4
    assert files.load(tmp_path / "m.onnx").graph.node[0].attribute[0].g.initializer[0].raw_data
    assert model.ByteSize() >= len(before)  # its weights are still there


def test_what_was_written_is_removed_with_its_weights(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "_LARGEST", 100)
    files.save(block(13), tmp_path / "m.onnx")
    assert {file.name for file in tmp_path.iterdir()} == {"m.onnx", "m.onnx.data"}
    files.remove(tmp_path / "m.onnx")
    assert not list(tmp_path.iterdir())

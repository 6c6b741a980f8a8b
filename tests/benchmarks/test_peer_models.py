"""What `benchmarks.peers` makes of others' files, on small ones made here."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper

from benchmarks.peers import packages, speech
from benchmarks.peers.judge import QUALITIES
from benchmarks.peers.subject import Subject, load_subject
from benchmarks.peers.third_party import freeze
from compress.errors import InputError


@pytest.fixture
def wheels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(packages, "CACHE", tmp_path)
    folder = tmp_path / "wheels" / "some==1.0"
    folder.mkdir(parents=True)
    with zipfile.ZipFile(folder / "some-1.0-py3-none-any.whl", "w") as archive:
        archive.writestr("some/model.onnx", b"weights")
    return folder


def test_a_member_is_read_without_being_unpacked(wheels: Path):
    assert packages.member("some==1.0", "some/model.onnx") == b"weights"
    assert [path.name for path in wheels.iterdir()] == ["some-1.0-py3-none-any.whl"]


def test_a_member_that_is_not_there_is_one_line(wheels: Path):
    with pytest.raises(InputError, match=r"some-1\.0-py3-none-any\.whl: holds no \.\./x; pin"):
        packages.member("some==1.0", "../x")


def test_an_input_becomes_a_constant():
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [2]) for name in "abc"]
    node = helper.make_node("Add", ["a", "b"], ["c"])
    graph = helper.make_graph([node], "sum", values[:2], values[2:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    freeze(model, {"b": np.array([1, 2], np.float32)})
    assert [value.name for value in model.graph.input] == ["a"]
    onnx.checker.check_model(model)
    session = ort.InferenceSession(model.SerializeToString())
    (found,) = session.run(None, {"a": np.ones(2, np.float32)})
    np.testing.assert_array_equal(found, [2, 3])


def test_qualities_by_hand():
    two = np.array([[0.9, 0.1], [0.2, 0.8]])
    assert QUALITIES["accuracy"][0](two, np.array([0, 0])) == 0.5
    assert QUALITIES["top-1 agreement with fp32"][0](two, two[::-1]) == 0.0
    assert QUALITIES["decision as fp32's"][0](two, np.ones((2, 2))) == 0.5
    assert QUALITIES["cosine with fp32"][0](two, 3 * two) == pytest.approx(1)
    pitch = np.eye(360)
    near = QUALITIES["pitch within 40 cents of fp32's"][0]
    assert near(pitch[[5, 9]], pitch[[7, 6]]) == 0.5
    bits = QUALITIES["bits per character"][0]
    assert bits(np.zeros((1, 3, 4)), np.zeros((1, 3), int)) == pytest.approx(2)


def test_a_subject_gives_back_what_was_stored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("benchmarks.peers.subject.CACHE", tmp_path)
    subject = Subject("it", "here", "made", "accuracy", chunk=2, batches=(1, 4))
    subject.folder.mkdir(parents=True)
    rows = {"z": np.arange(5), "a": np.arange(10).reshape(5, 2)}
    timed = {batch: {name: array[:batch] for name, array in rows.items()} for batch in (1, 4)}
    splits = ("train", "validation", "test")
    subject.store(dict.fromkeys(splits, rows), dict.fromkeys(splits, np.arange(5)), timed)
    assert load_subject(subject.folder) == subject
    assert [list(chunk) for chunk in subject.chunks("test")] == [["z", "a"]] * 2
    np.testing.assert_array_equal(subject.truth("test"), np.arange(5))
    first, second = subject.timed(4)  # in the order of the inputs, not of their names
    assert first.shape == (4,)
    assert second.shape == (4, 2)


def test_a_mel_is_slaneys():
    np.testing.assert_allclose(speech.mel([0, 500, 1000, 6400]), [0, 7.5, 15, 42])


def test_what_tools_say_is_stored_without_the_place_of_this_checkout():
    said = f"{packages.CACHE}/models/a/model.onnx: cannot be loaded"
    assert packages.without_place(said) == ".cache/peers/models/a/model.onnx: cannot be loaded"

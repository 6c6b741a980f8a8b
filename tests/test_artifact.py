"""Artifacts: written as a whole or not at all, checked when opened, rebuilt from source."""

from __future__ import annotations

import errno
import hashlib
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from compress.artifact import (
    CARD,
    ONNX,
    WEIGHTS,
    Card,
    digest,
    finish,
    load_artifact,
    wrap_onnx,
    write_text,
    writing,
    writing_file,
)
from compress.data.task import Task
from compress.errors import ArtifactError, OutputError
from compress.models.build import build, count_parameters
from compress.models.plan import make_plan
from compress.models.references import ModelSpec
from compress.pruning.config import PruneConfig
from compress.pruning.structured import prune


def save(folder: Path, text: str = "payload", parents: dict[str, str] | None = None) -> Path:
    with writing(folder) as scratch:
        (scratch / ONNX).write_text(text)
        finish(scratch, Card(kind="train", name="train", key="k", parents=parents or {}))
    return folder


def save_model(folder: Path, model: nn.Module, spec: ModelSpec | None = None) -> Path:
    with writing(folder) as scratch:
        finish(scratch, Card(kind="train", name="train", key="k", model=spec), model)
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    """Relative path to bytes of every file; of an empty folder that it is one."""
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else b"a folder"
        for path in folder.rglob("*")
        if path.is_file() or not any(path.iterdir())
    }


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "1-train").mkdir()  # empty: no obstacle
    return save(tmp_path / "1-train")


def test_a_card_names_every_file_by_its_sha256(folder: Path):
    card = load_artifact(folder).card
    assert card.files == {ONNX: hashlib.sha256(b"payload").hexdigest()}
    assert load_artifact(folder).onnx == folder / ONNX


def test_a_new_artifact_takes_the_place_of_the_old_one(folder: Path):
    save(folder, "another")
    assert contents(folder.parent).keys() == {"1-train/card.json", "1-train/model.onnx"}
    assert (folder / ONNX).read_text() == "another"


@pytest.mark.parametrize("error", [ValueError("a defect"), KeyboardInterrupt()])
def test_an_exception_leaves_the_old_folder_and_no_scratch(folder: Path, error: BaseException):
    def stop_halfway() -> None:
        with writing(folder) as scratch:
            (scratch / ONNX).write_text("half")
            raise error

    before = contents(folder.parent)
    with pytest.raises(type(error)):
        stop_halfway()
    assert contents(folder.parent) == before


def test_a_file_that_is_not_finished_leaves_the_old_one(tmp_path: Path):
    path = tmp_path / "report.json"

    def stop_halfway() -> None:
        with writing_file(path) as scratch:
            scratch.write_text("half")
            raise ValueError

    write_text(path, "old")
    with pytest.raises(ValueError):
        stop_halfway()
    assert contents(tmp_path) == {"report.json": b"old"}
    write_text(path, "new")
    assert contents(tmp_path) == {"report.json": b"new"}


@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_any_changed_byte_is_noticed(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject):
    folder = save(tmp_path_factory.mktemp("damaged") / "a", "payload of some length")
    raw = bytearray((folder / ONNX).read_bytes())
    place = data.draw(st.integers(0, len(raw) - 1))
    raw[place] ^= data.draw(st.integers(1, 255))
    (folder / ONNX).write_bytes(raw)
    with pytest.raises(ArtifactError) as caught:
        load_artifact(folder)
    assert str(caught.value) == (
        f"{folder / ONNX}: changed or damaged since it was written (SHA-256 differs from its card)."
        f" Delete {folder} and run the stage again."
    )


@pytest.mark.parametrize(
    ("gone", "message"),
    [
        (ONNX, f"{ONNX} is missing, though its card names it."),
        (CARD, f"no artifact here; expected a folder with a {CARD}."),
    ],
)
def test_a_missing_file_is_named(folder: Path, gone: str, message: str):
    (folder / gone).unlink()
    with pytest.raises(ArtifactError) as caught:
        load_artifact(folder)
    assert str(caught.value) == f"{folder}: {message}"


_FITS = b'"kind": "train", "name": "train", "key": "k"'


@pytest.mark.parametrize(
    ("raw", "what"),
    [
        (b'{"schema_version": 2, %b}' % _FITS, "schema_version: Input should be 1"),
        (b'{"colour": "red", %b}' % _FITS, "colour: Extra inputs are not permitted"),
        (b'{"seed": "x", %b}' % _FITS, "seed: Input should be a valid integer"),
        (b'{"kind": "train", "name": "train"}', "key: Field required"),
        *((raw, "the file: ") for raw in (b"", b"{", b"\xff\xfe", b"[]", b"null")),
    ],
)
def test_a_corrupt_or_another_version_s_card_is_one_line(folder: Path, raw: bytes, what: str):
    (folder / CARD).write_bytes(raw)
    with pytest.raises(ArtifactError) as caught:
        load_artifact(folder)
    message = str(caught.value)
    assert message.startswith(f"{folder / CARD}: not a card of this version: {what}")
    assert message.endswith(". Delete the folder and run the stage again.")
    assert "\n" not in message


def test_a_foreign_folder_is_refused_and_untouched(tmp_path: Path):
    foreign = tmp_path / "thesis"
    foreign.mkdir()
    (foreign / "chapter.txt").write_text("years of work")
    before = contents(tmp_path)
    with pytest.raises(OutputError) as caught, writing(foreign):
        pytest.fail("the block must not run")
    assert str(caught.value) == (
        f"{foreign}: is there already and is no artifact; name another folder, or remove it."
    )
    assert contents(tmp_path) == before


def test_a_folder_that_turns_foreign_meanwhile_is_untouched(tmp_path: Path):
    def write_beside_another() -> None:
        with writing(tmp_path / "a") as scratch:
            (scratch / ONNX).write_text("x")
            (tmp_path / "a").mkdir()
            (tmp_path / "a" / "mine.txt").write_text("mine")

    with pytest.raises(OutputError, match="is no artifact"):
        write_beside_another()
    assert contents(tmp_path) == {"a/mine.txt": b"mine"}


def test_a_file_in_the_way_is_refused(tmp_path: Path):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(OutputError, match="is there already and is no artifact"):
        save(tmp_path / "file")
    with pytest.raises(OutputError) as caught:
        save(tmp_path / "file" / "below")
    place = tmp_path / "file" / "below"
    assert str(caught.value) == f"{place}: cannot be written: Not a directory."
    assert contents(tmp_path) == {"file": b"mine"}


def test_a_read_only_place_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def refuse(self: Path, *args: object, **kwargs: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", str(self))

    monkeypatch.setattr(Path, "mkdir", refuse)
    with pytest.raises(OutputError) as caught:
        save(tmp_path / "a")
    assert str(caught.value) == f"{tmp_path / 'a'}: cannot be written: Permission denied."
    with pytest.raises(OutputError) as caught:
        write_text(tmp_path / "b" / "report.json", "{}")
    place = tmp_path / "b" / "report.json"
    assert str(caught.value) == f"{place}: cannot be written: Permission denied."


def test_a_full_disk_leaves_the_old_artifact(folder: Path, monkeypatch: pytest.MonkeyPatch):
    before = contents(folder.parent)

    def full(self: Path, *args: object, **kwargs: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_text", full)
        with pytest.raises(OutputError) as caught:
            save(folder, "new")
        assert str(caught.value) == f"{folder}: cannot be written: No space left on device."
    assert contents(folder.parent) == before


def test_a_disk_that_is_full_for_the_weights(folder: Path, monkeypatch: pytest.MonkeyPatch):
    def full(*args: object) -> None:
        raise safetensors.SafetensorError("I/O error: No space left on device")

    monkeypatch.setattr(safetensors.torch, "save_file", full)
    with pytest.raises(OutputError, match=r"cannot be written: .*No space left on device\."):
        save_model(folder, nn.Linear(2, 2))
    assert load_artifact(folder).card.key == "k"


@given(st.dictionaries(st.text(max_size=4), st.integers() | st.lists(st.booleans(), max_size=3)))
@settings(max_examples=50, deadline=None)
def test_a_digest_does_not_depend_on_the_order_of_keys(value: dict[str, object]):
    assert digest(value) == digest(dict(reversed(value.items())))
    assert digest(value) != digest({**value, "another key": 1})
    assert digest({"a": 1}) == hashlib.sha256(b'{"a": 1}').hexdigest()


def test_a_bare_onnx_file_becomes_an_artifact(tmp_path: Path):
    path = tmp_path / "net.onnx"
    path.write_bytes(b"onnx")
    artifact = wrap_onnx(path)
    assert (artifact.onnx, artifact.card.kind, artifact.card.name) == (path, "file", "net")
    assert artifact.card.key == hashlib.sha256(b"onnx").hexdigest()
    with pytest.raises(ArtifactError) as caught:
        wrap_onnx(tmp_path / "no.onnx")
    assert str(caught.value) == f"{tmp_path / 'no.onnx'}: no such file; expected an ONNX model."


def test_an_artifact_without_what_is_asked_for_says_so(tmp_path: Path):
    artifact = load_artifact(save(tmp_path / "a", parents={"from": "abc"}))
    with pytest.raises(ArtifactError) as caught:
        artifact.load_model()
    assert str(caught.value) == (
        f"{tmp_path / 'a'}: holds an ONNX file and no torch weights; use the from it was made from."
    )
    save_model(tmp_path / "b", nn.Linear(2, 2))
    with pytest.raises(ArtifactError, match=r"has no model\.onnx; make one with `compress export`"):
        _ = load_artifact(tmp_path / "b").onnx


def test_weights_that_do_not_fit_the_card_are_one_line(tmp_path: Path, tiny_spec: ModelSpec):
    artifact = load_artifact(save_model(tmp_path / "a", nn.Linear(2, 2), tiny_spec))
    with pytest.raises(ArtifactError) as caught:
        artifact.load_model()
    assert re.fullmatch(f"{tmp_path / 'a' / WEIGHTS}: does not fit its card: .+", str(caught.value))


_ELSEWHERE = """
import sys, numpy, torch
from pathlib import Path
from compress.artifact import load_artifact
model = load_artifact(Path(sys.argv[1])).load_model()
with torch.inference_mode():
    numpy.save(sys.argv[3], model(torch.from_numpy(numpy.load(sys.argv[2]))).numpy())
"""


def test_a_pruned_model_answers_bit_identically_in_a_new_process(
    tmp_path: Path, trained: nn.Module, tiny_spec: ModelSpec, tiny_task: Task
):
    config = PruneConfig(ratio=0.4, round_to=4, importance="magnitude", strides={"stem": 2})
    pruned, _ = prune(trained, tiny_task, config)
    spec = tiny_spec.model_copy(update={"plan": make_plan(pruned, build(tiny_spec))})
    save_model(tmp_path / "2-prune", pruned, spec)
    inputs = tiny_task.test.inputs
    np.save(tmp_path / "inputs.npy", inputs.numpy())
    arguments = [tmp_path / name for name in ("2-prune", "inputs.npy", "outputs.npy")]
    subprocess.run([sys.executable, "-c", _ELSEWHERE, *arguments], check=True)
    with torch.inference_mode():
        expected = pruned(inputs).numpy()
    np.testing.assert_array_equal(np.load(tmp_path / "outputs.npy"), expected)
    assert count_parameters(pruned) < count_parameters(trained)

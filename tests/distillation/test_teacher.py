"""The teacher answers exactly the images that the student sees, once."""

from __future__ import annotations

import dataclasses
import errno

import pytest
import tiny
import torch
from torch import Generator

from compress.distillation import teacher
from compress.distillation.teacher import (
    AskedBatches,
    TaughtBatches,
    Views,
    taught_batches,
    teacher_logits,
)
from compress.errors import InputError, OutputError, ShapeMismatch
from compress.runtime.onnxruntime import Session


@pytest.fixture
def views(tiny_task) -> Views:
    return Views(tiny_task, count=3, seed=2)


def refuse(*_, **__):
    raise AssertionError("the teacher was asked again")


def test_first_view_is_the_plain_data(tiny_task):
    plain = tiny_task.train.inputs
    assert Views(tiny_task, 4, mixup=0.4).inputs(0)[0] is plain
    assert Views(tiny_task, 4, augment=False).inputs(3)[0] is plain
    assert Views(dataclasses.replace(tiny_task, augment=None), 4).inputs(3)[0] is plain


def test_views_repeat_and_differ(tiny_task, views):
    one, again, other = (views.inputs(view)[0] for view in (1, 1, 2))
    assert torch.equal(one, again)
    assert not torch.equal(one, other)
    assert not torch.equal(one, Views(tiny_task, 3, seed=3).inputs(1)[0])
    assert one.shape == tiny_task.train.inputs.shape


def test_chunks_cover_every_image(tiny_task, views, monkeypatch):
    monkeypatch.setattr(teacher, "_CHUNK", 50)
    moved = (views.inputs(1)[0] - tiny_task.train.inputs).abs().amax(dim=(1, 2, 3))
    assert moved.shape == (120,)
    assert (moved > 0).all()


def test_mixed_images_are_mostly_themselves(tiny_task):
    # Image number i is 1 at pixel i, so a view tells how much of which image it holds.
    train = dataclasses.replace(tiny_task.train, inputs=torch.eye(120).reshape(120, 1, 10, 12))
    task = dataclasses.replace(tiny_task, train=train)
    shares = Views(task, 2, seed=2, augment=False, mixup=0.4).inputs(1)[0].reshape(120, 120)
    torch.testing.assert_close(shares.sum(1), torch.ones(120))
    own = shares.diagonal()
    assert own.min().item() >= 0.6
    assert own.min().item() < 0.7
    assert ((shares > 0).sum(1) <= 2).all()
    assert 40 <= (own < 1).sum().item() <= 80  # every other one
    assert shares.sum(0).max().item() <= 1.4 + 1e-6  # each is given to one other


def test_answers_are_the_teachers_to_these_very_images(views, trained, trained_onnx):
    logits = teacher_logits(trained_onnx, views)
    assert logits.shape == (3, 120, 4)
    assert logits.dtype == torch.float32
    session = Session(trained_onnx)
    for view in range(3):
        (inputs,) = views.inputs(view)
        assert torch.equal(logits[view], torch.from_numpy(session.run(inputs.numpy())))
        with torch.inference_mode():
            torch.testing.assert_close(logits[view], trained(inputs), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("memory", [1 << 30, 0])
def test_batches_pair_images_and_answers(memory, tiny_task, trained_onnx, monkeypatch):
    monkeypatch.setattr(teacher, "MEMORY", memory)
    views = Views(tiny_task, 2, seed=2, mixup=0.3)
    batches = TaughtBatches(views, teacher_logits(trained_onnx, views), batch_size=50)
    assert batches.steps == 2
    session, seen = Session(trained_onnx), {}
    for epoch in range(4):
        parts = list(batches.epoch(epoch, Generator().manual_seed(epoch)))
        assert [len(part.targets) for part in parts] == [50, 50]
        for part in parts:
            answers = torch.from_numpy(session.run(part.inputs[0].numpy()))
            torch.testing.assert_close(part.teacher_logits, answers, atol=1e-5, rtol=1e-5)
        seen[epoch] = torch.cat([part.inputs[0] for part in parts])
    order = torch.randperm(120, generator=Generator().manual_seed(2))[:100]
    assert torch.equal(seen[2], tiny_task.train.inputs[order])  # view 2 mod 2 = 0
    order = torch.randperm(120, generator=Generator().manual_seed(3))[:100]
    assert torch.equal(seen[3], views.inputs(1)[0][order])
    assert bool(batches._kept) is (memory > 0)


def test_labels_go_with_their_images(tiny_task, trained_onnx):
    views = Views(tiny_task, 1)
    logits = teacher_logits(trained_onnx, views)
    (batch,) = TaughtBatches(views, logits, 120).epoch(0, Generator().manual_seed(5))
    order = torch.randperm(120, generator=Generator().manual_seed(5))
    assert torch.equal(batch.targets, tiny_task.train.targets[order])
    assert torch.equal(batch.teacher_logits, logits[0][order])


def test_cached_answers_are_used(views, trained_onnx, tmp_path, monkeypatch):
    cache, calls = tmp_path / "cache", []

    def progress(*call: object) -> None:
        calls.append(call)

    first = teacher_logits(trained_onnx, views, cache=cache, progress=progress)
    assert calls == [("teacher's answers", view, 3) for view in (1, 2, 3)]
    assert [path.suffix for path in cache.iterdir()] == [".safetensors"]
    monkeypatch.setattr(teacher, "Session", refuse)
    assert torch.equal(first, teacher_logits(trained_onnx, views, cache=cache))


@pytest.mark.parametrize(
    "change", [{"seed": 3}, {"augment": False}, {"count": 2}, {"mixup": 0.2}], ids=str
)
def test_other_views_do_not_use_the_cache(change, views, trained_onnx, tmp_path, monkeypatch):
    teacher_logits(trained_onnx, views, cache=tmp_path)
    monkeypatch.setattr(teacher, "Session", refuse)
    with pytest.raises(AssertionError, match="asked again"):
        teacher_logits(trained_onnx, dataclasses.replace(views, **change), cache=tmp_path)


def test_another_teacher_does_not_use_the_cache(views, trained_onnx, tmp_path, monkeypatch):
    teacher_logits(trained_onnx, views, cache=tmp_path / "cache")
    other = tmp_path / "other.onnx"
    other.write_bytes(trained_onnx.read_bytes() + b"\0")
    monkeypatch.setattr(teacher, "Session", refuse)
    with pytest.raises(AssertionError, match="asked again"):
        teacher_logits(other, views, cache=tmp_path / "cache")


@pytest.mark.parametrize("damage", [lambda data: data[: len(data) // 2], lambda _: b"rubbish"])
def test_damaged_cache_is_made_anew(damage, views, trained_onnx, tmp_path, monkeypatch):
    expected = teacher_logits(trained_onnx, views, cache=tmp_path)
    (path,) = tmp_path.iterdir()
    path.write_bytes(damage(path.read_bytes()))
    assert torch.equal(teacher_logits(trained_onnx, views, cache=tmp_path), expected)
    monkeypatch.setattr(teacher, "Session", refuse)
    assert torch.equal(teacher_logits(trained_onnx, views, cache=tmp_path), expected)


def test_full_disk_leaves_nothing_behind(views, trained_onnx, tmp_path, monkeypatch):
    def full(tensors, path):
        path.write_bytes(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(teacher, "save_file", full)
    with pytest.raises(OutputError, match=r"answers cannot be cached: .*No space left on device"):
        teacher_logits(trained_onnx, views, cache=tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_teacher_of_other_classes(tiny_task, trained_onnx, tmp_path):
    task = dataclasses.replace(tiny_task, classes=("a", "b", "c", "d", "e"))
    with pytest.raises(ShapeMismatch) as caught:
        taught_batches(trained_onnx, Views(task, 1), 10, cache=tmp_path)
    assert str(caught.value) == (
        f"{trained_onnx}: the teacher answers with shape (2, 4); task 'tiny:task' with 5 "
        "classes expects (2, 5)."
    )
    assert list(tmp_path.iterdir()) == []


def test_fresh_answers_are_the_teachers_to_what_is_shown(tiny_task, trained_onnx):
    batches = taught_batches(trained_onnx, Views(tiny_task, 0), 40)
    assert isinstance(batches, AskedBatches)
    assert batches.steps == 3
    session, seen = Session(trained_onnx), []
    for epoch in (0, 1):
        for batch in batches.epoch(epoch, Generator().manual_seed(epoch)):
            answers = torch.from_numpy(session.run(batch.inputs[0].numpy()))
            torch.testing.assert_close(batch.teacher_logits, answers, atol=1e-5, rtol=1e-5)
            seen.append(batch.inputs[0])
    assert not torch.equal(seen[0], seen[3])


def test_answers_that_do_not_fit_into_memory_are_asked_for(tiny_task, trained_onnx, monkeypatch):
    monkeypatch.setattr(teacher, "MEMORY", 3 * 120 * 4 * 4)
    assert isinstance(taught_batches(trained_onnx, Views(tiny_task, 3), 40), TaughtBatches)
    assert isinstance(taught_batches(trained_onnx, Views(tiny_task, 4), 40), AskedBatches)
    with pytest.raises(InputError, match="mixup: needs kept copies"):
        taught_batches(trained_onnx, Views(tiny_task, 4, mixup=0.3), 40)


def test_copies_without_any_change_are_answered_once(tiny_task, trained_onnx):
    task = dataclasses.replace(tiny_task, augment=None)
    assert len(teacher_logits(trained_onnx, Views(task, 16))) == 1
    assert len(teacher_logits(trained_onnx, Views(task, 2, mixup=0.2))) == 2


def test_tokens_and_sequences_cannot_be_mixed(tiny_task):
    tokens = dataclasses.replace(tiny_task.train, inputs=torch.ones(120, 5, dtype=torch.int64))
    with pytest.raises(InputError, match="mixup: samples of task 'tiny:task' are sequences"):
        Views(dataclasses.replace(tiny_task, train=tokens), 2, mixup=0.2)


def test_copies_of_sequences_keep_their_lengths_and_their_labels():
    task = tiny.sequences()
    inputs, lengths = Views(task, 3, seed=1).inputs(2)
    assert len(inputs) == len(lengths) == len(task.train)
    assert inputs.shape[1] == int(lengths.max())
    assert not inputs[torch.arange(inputs.shape[1]) >= lengths.unsqueeze(1)].any()
    again = Views(task, 3, seed=1).inputs(2)
    assert torch.equal(again[0], inputs)

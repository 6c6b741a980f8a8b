"""A run that was stopped goes on to the same bits; a state that does not fit counts as none."""

from __future__ import annotations

import errno
import json
import math

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from tiny import label_loss
from torch import nn

from compress.errors import OutputError, TrainingDiverged
from compress.models.build import build
from compress.models.references import resolve
from compress.training import checkpoint as checkpoint_file
from compress.training import loop
from compress.training.batches import LabelledBatches
from compress.training.checkpoint import Checkpoint
from compress.training.config import FitConfig
from compress.training.loop import fit
from compress.training.optimizers import make_optimizer, make_schedule
from compress.training.precision import Mode

STATE = "state.safetensors"
RUNS = {
    "sgd": {"schedule": "one_cycle"},
    "adamw": {"schedule": "cosine"},
    "adam": {"schedule": "constant"},
    "rmsprop": {"schedule": "one_cycle"},
}


@pytest.fixture(autouse=True)
def _every_epoch(monkeypatch):
    """A state behind every epoch, and no timed probing."""
    monkeypatch.setattr(loop, "CHECKPOINT_EVERY", -1.0)
    monkeypatch.setattr(loop, "choose_mode", lambda *_: (Mode(), {}))


def config(optimizer: str = "sgd", **settings) -> FitConfig:
    rate = {"sgd": 0.05, "rmsprop": 1e-3}.get(optimizer, 5e-3)
    defaults = {"epochs": 4, "batch_size": 60, "learning_rate": rate, **RUNS[optimizer]}
    return FitConfig(optimizer=optimizer, **{**defaults, **settings})


def train(task, settings, *, checkpoint=None, loss=label_loss, stop_at=None, validate=None):
    """A model with dropout on augmented batches: every source of randomness takes part."""
    torch.manual_seed(0)
    net = build(resolve("cnn-tiny", {"dropout": 0.3, "widths": [4, 8, 8, 8]}, task.facts))
    batches = LabelledBatches(task.train, settings.batch_size, task.augment)

    def progress(_: str, done: int, total: int) -> None:
        if done == stop_at:
            raise KeyboardInterrupt

    more = {"checkpoint": checkpoint, "progress": progress, "validate": validate}
    return net, fit(net, batches, loss, settings, seed=3, **more)


def interrupt(task, settings, checkpoint, stop_at: int, validate=None) -> None:
    with pytest.raises(KeyboardInterrupt):
        train(task, settings, checkpoint=checkpoint, stop_at=stop_at, validate=validate)
    assert (checkpoint.folder / STATE).is_file()


def same(one: nn.Module, other: nn.Module) -> bool:
    states = one.state_dict(), other.state_dict()
    return all(torch.equal(states[0][name], states[1][name]) for name in states[0])


@pytest.mark.parametrize("optimizer", RUNS)
def test_resumed_run_is_bit_identical(optimizer, tiny_task, tmp_path):
    settings, checkpoint = config(optimizer), Checkpoint(tmp_path / "state", "key")
    unbroken, done = train(tiny_task, settings)
    interrupt(tiny_task, settings, checkpoint, stop_at=6)  # in the third of four epochs
    steps = []
    resumed, again = train(
        tiny_task,
        settings,
        checkpoint=checkpoint,
        loss=lambda outputs, batch: steps.append(1) or label_loss(outputs, batch),
    )
    assert len(steps) == 4
    assert same(resumed, unbroken)
    assert again.losses == done.losses
    assert (again.epochs, again.steps) == (4, 8)


def test_resumed_without_momentum(tiny_task, tmp_path):
    settings, checkpoint = config(momentum=0.0), Checkpoint(tmp_path, "key")
    interrupt(tiny_task, settings, checkpoint, stop_at=3)
    resumed, _ = train(tiny_task, settings, checkpoint=checkpoint)
    assert same(resumed, train(tiny_task, settings)[0])


def test_resumed_run_remembers_early_stopping(tiny_task, tmp_path):
    settings, checkpoint = config(epochs=6, patience=3), Checkpoint(tmp_path, "key")
    figures = [0.1, 0.8, 0.5, 0.6, 0.7, 0.9]

    def scripted(start: int):
        rest = iter(figures[start:])
        return lambda _: next(rest)

    unbroken, done = train(tiny_task, settings, validate=scripted(0))
    assert (done.epochs, done.best_epoch) == (5, 2)
    interrupt(tiny_task, settings, checkpoint, stop_at=8, validate=scripted(0))
    resumed, again = train(tiny_task, settings, checkpoint=checkpoint, validate=scripted(3))
    assert (again.epochs, again.best_epoch) == (5, 2)
    assert same(resumed, unbroken)


def test_state_of_other_work_is_ignored(tiny_task, tmp_path):
    interrupt(tiny_task, config(), Checkpoint(tmp_path, "one"), stop_at=6)
    fresh, done = train(tiny_task, config(), checkpoint=Checkpoint(tmp_path, "other"))
    assert same(fresh, train(tiny_task, config())[0])
    assert len(done.losses) == 4
    assert Checkpoint(tmp_path, "one").load(*parts(tiny_task))[0] == 0  # replaced since


def parts(task):
    net = build(resolve("cnn-tiny", {"dropout": 0.3, "widths": [4, 8, 8, 8]}, task.facts))
    optimizer = make_optimizer(net, config())
    return net, optimizer, make_schedule(optimizer, config(), 8)


def cut(data: bytes) -> bytes:
    return data[: len(data) // 2]


def scramble_header(data: bytes) -> bytes:
    return data[:8] + b"x" * 40 + data[48:]


@pytest.mark.parametrize("damage", [cut, scramble_header, lambda _: b"", lambda _: b"no state"])
def test_damaged_state_is_ignored(damage, tiny_task, tmp_path):
    checkpoint = Checkpoint(tmp_path, "key")
    interrupt(tiny_task, config(), checkpoint, stop_at=6)
    state = tmp_path / STATE
    state.write_bytes(damage(state.read_bytes()))
    net, optimizer, schedule = parts(tiny_task)
    before = {name: value.clone() for name, value in net.state_dict().items()}
    assert checkpoint.load(net, optimizer, schedule) == (0, {}, {})
    assert all(torch.equal(before[name], value) for name, value in net.state_dict().items())
    resumed, _ = train(tiny_task, config(), checkpoint=checkpoint)
    assert same(resumed, train(tiny_task, config())[0])


def test_foreign_tensors_are_ignored(tiny_task, tmp_path):
    checkpoint = Checkpoint(tmp_path, "key")
    assert checkpoint.load(*parts(tiny_task)) == (0, {}, {})
    for facts in (None, {"facts": "{"}, {"facts": json.dumps({"epoch": 3})}):
        save_file({"model.x": torch.zeros(2)}, tmp_path / STATE, facts)
        assert checkpoint.load(*parts(tiny_task)) == (0, {}, {})


def test_state_is_one_file_that_names_its_work(tiny_task, tmp_path):
    interrupt(tiny_task, config(), Checkpoint(tmp_path, "a key"), stop_at=6)
    assert [path.name for path in tmp_path.iterdir()] == [STATE]
    with safe_open(tmp_path / STATE, framework="pt") as file:
        facts = json.loads(file.metadata()["facts"])
    assert (facts["key"], facts["epoch"]) == ("a key", 1)


def test_round_trip_restores_weights_moments_and_rate(tiny_task, tmp_path):
    net, optimizer, schedule = parts(tiny_task)
    for _ in range(3):
        label_loss(
            net(tiny_task.train.inputs[:8]), tiny_task.train.subset(torch.arange(8))
        ).backward()
        optimizer.step()
        schedule.step()
    best = {name: value + 1 for name, value in net.state_dict().items()}
    Checkpoint(tmp_path, "key").save(4, net, optimizer, schedule, {"losses": [0.5]}, best)
    other, fresh, later = parts(tiny_task)
    epoch, extra, kept = Checkpoint(tmp_path, "key").load(other, fresh, later)
    assert (epoch, extra) == (5, {"losses": [0.5]})
    assert same(net, other)
    assert all(torch.equal(best[name], value) for name, value in kept.items())
    assert fresh.param_groups[0]["lr"] == optimizer.param_groups[0]["lr"] != 0.05
    assert later.last_epoch == 3
    moments = optimizer.state_dict()["state"], fresh.state_dict()["state"]
    assert moments[0].keys() == moments[1].keys() != set()
    for index, state in moments[0].items():
        assert torch.equal(state["momentum_buffer"], moments[1][index]["momentum_buffer"])


def test_divergence_leaves_the_state(tiny_task, tmp_path):
    count, checkpoint = iter(range(100)), Checkpoint(tmp_path, "key")

    def loss(outputs, batch):
        return label_loss(outputs, batch) + (math.nan if next(count) == 5 else 0.0)

    with pytest.raises(TrainingDiverged, match=r"the loss became nan at epoch 3, step 2 "):
        train(tiny_task, config(), checkpoint=checkpoint, loss=loss)
    assert checkpoint.load(*parts(tiny_task))[0] == 2
    resumed, _ = train(tiny_task, config(), checkpoint=checkpoint)
    assert same(resumed, train(tiny_task, config())[0])


def test_states_are_written_no_more_often_than_said(tiny_task, tmp_path, monkeypatch):
    monkeypatch.setattr(loop, "CHECKPOINT_EVERY", 3600.0)
    train(tiny_task, config(), checkpoint=Checkpoint(tmp_path / "state", "key"))
    assert not (tmp_path / "state").exists()


def test_full_disk_keeps_the_state_before(tiny_task, tmp_path, monkeypatch):
    Checkpoint(tmp_path, "key").save(0, *parts(tiny_task), {})

    def full(tensors, path, facts):
        path.write_bytes(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(checkpoint_file, "save_file", full)
    with pytest.raises(OutputError, match=r"checkpoint cannot be written: .*No space left"):
        Checkpoint(tmp_path, "key").save(1, *parts(tiny_task), {})
    assert [path.name for path in tmp_path.iterdir()] == [STATE]
    assert Checkpoint(tmp_path, "key").load(*parts(tiny_task))[0] == 1


def test_removed_state_is_gone(tiny_task, tmp_path):
    checkpoint = Checkpoint(tmp_path / "state", "key")
    checkpoint.save(0, *parts(tiny_task), {})
    checkpoint.remove()
    checkpoint.remove()
    assert not checkpoint.folder.exists()


@pytest.mark.parametrize("mode", [Mode(channels_last=True), Mode(bf16=True)])
def test_resumed_run_keeps_its_precision_and_layout(mode, tiny_task, tmp_path, monkeypatch):
    settings, checkpoint = config(), Checkpoint(tmp_path, "key")
    with monkeypatch.context() as patch:
        patch.setattr(loop, "choose_mode", lambda *_: (mode, {}))
        unbroken, _ = train(tiny_task, settings)
        interrupt(tiny_task, settings, checkpoint, stop_at=6)
    resumed, done = train(tiny_task, settings, checkpoint=checkpoint)
    assert done.mode == mode.name
    assert same(resumed, unbroken)


def test_place_that_cannot_be_written(tiny_task, tmp_path):
    (tmp_path / "state").write_text("in the way")
    with pytest.raises(OutputError, match=r"state: checkpoint cannot be written: .*exists"):
        Checkpoint(tmp_path / "state", "key").save(0, *parts(tiny_task), {})

"""The loop against a plain one, its repeatability, what stops it, and what comes back."""

from __future__ import annotations

import copy
import math

import pytest
import torch
import torch.nn.functional as F
from tiny import label_loss, model
from torch import Generator, nn

from compress.errors import TrainingDiverged
from compress.training import loop
from compress.training.batches import LabelledBatches
from compress.training.config import FitConfig
from compress.training.loop import Fit, epoch_seed, fit
from compress.training.precision import Mode


@pytest.fixture(autouse=True)
def _plain_mode(monkeypatch):
    """No timed probing: it would choose by chance on a busy machine."""
    monkeypatch.setattr(loop, "choose_mode", lambda *_: (Mode(), {}))


def fresh(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return model(width=4)


def config(**settings) -> FitConfig:
    defaults = {"epochs": 2, "batch_size": 40, "learning_rate": 0.05}
    return FitConfig(**{**defaults, **settings})


def train(task, settings: FitConfig, *, seed: int = 0, loss=label_loss, **more):
    net = fresh()
    batches = LabelledBatches(task.train, settings.batch_size, task.augment)
    return net, fit(net, batches, loss, settings, seed=seed, **more)


def weights(net: nn.Module) -> torch.Tensor:
    return torch.cat([value.double().flatten() for value in net.state_dict().values()])


def test_loop_is_the_plain_loop(tiny_task):
    settings = config(epochs=2, batch_size=32, schedule="constant", warmup=0.0, momentum=0.0)
    net = fresh()
    done = fit(net, LabelledBatches(tiny_task.train, 32), label_loss, settings, seed=5)
    plain, losses = fresh().train(), []
    for epoch in range(2):
        order = torch.randperm(120, generator=Generator().manual_seed(epoch_seed(5, epoch)))
        total = 0.0
        for step in range(120 // 32):
            rows = order[32 * step : 32 * step + 32]
            value = F.cross_entropy(
                plain(tiny_task.train.inputs[rows]), tiny_task.train.targets[rows]
            )
            plain.zero_grad()
            value.backward()
            total += value.item()
            with torch.no_grad():
                for weight in plain.parameters():
                    decay = 5e-4 * weight if weight.dim() > 1 else 0.0
                    weight.sub_(0.05 * (weight.grad + decay))
        losses.append(total / 3)
    torch.testing.assert_close(weights(net), weights(plain), atol=1e-6, rtol=1e-5)
    assert done.losses == pytest.approx(losses, rel=1e-5)
    assert (done.epochs, done.steps, done.best_epoch) == (2, 6, 2)
    assert not net.training


def test_training_learns(tiny_task):
    net, done = train(tiny_task, config(epochs=12, batch_size=24, learning_rate=0.3))
    assert done.losses[-1] < 0.5 * done.losses[0]
    hits = net(tiny_task.test.inputs).argmax(1) == tiny_task.test.targets
    assert hits.float().mean().item() > 0.8


def test_the_seed_decides_every_bit(tiny_task):
    one, again, other = (train(tiny_task, config(), seed=seed)[0] for seed in (1, 1, 2))
    assert torch.equal(weights(one), weights(again))
    assert not torch.equal(weights(one), weights(other))


def test_epoch_seeds_do_not_repeat():
    seeds = {epoch_seed(seed, epoch) for seed in range(20) for epoch in range(500)}
    assert len(seeds) == 20 * 500


def test_batches_leave_the_incomplete_one_out(tiny_task):
    batches = LabelledBatches(tiny_task.train, 50)
    sizes = [len(batch.targets) for batch in batches.epoch(0, Generator().manual_seed(0))]
    assert sizes == [50, 50]
    assert batches.steps == 2
    small = LabelledBatches(tiny_task.train, 500)
    assert [len(batch.targets) for batch in small.epoch(0, Generator())] == [120]


def test_batches_pair_each_image_with_its_label(tiny_task):
    batches = LabelledBatches(tiny_task.train, 40)
    seen = []
    for batch in batches.epoch(0, Generator().manual_seed(3)):
        for image, target in zip(batch.inputs[0], batch.targets, strict=True):
            (row,) = (tiny_task.train.inputs == image).all(dim=(1, 2, 3)).nonzero().flatten()
            assert tiny_task.train.targets[row] == target
            seen.append(row.item())
    assert sorted(seen) == list(range(120))


def test_progress_counts_every_step(tiny_task):
    calls = []
    train(tiny_task, config(), progress=lambda *call: calls.append(call), label="recovery")
    assert calls == [("recovery", step, 6) for step in range(1, 7)]


def test_not_a_number_names_the_place(tiny_task):
    count = iter(range(100))

    def loss(outputs, batch):
        return label_loss(outputs, batch) * (math.inf if next(count) == 4 else 1.0)

    with pytest.raises(TrainingDiverged) as caught:
        train(tiny_task, config(schedule="constant", warmup=0.0), loss=loss)
    assert str(caught.value) == (
        "the loss became inf at epoch 2, step 2 (learning rate 0.05, gradient norm nan). "
        "Lower learning_rate, set clip_norm, or look for bad values in the data."
    )


def test_learning_rate_far_too_high_is_found_out(tiny_task):
    settings = config(epochs=5, learning_rate=1e30, schedule="constant", momentum=0.0)
    with pytest.raises(
        TrainingDiverged, match=r"epoch \d, step \d \(learning rate .*e\+(29|30), g"
    ):
        train(tiny_task, settings)


def test_early_stopping_restores_the_best_weights(tiny_task):
    figures, seen = iter([0.3, 0.7, 0.7, 0.6, 0.9]), []

    def validate(net):
        seen.append(weights(net))
        return next(figures)

    net, done = train(tiny_task, config(epochs=9, patience=2), validate=validate)
    assert len(seen) == done.epochs == 4
    assert done.best_epoch == 2
    assert torch.equal(weights(net), seen[1])
    assert not torch.equal(weights(net), seen[3])


def test_without_patience_the_last_weights_stay(tiny_task):
    figures = iter([0.9, 0.1, 0.1])
    net, done = train(tiny_task, config(), validate=lambda _: next(figures))
    assert (done.epochs, done.best_epoch) == (2, 2)
    assert torch.equal(weights(net), weights(train(tiny_task, config())[0]))


def test_clipping_bounds_the_step(tiny_task):
    settings = {"epochs": 1, "batch_size": 120, "schedule": "constant", "warmup": 0.0}
    settings |= {"momentum": 0.0, "weight_decay": 0.0, "learning_rate": 1.0}
    start = dict(fresh().named_parameters())

    def moved(clip_norm: float) -> float:
        net, _ = train(tiny_task, config(**settings, clip_norm=clip_norm))
        parts = [(value - start[name]).flatten() for name, value in net.named_parameters()]
        return torch.cat(parts).norm().item()

    free = moved(0.0)
    assert free > 0.2
    assert moved(0.1) == pytest.approx(0.1, rel=1e-3)
    assert moved(10 * free) == pytest.approx(free, rel=1e-5)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_weights_stay_fp32_and_contiguous(precision, tiny_task, monkeypatch):
    mode = Mode(bf16=precision == "bf16", channels_last=True)
    monkeypatch.setattr(loop, "choose_mode", lambda *_: (mode, {mode.name: 2.0}))
    net, done = train(tiny_task, config())
    assert done.mode == f"{precision}, channels last"
    for value in net.parameters():
        assert value.dtype == torch.float32
        assert value.is_contiguous()
    reference = weights(train_plainly(tiny_task, monkeypatch))
    difference = (weights(net) - reference).abs().max().item()
    assert difference < (1e-4 if precision == "fp32" else 0.2)
    assert (difference > 1e-6) or precision == "fp32"


def train_plainly(task, monkeypatch) -> nn.Module:
    monkeypatch.setattr(loop, "choose_mode", lambda *_: (Mode(), {}))
    return train(task, config())[0]


def test_model_comes_back_in_evaluation_mode_with_running_statistics(tiny_task):
    net, _ = train(tiny_task, config())
    before = copy.deepcopy(net.state_dict())
    net(tiny_task.test.inputs)
    assert all(torch.equal(before[name], value) for name, value in net.state_dict().items())
    assert net[1].num_batches_tracked.item() == 6


def test_evidence_is_plain():
    done = Fit(2, 6, "fp32", {"fp32": 1.0}, 123.6, [0.1234567, 0.1], 1)
    assert done.evidence() == {
        "epochs": 2,
        "steps": 6,
        "precision": "fp32",
        "precision_speeds": {"fp32": 1.0},
        "samples_per_second": 124,
        "losses": [0.12346, 0.1],
        "best_epoch": 1,
    }

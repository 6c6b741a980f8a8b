"""Which precision and layout is chosen, on a clock that the test winds; and what probing leaves."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from tiny import label_loss, model
from torch import nn

from compress.training import precision
from compress.training.batches import Batch
from compress.training.precision import Mode, choose_mode

PLAIN, LAST = Mode(), Mode(channels_last=True)
BF16, BF16_LAST = Mode(bf16=True), Mode(bf16=True, channels_last=True)


@pytest.fixture
def batch(tiny_task) -> Batch:
    return Batch((tiny_task.train.inputs[:16],), tiny_task.train.targets[:16])


@pytest.fixture
def clock(monkeypatch) -> dict[Mode, float]:
    """Seconds that a step of each mode takes; nothing is computed."""
    seconds: dict[Mode, float] = {}
    now = SimpleNamespace(value=0.0)

    def stepper(model, batch, loss, mode, device):
        def step() -> None:
            now.value += seconds[mode]

        return step

    monkeypatch.setattr(precision, "_stepper", stepper)
    monkeypatch.setattr(precision, "time", SimpleNamespace(perf_counter=lambda: now.value))
    return seconds


@pytest.mark.parametrize(
    ("times", "chosen"),
    [
        ((1.0, 0.9, 0.8, 0.78), PLAIN),  # nothing is 1.3 times faster
        ((1.0, 0.9, 0.5, 0.8), BF16),
        ((1.0, 0.7, 0.8, 0.75), LAST),
        ((1.0, 0.6, 0.5, 0.4), BF16_LAST),
        ((1.0, 2.0, 3.0, 4.0), PLAIN),
    ],
)
def test_auto_takes_the_fastest_that_is_worth_it(times, chosen, clock, batch):
    clock.update(zip((PLAIN, LAST, BF16, BF16_LAST), times, strict=True))
    mode, speeds = choose_mode(model(), batch, label_loss, "auto", "cpu")
    assert mode == chosen
    assert speeds == {
        "fp32": 1.0,
        "fp32, channels last": round(1 / times[1], 2),
        "bf16": round(1 / times[2], 2),
        "bf16, channels last": round(1 / times[3], 2),
    }


@pytest.mark.parametrize(("precision", "mode"), [("fp32", PLAIN), ("bf16", BF16)])
def test_a_named_precision_is_taken_untimed(precision, mode, clock, batch):
    # Nothing in the clock: any timed mode would be a KeyError.
    assert choose_mode(model(), batch, label_loss, precision, "cpu") == (mode, {})


def test_flat_inputs_have_one_layout(clock):
    flat = Batch((torch.zeros(4, 9),), torch.zeros(4, dtype=torch.int64))
    assert choose_mode(nn.Linear(9, 2), flat, label_loss, "fp32", "cpu") == (PLAIN, {})
    assert choose_mode(nn.Linear(9, 2), flat, label_loss, "bf16", "cpu") == (BF16, {})


def test_one_slow_step_does_not_choose(clock, batch, monkeypatch):
    clock.update({PLAIN: 1.0, LAST: 1.0})
    calls = iter(range(1000))
    times = SimpleNamespace(value=0.0)

    def jumpy() -> float:
        times.value += 50.0 if next(calls) == 5 else 1.0
        return times.value

    monkeypatch.setattr(precision, "time", SimpleNamespace(perf_counter=jumpy))
    assert choose_mode(model(), batch, label_loss, "fp32", "cpu")[0] == PLAIN


@pytest.mark.parametrize("training", [True, False])
def test_probing_leaves_model_and_randomness_alone(training, batch):
    torch.manual_seed(4)
    net = nn.Sequential(nn.Dropout(0.5), *model()).train(training)
    before = {name: value.clone() for name, value in net.state_dict().items()}
    state = torch.random.get_rng_state()
    mode, speeds = choose_mode(net, batch, label_loss, "auto", "cpu", rounds=1)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert all(torch.equal(before[name], value) for name, value in net.state_dict().items())
    assert all(weight.grad is None and weight.is_contiguous() for weight in net.parameters())
    assert net.training is training
    assert mode.name in speeds
    assert len(speeds) == 4
    assert all(speed > 0 for speed in speeds.values())


def test_modes_compute_what_they_say(batch):
    net = model().train()
    seen = []
    net[0].register_forward_hook(lambda _, inputs, output: seen.append((inputs[0], output)))
    for mode in (PLAIN, LAST, BF16, BF16_LAST):
        mode.convert(net, "cpu")
        with mode.autocast("cpu"):
            net(*mode.place((batch.inputs[0].expand(16, 1, 12, 12),), "cpu"))
        output = seen[-1][1]
        assert output.dtype == (torch.bfloat16 if mode.bf16 else torch.float32)
        assert net[3].weight.is_contiguous() is not mode.channels_last
        assert net[3].weight.dtype == torch.float32


def test_only_images_change_their_layout():
    sequence = torch.zeros(2, 5, 7)
    assert LAST.place((sequence,), "cpu")[0].stride() == sequence.stride()
    image = torch.zeros(2, 3, 5, 7)
    assert LAST.place((image,), "cpu")[0].is_contiguous(memory_format=torch.channels_last)
    assert PLAIN.place((image,), "cpu")[0] is image


def test_names():
    names = [mode.name for mode in (PLAIN, LAST, BF16, BF16_LAST)]
    assert names == ["fp32", "fp32, channels last", "bf16", "bf16, channels last"]

"""Who is decayed, and every schedule's learning rate from its start over its peak to its end."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.optim import SGD, Adam, AdamW, RMSprop

from compress.training.config import FitConfig
from compress.training.optimizers import make_optimizer, make_schedule

OPTIMIZERS = {"sgd": SGD, "adam": Adam, "adamw": AdamW, "rmsprop": RMSprop}


def network() -> nn.Module:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.LayerNorm(4), nn.Linear(4, 2))
    with torch.no_grad():
        for weight in net.parameters():
            weight.add_(0.5)
    return net


def rates(config: FitConfig, steps: int) -> list[float]:
    """The learning rate of each of `steps` steps."""
    weight = nn.Parameter(torch.ones(2, 2))
    weight.grad = torch.zeros(2, 2)
    optimizer = make_optimizer(nn.ParameterList([weight]), config)
    schedule, found = make_schedule(optimizer, config, steps), []
    for _ in range(steps):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    return found


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_biases_and_norms_are_not_decayed(name):
    net, config = network(), FitConfig(optimizer=name, weight_decay=0.1, learning_rate=0.01)
    before = {key: value.clone() for key, value in net.named_parameters()}
    for weight in net.parameters():
        weight.grad = torch.zeros_like(weight)
    optimizer = make_optimizer(net, config)
    assert type(optimizer) is OPTIMIZERS[name]
    optimizer.step()
    for key, value in net.named_parameters():
        if value.dim() == 1:
            assert torch.equal(value, before[key]), key
        else:
            assert not torch.equal(value, before[key]), key


@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_decay_alone_shrinks_by_rate_times_decay(name):
    # Nesterov's first step is (1 + momentum) times the gradient; without momentum it is plain.
    net = nn.Linear(3, 2)
    before = net.weight.detach().clone()
    net.weight.grad = torch.zeros_like(net.weight)
    settings = {"momentum": 0.0, "weight_decay": 0.1, "learning_rate": 0.2}
    make_optimizer(net, FitConfig(optimizer=name, **settings)).step()
    torch.testing.assert_close(net.weight.detach(), before * (1 - 0.2 * 0.1))


def test_sgd_is_nesterovs():
    weight = nn.Parameter(torch.tensor([[1.0]]))
    config = FitConfig(learning_rate=0.1, momentum=0.9, weight_decay=0.0)
    optimizer = make_optimizer(nn.ParameterList([weight]), config)
    expected, velocity = 1.0, 0.0
    for gradient in (0.5, -1.0, 2.0):
        weight.grad = torch.tensor([[gradient]])
        optimizer.step()
        velocity = 0.9 * velocity + gradient
        expected -= 0.1 * (gradient + 0.9 * velocity)
        assert weight.item() == pytest.approx(expected, rel=1e-6)


def test_frozen_weights_are_left_out():
    net = network()
    net[0].weight.requires_grad_(False)
    groups = make_optimizer(net, FitConfig()).param_groups
    assert [len(group["params"]) for group in groups] == [1, 6]
    assert all(weight is not net[0].weight for group in groups for weight in group["params"])


def test_one_cycle_starts_peaks_and_ends():
    found = rates(FitConfig(schedule="one_cycle", learning_rate=0.1, warmup=0.25), 100)
    assert found[0] == pytest.approx(0.1 / 25)
    assert max(found) == found[24] == pytest.approx(0.1)
    assert found[-1] == pytest.approx(0.1 / 25 / 1e4)
    # Half way down the cosine it is half of the peak.
    assert found[24 + 37] == pytest.approx(0.05, rel=0.05)


def test_cosine_warms_up_linearly_and_falls_to_zero():
    found = rates(FitConfig(schedule="cosine", learning_rate=0.2, warmup=0.1), 100)
    assert found[:10] == pytest.approx([0.02 * step for step in range(1, 11)])
    assert found[10] == max(found) == pytest.approx(0.2)
    assert found[55] == pytest.approx(0.1)
    assert found[-1] == pytest.approx(0.1 * (1 - math.cos(math.pi / 90)))


def test_constant_warms_up_and_stays():
    found = rates(FitConfig(schedule="constant", learning_rate=0.2, warmup=0.2), 10)
    assert found == pytest.approx([0.1] + [0.2] * 9)
    assert rates(FitConfig(schedule="constant", warmup=0.0), 5) == [0.1] * 5


@given(
    schedule=st.sampled_from(["cosine", "constant"]),
    steps=st.integers(1, 60),
    warmup=st.floats(0.01, 0.99),
)
@settings(max_examples=60, deadline=None)
def test_rate_rises_then_falls_and_stays_in_bounds(schedule, steps, warmup):
    found = rates(FitConfig(schedule=schedule, learning_rate=0.1, warmup=warmup), steps)
    assert len(found) == steps
    assert all(0 < rate <= 0.1 * (1 + 1e-9) for rate in found)
    peak = found.index(max(found))
    assert found[: peak + 1] == sorted(found[: peak + 1])
    assert found[peak:] == sorted(found[peak:], reverse=True)


@given(steps=st.integers(10, 80), share=st.floats(0.25, 0.9))
@settings(max_examples=40, deadline=None)
def test_one_cycle_peaks_where_the_warmup_ends(steps, share):
    found = rates(FitConfig(schedule="one_cycle", learning_rate=0.1, warmup=share), steps)
    assert all(0 < rate <= 0.1 * (1 + 1e-9) for rate in found)
    assert abs(found.index(max(found)) - (share * steps - 1)) <= 1


def test_momentum_is_left_alone_by_the_schedule():
    net, config = network(), FitConfig(epochs=3)
    optimizer = make_optimizer(net, config)
    schedule = make_schedule(optimizer, config, 20)
    for _ in range(10):
        optimizer.step()
        schedule.step()
        assert [group["momentum"] for group in optimizer.param_groups] == [0.9, 0.9]


def test_cosine_without_warmup_starts_at_the_top():
    found = rates(FitConfig(schedule="cosine", learning_rate=0.2, warmup=0.0), 50)
    assert found[1] < 0.2
    assert found[0] == pytest.approx(0.2, rel=2e-3)


@given(steps=st.integers(1, 40), warmup=st.floats(0, 0.99))
@settings(max_examples=60, deadline=None)
def test_one_cycle_copes_with_any_length(steps, warmup):
    found = rates(FitConfig(schedule="one_cycle", learning_rate=0.1, warmup=warmup), steps)
    assert all(0 < rate <= 0.1 * (1 + 1e-9) for rate in found)

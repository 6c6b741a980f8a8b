"""Pruning reaches its target and no further, in whole blocks, and tells what went."""

from __future__ import annotations

import math

import pytest
import tiny
import torch
from torch import Tensor, nn

from compress.errors import InputError, NoEffect
from compress.models.build import count_macs, count_parameters
from compress.pruning import structured
from compress.pruning.config import PruneConfig
from compress.pruning.structured import prune

CHANNELS = 8 + 16  # of tiny.model()


@pytest.fixture(autouse=True)
def _fewer_bisections(monkeypatch):
    """1/128 still tells the 24 channels of the tiny model apart."""
    monkeypatch.setattr(structured, "BISECTIONS", 7)


@pytest.fixture
def net() -> nn.Module:
    torch.manual_seed(2)
    return tiny.model().eval()


def config(**settings) -> PruneConfig:
    return PruneConfig(**{"importance": "magnitude", "round_to": 1, **settings})


def widths(model: nn.Module) -> tuple[int, int]:
    return model[0].out_channels, model[3].out_channels


def macs(first: int, second: int, positions: int = 36) -> int:
    """Multiply-accumulates of tiny.model() with these widths, worked out by hand."""
    return 36 * 9 * first + positions * 9 * first * second + 4 * second


def parameters(first: int, second: int) -> int:
    return 10 * first + 2 * first + (9 * first + 1) * second + 2 * second + 4 * second + 4


@pytest.mark.parametrize(("share", "round_to"), [(0.5, 1), (0.6, 2), (0.7, 4)])
def test_macs_target_is_met_by_the_largest_choice(share, round_to, net, tiny_task):
    settings = config(macs=share, round_to=round_to)
    pruned, _ = prune(net, tiny_task, settings)
    found = macs(*widths(pruned))
    assert found == count_macs(pruned, (tiny_task.train.inputs[:1],))
    sample = tiny_task.train.inputs[:2]
    choices = set()
    for channels in range(CHANNELS):
        model, _ = structured._prune_once(net, sample, settings, channels / CHANNELS, [net[8]])
        choices.add(macs(*widths(model)))
    assert len(choices) > 3
    assert found == max(choice for choice in choices if choice <= share * macs(8, 16))


@pytest.mark.parametrize("ratio", [0.1, 0.5])
@pytest.mark.parametrize("importance", ["magnitude", "taylor"])
def test_ratio_removes_that_share_of_channels(ratio, importance, net, tiny_task):
    pruned, _ = prune(net, tiny_task, config(ratio=ratio, importance=importance))
    assert CHANNELS - sum(widths(pruned)) == math.ceil(ratio * CHANNELS)


@pytest.mark.parametrize(("ratio", "round_to"), [(0.5, 4), (0.3, 3), (0.8, 2)])
def test_channels_stay_in_whole_blocks(ratio, round_to, net, tiny_task):
    pruned, _ = prune(net, tiny_task, config(ratio=ratio, round_to=round_to))
    for width, whole in zip(widths(pruned), (8, 16), strict=True):
        assert width % round_to == 0 or width == whole
        assert width >= round_to
    assert CHANNELS - sum(widths(pruned)) >= ratio * CHANNELS


@pytest.mark.parametrize(
    ("important", "channels", "round_to", "kept"),
    [
        (9, 32, 8, 16),
        (16, 32, 8, 16),
        (17, 32, 8, 24),
        (0, 32, 8, 8),
        (11, 12, 8, 12),
        (5, 6, 8, 6),
    ],
)
def test_important_channels_always_stay(important, channels, round_to, kept):
    assert structured._kept(important, channels, round_to) == kept


def test_no_layer_is_emptied(net, tiny_task):
    with torch.no_grad():
        net[3].weight[1:] *= 1e-6  # one channel outshines the others of its layer
    pruned, _ = prune(net, tiny_task, config(ratio=0.9))
    assert min(widths(pruned)) >= 1
    assert pruned(tiny_task.test.inputs).shape == (60, 4)


def test_evidence_is_what_went(net, tiny_task):
    pruned, evidence = prune(net, tiny_task, config(ratio=0.5, round_to=4))
    first, second = widths(pruned)
    assert evidence == {
        "parameters": [parameters(8, 16), parameters(first, second)],
        "macs": [macs(8, 16), macs(first, second)],
        "layers": {
            name: layer
            for name, layer in {
                "0": [[8, 1], [first, 1]],
                "3": [[16, 8], [second, first]],
                "8": [[4, 16], [4, second]],
            }.items()
            if layer[0] != layer[1]
        },
    }
    assert count_parameters(pruned) == parameters(first, second)


def test_the_model_stays_as_it_is(net, tiny_task):
    before = {name: value.clone() for name, value in net.state_dict().items()}
    settings = config(ratio=0.3, importance="taylor", strides={"3": 2})
    pruned, _ = prune(net, tiny_task, settings)
    assert all(torch.equal(before[name], value) for name, value in net.state_dict().items())
    assert net[3].stride == (1, 1)
    assert all(weight.grad is None for weight in (*net.parameters(), *pruned.parameters()))
    assert not net.training
    assert not pruned.training


def test_equal_seeds_prune_equally(net, tiny_task):
    settings = config(ratio=0.4, importance="taylor", batch_size=16, batches=2)
    one, again = (prune(net, tiny_task, settings, seed=1)[0].state_dict() for _ in range(2))
    assert all(torch.equal(one[name], again[name]) for name in one)


def test_channels_that_stay_keep_their_weights(net, tiny_task):
    pruned, _ = prune(net, tiny_task, config(ratio=0.4))
    rows = [
        next(row for row in range(8) if torch.equal(net[0].weight[row], kept))
        for kept in pruned[0].weight
    ]
    assert rows == sorted(rows)
    assert torch.equal(pruned[1].weight, net[1].weight[rows])
    assert torch.equal(pruned[1].running_mean, net[1].running_mean[rows])


def silence(outputs: list[Tensor], inputs: list[Tensor], channels: list[int]) -> None:
    """Zero whole channels: what makes them and what reads them."""
    with torch.no_grad():
        for weight in outputs:
            weight[channels] = 0
        for weight in inputs:
            weight[:, channels] = 0


def test_silent_channels_go_without_a_trace(net, tiny_task):
    dead = [1, 4, 6]
    made = [net[0].weight, net[0].bias, net[1].weight, net[1].bias]
    silence(made, [net[3].weight], dead)
    expected = net(tiny_task.test.inputs)
    pruned, _ = prune(net, tiny_task, config(ratio=3 / CHANNELS))
    assert widths(pruned) == (5, 16)
    assert torch.equal(pruned[0].weight, net[0].weight[[0, 2, 3, 5, 7]])
    assert (pruned(tiny_task.test.inputs) - expected).abs().max() <= 1e-6


def test_silent_channels_of_a_residual_stream_go_together(trained, tiny_task):
    dead, first, second = [2, 5], trained.stages[0][0], trained.stages[1][0]
    made = [trained.stem, trained.norm, first.conv2, first.norm2]
    silence(
        [value for layer in made for value in layer.parameters()],
        [first.conv1.weight, second.conv1.weight, second.shortcut[0].weight],
        dead,
    )
    expected = trained(tiny_task.test.inputs)
    pruned, evidence = prune(trained, tiny_task, config(ratio=2 / 48))
    assert evidence["layers"].keys() == {
        "stem",
        "stages.0.0.conv1",
        "stages.0.0.conv2",
        "stages.1.0.conv1",
        "stages.1.0.shortcut.0",
    }
    assert pruned.stem.out_channels == 6
    assert (pruned(tiny_task.test.inputs) - expected).abs().max() <= 1e-6


def test_taylor_finds_channels_that_never_speak(net, tiny_task):
    dead = [0, 7]
    with torch.no_grad():
        net[0].weight[dead] *= 50  # large weights, but ReLU lets nothing through
        net[1].bias[dead] = -1e6
    expected = net(tiny_task.test.inputs)
    pruned, _ = prune(net, tiny_task, config(ratio=2 / CHANNELS, importance="taylor"))
    assert torch.equal(pruned[0].weight, net[0].weight[1:7])
    assert (pruned(tiny_task.test.inputs) - expected).abs().max() <= 1e-6


def test_kept_layers_keep_their_channels(net, tiny_task):
    pruned, _ = prune(net, tiny_task, config(ratio=0.5, keep=("0",)))
    assert widths(pruned) == (8, 8)


class HeadFirst(nn.Module):
    """The layer that makes the output is registered before the others."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(8, 4)
        self.body = nn.Linear(144, 8)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.relu(self.body(x.flatten(1))))


def test_classes_are_never_pruned(tiny_task):
    pruned, _ = prune(HeadFirst().eval(), tiny_task, config(ratio=0.5))
    assert (pruned.body.out_features, pruned.head.out_features) == (4, 4)


def test_changed_output_is_found_out(net, tiny_task):
    with pytest.raises(InputError) as caught:
        structured._check_outputs(tiny.model(classes=3), net, tiny_task.train.inputs[:2])
    assert str(caught.value) == (
        "pruning changed the model's output from (2, 4) to (2, 3); "
        "name the layer that makes the output in `keep`."
    )


def test_stride_shrinks_the_work_behind_it(net, tiny_task):
    pruned, evidence = prune(net, tiny_task, config(ratio=0.25, strides={"3": 2}))
    assert pruned[3].stride == (2, 2)
    assert evidence["macs"] == [macs(8, 16), macs(*widths(pruned), positions=9)]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"strides": {"6": 2}}, "strides: no convolution named '6'. Known: 0, 3."),
        ({"keep": ("stem",)}, "keep: no layer named 'stem'. Known: 0, 1, 2, 3, 4, 5, 6, 7, 8."),
    ],
)
def test_unknown_layers(settings, message, net, tiny_task):
    with pytest.raises(InputError) as caught:
        prune(net, tiny_task, config(ratio=0.5, **settings))
    assert str(caught.value) == message


def test_target_out_of_reach(net, tiny_task):
    with pytest.raises(InputError) as caught:
        prune(net, tiny_task, config(macs=0.2, round_to=8))
    share = macs(8, 8) / macs(8, 16)
    assert str(caught.value) == (
        f"the target is out of reach: with round_to=8 the smallest model keeps 16 of 24 prunable "
        f"channels and {share:.3f} of the multiply-accumulates. "
        "Ask for less, lower round_to, or set strides."
    )


def test_nothing_removed_is_an_error(net, tiny_task):
    with pytest.raises(NoEffect, match=r"^pruning removed no parameter: no layer can lose 1 chan"):
        prune(net, tiny_task, config(ratio=0.3, keep=("0", "3")))


@pytest.mark.parametrize("settings", [{}, {"ratio": 0.5, "macs": 0.5}])
def test_exactly_one_target(settings):
    with pytest.raises(ValueError, match=r"give either ratio .* or macs"):
        PruneConfig(**settings)


@pytest.mark.parametrize("last", [nn.LogSoftmax(1), nn.Softmax(1), nn.Unflatten(1, (2, 2))])
def test_classes_are_never_pruned_whatever_follows_them(last, net, tiny_task):
    # The identity of an output that was freed may be given to the next tensor.
    model = nn.Sequential(*net, last, nn.Flatten()).eval()
    pruned, _ = prune(model, tiny_task, config(ratio=0.5))
    assert pruned[8].out_features == 4
    assert sum(widths(pruned)) == 12


def test_head_that_is_registered_first_and_followed_by_a_function(tiny_task):
    class Probabilities(HeadFirst):
        def forward(self, x):
            return super().forward(x).softmax(1)

    pruned, _ = prune(Probabilities().eval(), tiny_task, config(ratio=0.5))
    assert (pruned.body.out_features, pruned.head.out_features) == (4, 4)


def test_kept_folder_of_layers(trained, tiny_task):
    pruned, _ = prune(trained, tiny_task, config(ratio=0.5, keep=("stages.0",)))
    assert pruned.stages[0][0].conv1.out_channels == 8
    assert pruned.stages[0][0].conv2.out_channels == 8

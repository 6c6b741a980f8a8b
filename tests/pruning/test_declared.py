"""Pruning by declared groups: exact where nothing is lost, to the target, never without effect."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from torch import nn

from compress.data.task import ACCURACY, MSE, Split, Task
from compress.errors import InputError, NoEffect
from compress.models.build import build, count_macs, count_parameters
from compress.models.groups import Group, Prunable
from compress.models.references import ModelSpec, resolve
from compress.pruning.config import PruneConfig
from compress.pruning.declared import cut
from compress.pruning.importance import importance
from compress.pruning.prune import prune
from compress.training.batches import Batch

FACTS = {"in_features": 5, "outputs": 3, "max_length": 12}


def task(count: int = 60) -> Task:
    """Sequences of 3 to 12 steps of 5 numbers, three classes."""
    random = torch.Generator().manual_seed(0)
    lengths = torch.randint(3, 13, (count,), generator=random)
    inputs = torch.randn(count, 12, 5, generator=random)
    inputs[torch.arange(12) >= lengths.unsqueeze(1)] = 0
    targets = torch.arange(count) % 3
    split = Split(
        inputs + targets.view(-1, 1, 1) * (inputs != 0), targets, np.arange(count), lengths
    )
    return Task("made", split, split, split, ACCURACY, ("a", "b", "c"), FACTS)


def recurrent(cell: str = "lstm", widths: tuple[int, ...] = (16, 16), **settings) -> tuple:
    torch.manual_seed(1)
    spec = resolve(cell, {"widths": widths, **settings}, FACTS)
    return build(spec).eval(), spec


def transformer(**settings) -> tuple[nn.Module, ModelSpec]:
    torch.manual_seed(1)
    sizes = {"width": 16, "heads": (2, 4), "head_width": 8, "feed_forward": (32, 16)}
    spec = resolve("transformer", {**sizes, "dropout": 0.0, **settings}, FACTS)
    return build(spec).eval(), spec


def config(**settings) -> PruneConfig:
    defaults = {"round_to": 1, "batch_size": 20, "batches": 3, "augment": False}
    return PruneConfig(**{**defaults, **settings})


def answers(model: nn.Module, found: Task) -> torch.Tensor:
    with torch.inference_mode():
        return model(*found.test.whole())


def silence(model: nn.Module, group: Group, units: list[int]) -> None:
    """Set the weights to zero that these units act through."""
    state = model.state_dict()
    for piece in group.pieces:
        if piece.outgoing:
            state[piece.tensor].index_fill_(piece.dim, piece.rows[units].flatten(), 0.0)
    model.load_state_dict(state)


def groups_of(model: nn.Module) -> dict[str, Group]:
    assert isinstance(model, Prunable)
    return {group.name: group for group in model.prune_groups()}


@pytest.mark.parametrize("cell", ["rnn", "lstm", "gru"])
@pytest.mark.parametrize("widths", [(8,), (8, 6)], ids=["single", "stacked"])
@pytest.mark.parametrize("bidirectional", [False, True])
def test_units_that_do_nothing_leave_without_a_trace(cell, widths, bidirectional):
    model, spec = recurrent(cell, widths, bidirectional=bidirectional)
    found, kept = task(), {}
    for number, group in enumerate(groups_of(model).values()):
        gone = [number % 3, 4]  # other ones in each direction
        silence(model, group, gone)
        kept[group.name] = torch.tensor([u for u in range(group.units) if u not in gone])
    smaller, smaller_spec = cut(model, spec, kept, list(groups_of(model).values()))
    assert smaller_spec.config["widths"] == [width - 2 for width in widths]
    assert count_parameters(smaller) < count_parameters(model)
    torch.testing.assert_close(answers(smaller, found), answers(model, found), atol=1e-6, rtol=0)


@pytest.mark.parametrize("kind", ["heads", "feed_forward"])
def test_heads_and_units_that_do_nothing_leave_without_a_trace(kind):
    model, spec = transformer()
    found, kept = task(), {}
    for group in groups_of(model).values():
        if group.kind == kind:
            silence(model, group, [1])
            kept[group.name] = torch.tensor([u for u in range(group.units) if u != 1])
    smaller, smaller_spec = cut(model, spec, kept, list(groups_of(model).values()))
    assert smaller_spec.config[kind] == [n - 1 for n in spec.config[kind]]
    torch.testing.assert_close(answers(smaller, found), answers(model, found), atol=1e-6, rtol=0)


def test_the_rebuilt_model_takes_the_weights_strictly():
    model, spec = recurrent("gru", bidirectional=True)
    pruned, smaller_spec, _ = prune(model, spec, task(), config(ratio=0.5))
    rebuilt = build(smaller_spec).eval()
    rebuilt.load_state_dict(pruned.state_dict(), strict=True)
    assert torch.equal(answers(rebuilt, task()), answers(pruned, task()))


@pytest.mark.parametrize("method", ["magnitude", "taylor"])
@pytest.mark.parametrize("make", [recurrent, transformer])
def test_a_ratio_is_met_and_not_overshot(make, method):
    model, spec = make()
    before = sum(group.units for group in groups_of(model).values())
    pruned, _, evidence = prune(model, spec, task(), config(ratio=0.4, importance=method))
    after = sum(group.units for group in groups_of(pruned).values())
    assert 0.5 * before <= after <= 0.6 * before
    assert evidence["parameters"] == [count_parameters(model), count_parameters(pruned)]


@pytest.mark.parametrize("make", [recurrent, transformer])
def test_macs_are_met(make):
    model, spec = make()
    sample = task().train.typical(1)
    pruned, _, evidence = prune(model, spec, task(), config(macs=0.5))
    assert evidence["macs"] == [count_macs(model, sample), count_macs(pruned, sample)]
    assert 0.3 <= evidence["macs"][1] / evidence["macs"][0] <= 0.5  # a head is a large step


def test_whole_blocks_stay_and_both_directions_equally_many():
    model, spec = recurrent("lstm", (32, 32), bidirectional=True)
    _, smaller, _ = prune(model, spec, task(), config(ratio=0.45, round_to=8))
    assert all(width % 8 == 0 for width in smaller.config["widths"])


def test_the_budget_goes_where_the_loss_feels_it_least():
    model, spec = recurrent("lstm", (8, 8))
    silence(model, groups_of(model)["layers.0.forward"], list(range(6)))
    _, smaller, _ = prune(model, spec, task(), config(ratio=0.3))
    assert smaller.config["widths"][0] <= 4
    assert smaller.config["widths"][1] >= 7


def test_taylor_is_the_gradient_of_a_gate_on_the_unit():
    model, _ = recurrent("gru", (6,))
    found = task()
    batch = Batch(found.train.whole(), found.train.targets)
    group = groups_of(model)["layers.0.forward"]
    scores = importance(model, [group], found, [batch], "taylor")["layers.0.forward"]
    # A gate z on unit 2's outgoing weights, by central differences at z = 1.
    losses = []
    for gate in (1 + 1e-3, 1 - 1e-3):
        copy, _ = recurrent("gru", (6,))
        state = copy.state_dict()
        for piece in group.pieces:
            if piece.outgoing:
                place = piece.rows[[2]].flatten()
                part = state[piece.tensor].index_select(piece.dim, place) * gate
                state[piece.tensor].index_copy_(piece.dim, place, part)
        copy.load_state_dict(state)
        with torch.inference_mode():
            losses.append(float(nn.functional.cross_entropy(copy(*batch.inputs), batch.targets)))
    slope = abs(losses[0] - losses[1]) / 2e-3
    own = sum(
        p.rows[0].numel() * model.state_dict()[p.tensor].select(p.dim, 0).numel()
        for p in group.pieces
    )
    assert float(scores[2]) == pytest.approx(slope / own, rel=0.05)


def test_magnitude_is_relative_to_the_groups_mean():
    model, _ = recurrent("rnn", (8, 8))
    scores = importance(model, list(groups_of(model).values()), task(), [], "magnitude")
    assert all(float(score.mean()) == pytest.approx(1) for score in scores.values())


def test_a_layer_goes_first_and_is_named():
    model, spec = transformer()
    pruned, smaller, evidence = prune(model, spec, task(), config(ratio=0.1, layers=1))
    assert len(smaller.config["heads"]) == 1
    assert evidence["layers_removed"] in (["0"], ["1"])
    assert answers(pruned, task()).shape == (60, 3)


def test_layers_alone_are_a_target():
    model, spec = transformer()
    pruned, smaller, evidence = prune(model, spec, task(), config(layers=1))
    assert len(smaller.config["heads"]) == 1
    assert evidence["parameters"][1] == count_parameters(pruned) < count_parameters(model)


def test_kinds_and_keep_protect_the_rest():
    model, spec = transformer()
    _, smaller, _ = prune(model, spec, task(), config(ratio=0.3, kinds=("feed_forward",)))
    assert smaller.config["heads"] == [2, 4]
    assert smaller.config["width"] == 16
    settings = config(ratio=0.3, kinds=("feed_forward",), keep=("layers.0",))
    _, smaller, _ = prune(model, spec, task(), settings)
    assert smaller.config["feed_forward"][0] == 32


@pytest.mark.parametrize(
    ("settings", "error", "text"),
    [
        ({"ratio": 0.99}, InputError, "the target is out of reach: with round_to=1 the smallest"),
        (
            {"ratio": 0.1, "keep": ("layers.9",)},
            InputError,
            r"keep: nothing to prune named 'layers\.9'",
        ),
        ({"ratio": 0.1, "kinds": ("heads",)}, InputError, "kinds: this model has no heads. Known:"),
        ({"ratio": 0.1, "strides": {"x": 2}}, InputError, "strides: only convolutions of images"),
        ({"ratio": 0.1, "keep": ("layers",)}, NoEffect, "leave nothing to prune"),
        ({"ratio": 0.1, "layers": 2}, InputError, "layers: no layer of Recurrent can be removed"),
        ({"ratio": 0.01, "round_to": 16}, InputError, "round_to=16 the smallest model keeps"),
    ],
    ids=str,
)
def test_what_cannot_be_pruned_is_told(settings, error, text):
    model, spec = recurrent("lstm", (16,))
    with pytest.raises(error, match=text):
        prune(model, spec, task(), config(**settings))


def test_a_users_own_recurrent_model_is_refused_and_not_left_as_it_is():
    class Own(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.reader = nn.GRU(5, 8, batch_first=True)
            self.head = nn.Linear(8, 3)

        def forward(self, x: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
            return self.head(self.reader(x)[0][:, -1])

    with pytest.raises(
        InputError, match=r"layer 'reader' \(GRU\) of Own cannot be pruned as it is"
    ):
        prune(Own().eval(), ModelSpec(architecture="x:y"), task(), config(ratio=0.5))


def test_regression_has_an_importance_too():
    found = task()
    split = dataclasses.replace(found.train, targets=torch.randn(60, 3))
    found = dataclasses.replace(found, train=split, kind="regression", metric=MSE)
    model, spec = recurrent("rnn", (8,))
    _, smaller, _ = prune(model, spec, found, config(ratio=0.5))
    assert smaller.config["widths"] == [4]

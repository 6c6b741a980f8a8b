"""Recurrent models against torch's own layers, step by step, and the exactness of their groups."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn

from compress.models.build import build
from compress.models.recurrent_op import recurrent, recurrent_stack
from compress.models.references import ModelSpec
from compress.models.rnn import Recurrent, RecurrentLayer
from compress.models.sequence_configs import RecurrentConfig
from compress.pruning.declared import cut

CELLS = ("rnn", "lstm", "gru")
SHAPES = list(itertools.product(CELLS, [(6,), (6, 5)], [False, True]))
SHAPE_NAMES = [f"{cell}-{len(widths)}-{'bi' if both else 'uni'}" for cell, widths, both in SHAPES]
FRONTS = {
    "numbers": {"in_features": 4},
    "numbers, convolution": {"in_features": 4, "front_width": 7, "front_kernel": 3},
    "tokens": {"vocabulary": 30},
    "tokens, pairs, convolution": {"vocabulary": 30, "ngrams": {2: 11}, "front_width": 5},
    "tokens, wide and deep": {"vocabulary": 30, "wide": {1: 30, 3: 50}},
}
LENGTHS = torch.tensor([9, 1, 4, 7, 2])


def make(**settings: object) -> Recurrent:
    torch.manual_seed(0)
    return Recurrent(RecurrentConfig(outputs=3, **settings)).eval()


def samples(model: Recurrent, batch: int = 5, time: int = 9) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    if model.config.vocabulary:
        return torch.randint(0, model.config.vocabulary, (batch, time), generator=generator)
    return torch.randn(batch, time, model.config.in_features, generator=generator)


def poolings(model_settings: dict[str, object]) -> Iterator[dict[str, object]]:
    """The ways to use the steps that a model of such settings may have."""
    for pooling in ("last", "mean", "max"):
        yield {"pooling": pooling}
    if not model_settings["bidirectional"] and not {"front_width", "wide"} & {*model_settings}:
        yield {"per_step": True}


@pytest.mark.parametrize("front", FRONTS.values(), ids=FRONTS)
@pytest.mark.parametrize(("cell", "widths", "both"), SHAPES, ids=SHAPE_NAMES)
def test_padding_changes_nothing_whatever_stands_in_it(cell, widths, both, front):
    settings = {"cell": cell, "widths": widths, "bidirectional": both, **front}
    for pooling in poolings(settings):
        model = make(**settings, **pooling)
        x = samples(model)
        other = samples(model).roll(1, 0) if model.config.vocabulary else torch.full_like(x, 1e6)
        behind = torch.arange(x.shape[1]) >= LENGTHS.unsqueeze(1)
        dirty = torch.where(behind.reshape(behind.shape + (1,) * (x.dim() - 2)), other, x)
        with torch.inference_mode():
            batches = model(x, LENGTHS), model(dirty, LENGTHS)
            for row, length in enumerate(LENGTHS):
                expected = model(x[row : row + 1, :length])[0]
                for found in batches:
                    got = found[row, :length] if model.config.per_step else found[row]
                    torch.testing.assert_close(got, expected, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize(("cell", "widths", "both"), SHAPES, ids=SHAPE_NAMES)
def test_a_stack_is_torchs_own(cell, widths, both):
    model = make(cell=cell, widths=(6,) * len(widths), bidirectional=both, in_features=4)
    kind = {"rnn": nn.RNN, "lstm": nn.LSTM, "gru": nn.GRU}[cell]
    own = kind(4, 6, len(widths), bidirectional=both, batch_first=True)
    state = {}
    for number, layer in enumerate(model.layers):
        for name, values in layer.cell.state_dict().items():
            state[name.replace("l0", f"l{number}")] = values
    own.load_state_dict(state)
    x = samples(model)
    with torch.inference_mode():
        _, last = own(x)
        hidden = last[0] if cell == "lstm" else last
        features = torch.cat([*hidden[-2:]] if both else [hidden[-1]], dim=1)
        expected = features @ model.head.weight.T + model.head.bias
        torch.testing.assert_close(model(x), expected, atol=1e-6, rtol=1e-5)
        torch.testing.assert_close(model(x, torch.full((5,), 9)), expected, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("lengths", [None, torch.tensor([1])], ids=["whole", "lengths"])
@pytest.mark.parametrize("cell", CELLS)
def test_one_sample_of_one_step(cell, lengths):
    for both, pooling in itertools.product((False, True), ("last", "mean", "max")):
        model = make(cell=cell, in_features=4, bidirectional=both, pooling=pooling)
        with torch.inference_mode():
            assert model(torch.randn(1, 1, 4), lengths).shape == (1, 3)


def test_an_rnn_by_hand():
    layer = RecurrentLayer("rnn", 1, 1, bidirectional=True)
    values = {"weight_ih": 0.5, "weight_hh": -2.0, "bias_ih": 0.1, "bias_hh": 0.2}
    for name, parameter in layer.cell.named_parameters():
        parameter.detach().fill_(values[name.partition("_l0")[0]])
    steps, last = layer(torch.tensor([1.0, 2.0, 99.0]).reshape(3, 1, 1), torch.tensor([2]))
    forward = [math.tanh(0.5 + 0.3)]
    forward.append(math.tanh(1.0 + 0.3 - 2 * forward[0]))
    backward = [math.tanh(1.0 + 0.3)]
    backward.insert(0, math.tanh(0.5 + 0.3 - 2 * backward[0]))
    expected = torch.tensor([*zip(forward, backward, strict=True), (0.0, 0.0)])
    torch.testing.assert_close(steps[:, 0], expected)
    torch.testing.assert_close(last, torch.tensor([[forward[1], backward[0]]]))


@pytest.mark.parametrize("both", [False, True])
@pytest.mark.parametrize("cell", CELLS)
def test_the_operator_for_exporters_computes_what_the_layer_does(cell, both):
    layer = RecurrentLayer(cell, 4, 6, both).requires_grad_(False)
    weights = [tensor for direction in layer.cell.all_weights for tensor in direction]
    x = torch.randn(9, 5, 4)
    for lengths in (None, LENGTHS):
        for found, expected in zip(
            recurrent(x, lengths, weights, cell), layer(x, lengths), strict=True
        ):
            torch.testing.assert_close(found, expected)
        torch.library.opcheck(recurrent, (x, lengths, weights, cell), raise_exception=True)


@pytest.mark.parametrize(("kind", "cell"), [(nn.LSTM, "lstm"), (nn.GRU, "gru"), (nn.RNN, "rnn")])
def test_the_operator_for_a_stack_computes_what_the_module_does(kind, cell):
    for biases, both, batch_first in itertools.product((False, True), repeat=3):
        own = kind(4, 6, 2, bias=biases, batch_first=batch_first, bidirectional=both)
        states = [torch.randn(2 + 2 * both, 5, 6) for _ in range(1 + (cell == "lstm"))]
        x = torch.randn(*((5, 9) if batch_first else (9, 5)), 4)
        weights = [tensor.detach() for tensor in own._flat_weights]
        arguments = (x, states, weights, cell, biases, 2, both, batch_first)
        found = recurrent_stack(*arguments)
        with torch.inference_mode():
            steps, last = own(x, tuple(states) if cell == "lstm" else states[0])
        last = [*last] if cell == "lstm" else [last]
        for one, other in zip(found, [steps, *last], strict=True):
            torch.testing.assert_close(one, other)
    torch.library.opcheck(recurrent_stack, arguments, raise_exception=True)


def test_initial_weights():
    layer = RecurrentLayer("lstm", 3, 40, bidirectional=True)
    state = layer.cell.state_dict()
    for suffix in ("l0", "l0_reverse"):
        for gate in state[f"weight_hh_{suffix}"].split(40):
            torch.testing.assert_close(gate @ gate.T, torch.eye(40), atol=1e-5, rtol=0)
        forget = state[f"bias_ih_{suffix}"][40:80] + state[f"bias_hh_{suffix}"][40:80]
        assert forget.mean().item() == pytest.approx(1, abs=0.1)
        assert state[f"bias_ih_{suffix}"][:40].abs().max() <= 1 / math.sqrt(40)
        assert state[f"weight_ih_{suffix}"].abs().max() <= 1 / math.sqrt(40)
    gru = RecurrentLayer("gru", 3, 40, bidirectional=False).cell
    assert gru.bias_ih_l0.abs().max() <= 1 / math.sqrt(40)


def test_dropout_acts_between_layers_and_before_the_last_one_in_training_only():
    model = make(in_features=4, widths=(6, 6), dropout=0.5).train()
    x = samples(model)
    assert not torch.equal(model(x), model(x))
    model.eval()
    assert torch.equal(model(x), model(x))
    one = make(in_features=4, widths=(6,), dropout=0.5).train()
    steps, last = one.layers[0](x.transpose(0, 1))
    assert torch.equal(steps[-1], last)  # nothing is dropped inside the first layer


def test_every_weight_learns():
    for cell, widths, both in SHAPES:
        front = FRONTS["tokens, pairs, convolution"]
        model = make(cell=cell, widths=widths, bidirectional=both, **front).train()
        model(samples(model), LENGTHS).square().sum().backward()
        assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.parameters())


def kept_units(model: Recurrent) -> Iterator[tuple[str, Tensor]]:
    """For each group all but one or two units, in different places for each."""
    for number, group in enumerate(model.prune_groups()):
        gone = torch.tensor([number % group.units, (number + 2) % group.units])
        yield group.name, torch.tensor([u for u in range(group.units) if u not in gone])


@pytest.mark.parametrize("front", FRONTS.values(), ids=FRONTS)
@pytest.mark.parametrize(("cell", "widths", "both"), SHAPES, ids=SHAPE_NAMES)
def test_units_without_effect_can_be_cut_out_exactly(cell, widths, both, front):
    model = make(cell=cell, widths=widths, bidirectional=both, **front)
    groups, kept = model.prune_groups(), dict(kept_units(model))
    state = model.state_dict()
    for group in groups:
        gone = torch.ones(group.units, dtype=torch.bool)
        gone[kept[group.name]] = False
        for piece in group.pieces:
            if piece.outgoing:
                state[piece.tensor].index_fill_(piece.dim, piece.rows[gone].flatten(), 0)
    spec = ModelSpec(architecture="recurrent", config=model.config.model_dump(mode="json"))
    x = samples(model)
    for names in ([group.name] for group in groups if group.partners == group.name), [list(kept)]:
        for chosen in names:
            smaller, smaller_spec = cut(model, spec, {name: kept[name] for name in chosen}, groups)
            with torch.inference_mode():
                difference = (smaller(x, LENGTHS) - model(x, LENGTHS)).abs().max()
            assert difference <= 1e-6
    assert smaller_spec.config["widths"] == [width - 2 for width in widths]
    again = build(smaller_spec)
    again.load_state_dict(smaller.state_dict(), strict=True)


@pytest.mark.parametrize(("cell", "widths", "both"), SHAPES, ids=SHAPE_NAMES)
def test_groups_own_every_weight_but_the_last_bias(cell, widths, both):
    model = make(cell=cell, widths=widths, bidirectional=both, vocabulary=30, ngrams={2: 7})
    groups = model.prune_groups()
    assert len({group.name for group in groups}) == len(groups)
    owned = {piece.tensor for group in groups for piece in group.pieces}
    free = {"head.bias", "front.ngrams.weight"}  # hashed rows are of no unit
    assert owned == set(dict(model.named_parameters())) - free
    for group in groups:
        for piece in group.pieces:
            size = model.state_dict()[piece.tensor].shape[piece.dim]
            assert piece.rows.shape[0] == group.units
            assert piece.rows.unique().numel() == piece.rows.numel() <= size
    partners = [group.partners for group in groups if group.kind == "units"]
    expected = [f"layers.{number}.units" for number in range(len(widths))]
    assert partners == [name for name in expected for _ in range(1 + both)]


def test_a_cut_embedding_no_longer_follows_the_first_layer():
    model = make(vocabulary=30, widths=(6,))
    assert model.pruned_config({"layers.0.units": 4}) | {"embedding": 6, "widths": [4]} == (
        model.pruned_config({"layers.0.units": 4})
    )
    assert model.pruned_config({"front.embedding": 2})["embedding"] == 2


def test_a_layer_that_keeps_the_width_can_go():
    model = make(cell="gru", vocabulary=30, widths=(6, 6, 6))
    config, names = model.without_layer(1)
    smaller = Recurrent(RecurrentConfig.model_validate(config)).eval()
    state = model.state_dict()
    smaller.load_state_dict({new: state[old] for new, old in names.items()}, strict=True)
    x = samples(model)
    with torch.inference_mode():
        vectors, _ = model.front(x, None)
        steps, _ = model.layers[0](vectors.transpose(0, 1))
        _, last = model.layers[2](steps)
        torch.testing.assert_close(smaller(x), model.head(last))
    first, _ = model.without_layer(0)  # the embedding keeps its width
    assert (first["widths"], first["embedding"]) == ([6, 6], 6)


@pytest.mark.parametrize(
    ("settings", "layer", "message"),
    [
        ({"widths": (6,)}, 0, "layer 0 is the only one"),
        ({"widths": (6, 6)}, 0, "layer 0 makes 6 features of 4"),
        ({"widths": (6, 5)}, 1, "layer 1 makes 5 features of 6"),
        ({"widths": (4, 4), "bidirectional": True}, 0, "layer 0 makes 8 features of 4"),
    ],
)
def test_a_layer_that_cannot_go(settings, layer, message):
    with pytest.raises(ValueError, match=message):
        make(in_features=4, **settings).without_layer(layer)

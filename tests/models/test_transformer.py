"""The Transformer against torch's own layer, against itself without padding, and cut to size."""

from __future__ import annotations

import functools
import math
import re

import onnxruntime as ort
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from compress.errors import ShapeMismatch
from compress.export.torch_to_onnx import export
from compress.models.build import build
from compress.models.groups import Prunable
from compress.models.references import ModelSpec
from compress.models.sequence_configs import TransformerConfig
from compress.models.transformer import Transformer, attention_maps, sinusoids
from compress.models.transformer_block import Block
from compress.pruning.declared import cut

SMALL = {
    "vocabulary": 50,
    "width": 16,
    "heads": (2, 3),
    "head_width": 8,
    "feed_forward": (32, 24),
    "max_length": 12,
    "outputs": 5,
}
NUMBERS = {**SMALL, "vocabulary": 0, "in_features": 3}
LANGUAGE = {**SMALL, "causal": True, "per_step": True, "outputs": 50}
KINDS = {
    "mean": SMALL,
    "max": {**SMALL, "pooling": "max"},
    "mean and max": {**SMALL, "pooling": "mean_max"},
    "last": {**SMALL, "pooling": "last"},
    "sinusoidal": {**SMALL, "positions": "sinusoidal"},
    "causal": {**SMALL, "causal": True},
    "own embedding": {**SMALL, "embedding": 6, "ngrams": {2: 20}},
    "wide and deep": {**SMALL, "ngrams": {2: 20, 3: 30}, "wide": {1: 12, 2: 40}},
    "convolution": {**SMALL, "front_width": 10},
    "numbers": NUMBERS,
    "numbers, convolution": {**NUMBERS, "front_width": 10, "front_stride": 3},
}


def make(settings, seed=0):
    """A model whose every parameter counts, biases and normalizations included."""
    torch.manual_seed(seed)
    model = Transformer(TransformerConfig(**settings)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.1)
    return model


def spec_of(model):
    config = model.config.model_dump(mode="json")
    return ModelSpec(architecture="transformer", config=config)


def sequences(settings, lengths, seed=1):
    torch.manual_seed(seed)
    shape = (len(lengths), max(lengths))
    if settings["vocabulary"]:
        return torch.randint(3, 50, shape), torch.tensor(lengths)
    return torch.randn(*shape, settings["in_features"]), torch.tensor(lengths)


@pytest.mark.parametrize("settings", KINDS.values(), ids=KINDS)
def test_padding_never_changes_a_result(settings):
    model = make(settings)
    x, lengths = sequences(settings, [12, 1, 7, 4])
    garbage = x.clone()
    for row, length in enumerate(lengths):
        garbage[row, length:] = 49 if settings["vocabulary"] else 1e3
    together = model(garbage, lengths)
    assert together.shape == (4, 5)
    for row, length in enumerate(lengths):
        alone = model(x[row : row + 1, :length], lengths[row : row + 1])
        torch.testing.assert_close(together[row : row + 1], alone, atol=1e-5, rtol=1e-5)
        whole = model(x[row : row + 1, :length])
        torch.testing.assert_close(whole, alone, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("positions", ["learned", "sinusoidal"])
def test_no_step_sees_a_later_one(positions):
    model = make({**LANGUAGE, "positions": positions})
    x, _ = sequences(LANGUAGE, [12, 12])
    changed = x.clone()
    changed[:, 6] = (changed[:, 6] + 1) % 50
    before, after = model(x), model(changed)
    assert before.shape == (2, 12, 50)
    torch.testing.assert_close(before[:, :6], after[:, :6], atol=1e-6, rtol=1e-6)
    assert (before[:, 6:] - after[:, 6:]).abs().amax(dim=2).gt(1e-4).all()


def test_without_causal_every_step_sees_all():
    model = make(SMALL)
    x, _ = sequences(SMALL, [12])
    changed = x.clone()
    changed[:, -1] = (changed[:, -1] + 1) % 50
    difference = model.features(x)[0] - model.features(changed)[0]
    assert difference.abs().amax(dim=2).gt(1e-4).all()


@pytest.mark.parametrize("masked", [False, True])
def test_a_block_is_torchs_own(masked):
    torch.manual_seed(0)
    config = TransformerConfig(width=32, heads=(4,), head_width=8, feed_forward=(48,))
    block = Block(config, 0).eval()
    reference = nn.TransformerEncoderLayer(
        32,
        4,
        48,
        0.0,
        functools.partial(F.gelu, approximate="tanh"),
        batch_first=True,
        norm_first=True,
    )
    attention = block.attention
    parts = [attention.query, attention.key, attention.value]
    copies = {
        "self_attn.in_proj_weight": torch.cat([part.weight for part in parts]),
        "self_attn.in_proj_bias": torch.cat([part.bias for part in parts]),
    }
    pairs = {
        "self_attn.out_proj": attention.output,
        "linear1": block.expand,
        "linear2": block.contract,
        "norm1": block.attention_norm,
        "norm2": block.norm,
    }
    for name, layer in pairs.items():
        copies |= {f"{name}.weight": layer.weight, f"{name}.bias": layer.bias}
    reference.load_state_dict(copies)
    x, unseen = torch.randn(3, 7, 32), torch.zeros(3, 7, dtype=torch.bool)
    if masked:
        unseen[0, 4:] = unseen[2, 1:] = True
    bias = (unseen * -1e4).unsqueeze(1).unsqueeze(1) if masked else None
    expected = reference.train()(x, src_key_padding_mask=unseen if masked else None)
    torch.testing.assert_close(block(x, bias, False), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("settings", [SMALL, NUMBERS, LANGUAGE], ids=["tokens", "numbers", "gpt"])
def test_one_sample_and_one_step(settings):
    model = make(settings)
    x, _ = sequences(settings, [1])
    shape = (1, 1, 50) if settings is LANGUAGE else (1, 5)
    assert model(x).shape == shape
    torch.testing.assert_close(model(x, torch.tensor([1])), model(x))


def test_sinusoids_are_the_papers_and_of_any_length():
    table = sinusoids(30, 8, torch.device("cpu"))
    position, pair = 17, 2
    angle = position / 10_000 ** (2 * pair / 8)
    assert table[position, pair].item() == pytest.approx(math.sin(angle), abs=1e-6)
    assert table[position, 4 + pair].item() == pytest.approx(math.cos(angle), abs=1e-6)
    model = make(KINDS["sinusoidal"])
    assert not any("position" in name for name in model.state_dict())
    assert model(torch.ones(1, 40, dtype=torch.long)).shape == (1, 5)


def test_a_sequence_beyond_the_positions_is_named():
    message = (
        "a sequence of 13 steps; this Transformer has positions for 12. "
        "Cut the sequence, or set `max_length` and train anew."
    )
    with pytest.raises(ShapeMismatch, match=re.escape(message)):
        make(SMALL)(torch.ones(2, 13, dtype=torch.long))


def test_positions_behind_a_strided_convolution_suffice():
    settings = {**NUMBERS, "front_width": 10, "front_stride": 5, "max_length": 12}
    model = make(settings)
    assert len(model.positions.weight) == 3
    assert model(torch.randn(1, 12, 3)).shape == (1, 5)


def test_weights_start_as_in_gpt_2():
    torch.manual_seed(0)
    settings = {"vocabulary": 500, "width": 64, "heads": (4,) * 8, "feed_forward": (256,) * 8}
    block = Transformer(TransformerConfig(**settings)).layers[3]
    for layer in (block.attention.query, block.expand):
        assert layer.weight.std().item() == pytest.approx(0.02, rel=0.05)
    for layer in (block.attention.output, block.contract):
        assert layer.weight.std().item() == pytest.approx(0.02 / 4, rel=0.05)
        assert not layer.bias.any()


def test_dropout_acts_in_training_only():
    model = make({**SMALL, "dropout": 0.5}).train()
    x, lengths = sequences(SMALL, [12, 5])
    assert not torch.equal(model(x, lengths), model(x, lengths))
    model.eval()
    assert torch.equal(model(x, lengths), model(x, lengths))


def test_bf16_autocast_takes_masks():
    model, (x, lengths) = make(SMALL), sequences(SMALL, [12, 5])
    with torch.autocast("cpu", torch.bfloat16):
        found = model(x, lengths)
    torch.testing.assert_close(found.float(), model(x, lengths), atol=0.1, rtol=0.1)


@pytest.mark.parametrize("name", ["mean", "causal", "own embedding"])
def test_attention_maps_are_those_of_the_forward_pass(name):
    settings = KINDS[name]
    model, (x, lengths) = make(settings), sequences(settings, [12, 5, 9])
    maps = attention_maps(model, (x, lengths))
    assert [table.shape for table in maps] == [(3, 2, 12, 12), (3, 3, 12, 12)]
    for table in maps:
        torch.testing.assert_close(table.sum(dim=3), torch.ones(table.shape[:3]))
        if settings.get("causal"):
            assert not table.triu(1).any()
        else:
            assert not table[1, :, :, 5:].any()
    seen = []
    attention = model.layers[1].attention
    hook = attention.register_forward_hook(
        lambda _, inputs, output: seen.append((inputs[0], output))
    )
    model(x, lengths)
    hook.remove()
    (entered, left), (_, heads, _, _) = seen[0], maps[1].shape
    values = attention.value(entered).unflatten(2, (heads, 8)).transpose(1, 2)
    mixed = attention.output((maps[1] @ values).transpose(1, 2).flatten(2))
    torch.testing.assert_close(mixed, left, atol=1e-5, rtol=1e-5)
    assert not model.training
    assert all(not module._forward_pre_hooks for module in model.modules())


@pytest.mark.parametrize("kind", ["heads", "feed_forward"])
@pytest.mark.parametrize("settings", [SMALL, LANGUAGE, NUMBERS], ids=["tokens", "gpt", "numbers"])
def test_units_that_act_on_nothing_can_be_cut(settings, kind):
    model = make(settings)
    assert isinstance(model, Prunable)
    groups = [group for group in model.prune_groups() if group.kind == kind]
    assert [group.units for group in groups] == list(settings[kind])
    kept, state = {}, model.state_dict()
    for group in groups:
        kept[group.name] = torch.arange(group.units)[1::2]
        for piece in group.pieces:
            if piece.outgoing:
                state[piece.tensor].index_fill_(piece.dim, piece.rows[0::2].flatten(), 0)
    smaller, spec = cut(model, spec_of(model), kept, groups)
    assert spec.config[kind] == [units // 2 for units in settings[kind]]
    x, lengths = sequences(settings, [12, 5])
    torch.testing.assert_close(smaller(x, lengths), model(x, lengths), atol=1e-6, rtol=0)


def test_cutting_what_acts_changes_the_result():
    model = make(SMALL)
    group = model.prune_groups()[0]
    smaller, _ = cut(model, spec_of(model), {group.name: torch.tensor([1])}, [group])
    x, lengths = sequences(SMALL, [12, 5])
    assert (smaller(x, lengths) - model(x, lengths)).abs().max() > 1e-3


@pytest.mark.parametrize("name", [name for name in KINDS if name != "sinusoidal"])
def test_width_is_cut_everywhere(name):
    settings = KINDS[name]
    model = make(settings)
    (group,) = (group for group in model.prune_groups() if group.kind == "width")
    kept = torch.tensor([1, 2, 5, 6, 7, 15])
    smaller, spec = cut(model, spec_of(model), {"width": kept}, [group])
    assert smaller.config.width == spec.config["width"] == 6
    state, before = smaller.state_dict(), model.state_dict()
    assert torch.equal(state["layers.1.contract.weight"], before["layers.1.contract.weight"][kept])
    assert torch.equal(state["layers.0.expand.weight"], before["layers.0.expand.weight"][:, kept])
    if settings.get("pooling") == "mean_max":
        columns = torch.cat([kept, kept + 16])
        assert torch.equal(state["head.weight"], before["head.weight"][:, columns])
    assert smaller(*sequences(settings, [12, 5])).isfinite().all()


def test_a_width_that_does_nothing_still_counts_in_the_statistics():
    """Why cutting the width is not exact, and the other groups are."""
    model = make(SMALL)
    (group,) = (group for group in model.prune_groups() if group.kind == "width")
    state = model.state_dict()
    for piece in group.pieces:
        if piece.outgoing:
            state[piece.tensor].index_fill_(piece.dim, piece.rows[0], 0)
    smaller, _ = cut(model, spec_of(model), {"width": torch.arange(1, 16)}, [group])
    x, lengths = sequences(SMALL, [12, 5])
    assert (smaller(x, lengths) - model(x, lengths)).abs().max() > 1e-4


def test_sinusoids_keep_their_width():
    kinds = {group.kind for group in make(KINDS["sinusoidal"]).prune_groups()}
    assert kinds == {"heads", "feed_forward"}


@pytest.mark.parametrize("layer", [0, 1])
def test_a_layer_that_adds_nothing_can_go(layer):
    model = make(SMALL)
    block = model.layers[layer]
    for part in (block.attention.output, block.contract):
        nn.init.zeros_(part.weight)
        nn.init.zeros_(part.bias)
    config, names = model.without_layer(layer)
    smaller = build(ModelSpec(architecture="transformer", config=config)).eval()
    state = model.state_dict()
    smaller.load_state_dict({new: state[old] for new, old in names.items()})
    assert smaller.config.heads == (SMALL["heads"][1 - layer],)
    x, lengths = sequences(SMALL, [12, 5])
    torch.testing.assert_close(smaller(x, lengths), model(x, lengths), atol=1e-6, rtol=0)


def test_which_layers_cannot_go():
    with pytest.raises(ValueError, match="layer 0 is the only one"):
        make({**SMALL, "heads": (2,), "feed_forward": (8,)}).without_layer(0)
    with pytest.raises(IndexError, match="no layer 2; this Transformer has 2"):
        make(SMALL).without_layer(2)


@pytest.mark.parametrize(
    "settings",
    [
        {**SMALL, "positions": "sinusoidal", "pooling": "last"},
        {**NUMBERS, "front_width": 10, "front_stride": 3, "pooling": "mean_max"},
    ],
    ids=["tokens", "numbers"],
)
def test_export_has_any_batch_and_length(settings, tmp_path):
    model = make(settings)
    evidence = export(
        model, sequences(settings, [12, 7, 12, 1]), tmp_path / "m.onnx", sequences=True
    )
    assert evidence["max_difference"] < 1e-4
    session = ort.InferenceSession(tmp_path / "m.onnx")
    for lengths in ([1], [6, 6, 2], [11, 3]):
        x, steps = sequences(settings, lengths)
        (found,) = session.run(None, {"input": x.numpy(), "lengths": steps.numpy()})
        torch.testing.assert_close(torch.from_numpy(found), model(x, steps), atol=1e-4, rtol=1e-4)


def test_export_of_a_language_model_is_small(tmp_path):
    model = make(LANGUAGE)
    x, _ = sequences(LANGUAGE, [12, 12, 12])
    evidence = export(model, (x,), tmp_path / "m.onnx", sequences=True)
    # In each block 6 with weights and 2 of attention, and the head.
    assert evidence["operators"] == {"MatMul": {"fp32": 2 * 8 + 1}}
    (found,) = ort.InferenceSession(tmp_path / "m.onnx").run(None, {"input": x[:2, :5].numpy()})
    torch.testing.assert_close(torch.from_numpy(found), model(x[:2, :5]), atol=1e-4, rtol=1e-4)

"""Masked-token pretraining: what is hidden, what is computed, and that it learns."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Generator

from compress.data.task import Split
from compress.errors import InputError
from compress.models.sequence_configs import TransformerConfig
from compress.models.transformer import Transformer
from compress.training.batches import Batch
from compress.training.loop import fit
from compress.training.pretrain_config import PretrainConfig
from compress.training.pretraining import MaskedBatches, MaskedTokens, hide, masked_loss

SETTINGS = {
    "vocabulary": 20,
    "width": 16,
    "heads": (2,),
    "head_width": 8,
    "feed_forward": (32,),
    "max_length": 16,
}


def make(**settings):
    torch.manual_seed(0)
    return Transformer(TransformerConfig(**{**SETTINGS, **settings}))


def make_split(count=64, seed=0, longest=16):
    """Sequences of one token each, so that the others tell a hidden one."""
    random = np.random.default_rng(seed)
    lengths = torch.from_numpy(random.integers(4, longest + 1, count))
    kinds = torch.from_numpy(random.integers(0, 17, count))
    tokens = (3 + kinds).unsqueeze(1).repeat(1, longest)
    tokens[torch.arange(longest) >= lengths.unsqueeze(1)] = 0
    return Split(tokens, torch.zeros(count), np.arange(count), lengths)


def seeded(seed=0):
    return Generator().manual_seed(seed)


def test_shares_of_what_is_hidden():
    tokens = torch.randint(3, 1000, (200, 500), generator=seeded())
    shown, places, targets = hide(tokens, 1000, 0.2, seeded(1))
    assert len(places) / tokens.numel() == pytest.approx(0.2, abs=0.01)
    assert torch.equal(targets, tokens.flatten()[places])
    seen = shown.flatten()[places]
    assert (seen == 2).float().mean().item() == pytest.approx(0.8, abs=0.01)
    assert (seen == targets).float().mean().item() == pytest.approx(0.1, abs=0.01)
    other = seen[(seen != 2) & (seen != targets)]
    assert len(other) / len(seen) == pytest.approx(0.1, abs=0.01)
    assert other.min() >= 3
    assert other.max() > 900
    untouched = torch.ones(tokens.numel(), dtype=torch.bool)
    untouched[places] = False
    assert torch.equal(shown.flatten()[untouched], tokens.flatten()[untouched])


def test_special_tokens_are_never_asked_for():
    tokens = torch.randint(0, 6, (50, 40), generator=seeded())
    shown, places, targets = hide(tokens, 6, 0.5, seeded(1))
    assert targets.min() == 3
    special = tokens < 3
    assert torch.equal(shown[special], tokens[special])
    assert not special.flatten()[places].any()


def test_batches_hold_sequences_of_like_length_and_are_new_every_epoch():
    batches = MaskedBatches(make_split(200), 8, 20, 0.3)
    assert batches.steps == 25
    first, again, second = (list(batches.epoch(0, seeded(seed))) for seed in (0, 0, 1))
    assert len(first) == 25
    for batch, same in zip(first, again, strict=True):
        tokens, lengths, places = batch.inputs
        assert tokens.shape == (8, int(lengths.max()))
        assert len(places) == len(batch.targets)
        assert all(torch.equal(a, b) for a, b in zip(batch.inputs, same.inputs, strict=True))
    padding = sum(int((b.inputs[1].max() - b.inputs[1]).sum()) for b in first)
    assert padding < 0.1 * sum(batch.inputs[0].numel() for batch in first)
    assert any(len(a.targets) != len(b.targets) for a, b in zip(first, second, strict=True))


def test_batches_of_one_length_need_no_lengths():
    tokens = torch.randint(3, 20, (10, 6), generator=seeded())
    split = Split(tokens, torch.zeros(10), np.arange(10))
    (batch, _) = MaskedBatches(split, 5, 20).epoch(0, seeded())
    assert batch.inputs[1].tolist() == [6] * 5


def test_logits_are_those_of_the_hidden_places_alone():
    model = make().eval()
    masked = MaskedTokens(model).eval()
    (batch, *_) = MaskedBatches(make_split(), 8, masked.vocabulary, 0.3).epoch(0, seeded())
    tokens, lengths, places = batch.inputs
    logits = masked(tokens, lengths, places)
    assert logits.shape == (len(places), 20)
    hidden = masked.transform(model.features(tokens, lengths)[0])
    everywhere = F.linear(hidden, model.front.tokens.weight, masked.bias).flatten(0, 1)
    torch.testing.assert_close(logits, everywhere[places])
    expected = F.cross_entropy(logits, batch.targets)
    torch.testing.assert_close(masked_loss(logits, batch), expected)


def test_dropout_is_off_until_the_model_is_trained_on_its_own():
    model = make(dropout=0.5)
    masked = MaskedTokens(model)
    masked.train()
    assert masked.training
    inputs = torch.randint(3, 20, (2, 6)), torch.tensor([6, 6]), torch.arange(12)
    assert torch.equal(masked(*inputs), masked(*inputs))
    model.train()
    assert not torch.equal(model(*inputs[:2]), model(*inputs[:2]))


def test_what_is_not_asked_for_gives_no_gradient():
    masked = MaskedTokens(make())
    tokens, lengths = torch.full((2, 6), 5), torch.tensor([6, 6])
    batch = Batch((tokens, lengths, torch.tensor([1])), torch.tensor([7]))
    masked_loss(masked(*batch.inputs), batch).backward()
    # The bias of each token sees one decision: softmax minus the one that was right.
    assert masked.bias.grad.sum().item() == pytest.approx(0, abs=1e-5)
    assert masked.bias.grad[7].item() < -0.5


def test_a_batch_without_hidden_tokens_costs_nothing():
    masked = MaskedTokens(make())
    none = torch.zeros(0, dtype=torch.long)
    batch = Batch((torch.ones(2, 4, dtype=torch.long), torch.tensor([4, 4]), none), none)
    loss = masked_loss(masked(*batch.inputs), batch)
    loss.backward()
    assert loss.item() == 0
    assert all(p.grad is None or not p.grad.any() for p in masked.parameters())


def test_it_learns_and_the_model_keeps_what_was_learnt():
    model = make()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    masked = MaskedTokens(model)
    config = PretrainConfig(epochs=8, batch_size=16, learning_rate=2e-2, precision="fp32")
    batches = MaskedBatches(make_split(256), config.batch_size, masked.vocabulary, config.mask)
    result = fit(masked, batches, masked_loss, config)
    assert result.losses[0] > 0.7 * math.log(17)
    assert result.losses[-1] < 0.3 * result.losses[0]
    assert not model.training
    after = model.state_dict()
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert set(before) - moved == {"head.weight", "head.bias"}
    row = torch.tensor([[9, 9, 9, 2, 9, 9, 9]])
    assert masked(row, torch.tensor([7]), torch.tensor([3])).argmax().item() == 9


def test_an_embedding_narrower_than_the_model():
    masked = MaskedTokens(make(embedding=6))
    tokens, lengths = torch.full((2, 5), 4), torch.tensor([5, 3])
    assert masked(tokens, lengths, torch.tensor([0, 6])).shape == (2, 20)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"vocabulary": 0, "in_features": 3}, "masked tokens need an encoder of tokens"),
        ({"causal": True}, "it sees no token behind the hidden one"),
        ({"front_width": 8}, "its steps are no tokens"),
        ({"vocabulary": 3}, "3 tokens, of which 3 are special"),
    ],
)
def test_models_that_cannot_be_pretrained_are_named(settings, message):
    with pytest.raises(InputError, match=message):
        MaskedTokens(make(**settings))


def test_settings_refuse_nonsense():
    assert PretrainConfig().optimizer == "adamw"
    for wrong in ({"mask": 0}, {"mask": 0.6}, {"share": 0.2}):
        with pytest.raises(ValueError):
            PretrainConfig(**wrong)

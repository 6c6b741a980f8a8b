"""Generation against models whose next token is known."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from compress.errors import InputError
from compress.models.generation import generate
from compress.models.rnn import Recurrent
from compress.models.sequence_configs import RecurrentConfig, TransformerConfig
from compress.models.transformer import Transformer


class Counter(nn.Module):
    """Says of every token that the next one follows; remembers how much it was shown."""

    def __init__(self, tokens=10, sharpness=20.0):
        super().__init__()
        self.config = TransformerConfig(
            vocabulary=tokens, outputs=tokens, causal=True, per_step=True, max_length=4
        )
        self.tokens, self.sharpness, self.shown = tokens, sharpness, []

    def forward(self, ids):
        assert not self.training
        self.shown.append(ids.shape[1])
        return self.sharpness * F.one_hot((ids + 1) % self.tokens, self.tokens).float()


def language_model(kind):
    torch.manual_seed(0)
    shared = {"vocabulary": 20, "outputs": 20, "per_step": True, "max_length": 8}
    if kind == "gpt":
        small = {"width": 16, "heads": (2,), "head_width": 8, "feed_forward": (32,)}
        return Transformer(TransformerConfig(causal=True, **small, **shared))
    return Recurrent(RecurrentConfig(widths=(16,), **shared))


def test_greedy_takes_the_likeliest_and_cuts_the_context():
    model = Counter().train()
    written = generate(model, torch.tensor([[3], [8]]), 6, temperature=0)
    assert written.tolist() == [[3, 4, 5, 6, 7, 8, 9], [8, 9, 0, 1, 2, 3, 4]]
    assert model.shown == [1, 2, 3, 4, 4, 4]
    assert model.training


def test_a_low_temperature_is_greedy_and_never_infinite():
    written = generate(Counter(), torch.tensor([[0]]), 5, temperature=1e-30)
    assert written.tolist() == [[0, 1, 2, 3, 4, 5]]


def test_draws_follow_the_model():
    logits = torch.tensor([0.5, 0.3, 0.15, 0.05]).log()

    class Fixed(Counter):
        def forward(self, ids):
            return logits.expand(*ids.shape, 4)

    prompt = torch.zeros(4000, 1, dtype=torch.long)
    generator = torch.Generator().manual_seed(0)
    drawn = generate(Fixed(4), prompt, 1, generator=generator)[:, 1]
    shares = drawn.bincount(minlength=4) / len(drawn)
    assert shares.tolist() == pytest.approx([0.5, 0.3, 0.15, 0.05], abs=0.03)
    drawn = generate(Fixed(4), prompt, 1, top_k=2, generator=generator)[:, 1]
    shares = drawn.bincount(minlength=4) / len(drawn)
    assert shares.tolist() == pytest.approx([0.625, 0.375, 0, 0], abs=0.03)
    drawn = generate(Fixed(4), prompt, 1, temperature=0.5, generator=generator)[:, 1]
    squares = torch.tensor([0.25, 0.09, 0.0225, 0.0025])
    shares = drawn.bincount(minlength=4) / len(drawn)
    assert shares.tolist() == pytest.approx((squares / squares.sum()).tolist(), abs=0.03)


@pytest.mark.parametrize("kind", ["gpt", "recurrent"])
def test_both_families_write_beyond_their_length(kind):
    model, prompt = language_model(kind), torch.tensor([[3, 4, 5], [6, 7, 8]])
    written = [
        generate(model, prompt, 12, temperature=1.0, generator=torch.Generator().manual_seed(seed))
        for seed in (0, 0, 1)
    ]
    assert written[0].shape == (2, 15)
    assert torch.equal(written[0][:, :3], prompt)
    assert torch.equal(written[0], written[1])
    assert not torch.equal(written[0], written[2])
    model.eval()
    greedy = generate(model, prompt, 1, temperature=0)
    assert torch.equal(greedy[:, -1], model(prompt)[:, -1].argmax(dim=1))


@pytest.mark.parametrize(
    ("prompt", "settings", "message"),
    [
        (torch.zeros(1, 0, dtype=torch.long), {}, r"a prompt of shape \(1, 0\); expected"),
        (torch.tensor([1, 2]), {}, r"a prompt of shape \(2,\); expected \(batch, time\)"),
        (torch.tensor([[1]]), {"temperature": -1.0}, "temperature -1, top_k 0; expected none"),
    ],
)
def test_bad_requests_are_named(prompt, settings, message):
    with pytest.raises(InputError, match=message):
        generate(Counter(), prompt, 2, **settings)


def test_a_classifier_cannot_write():
    small = {"vocabulary": 9, "width": 8, "heads": (1,), "head_width": 8, "feed_forward": (8,)}
    model = Transformer(TransformerConfig(**small))
    with pytest.raises(InputError, match="does not predict the next token at every step"):
        generate(model, torch.tensor([[1]]), 2)

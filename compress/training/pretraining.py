"""Masked-token pretraining (Devlin et al., 2018, arXiv:1810.04805): no labels are needed.

Some tokens are hidden, and the model has to tell which they were. Logits are computed where that is
asked only, and from the model's own token vectors, so that nothing large is trained besides it:

    masked = MaskedTokens(model)
    batches = MaskedBatches(split, config.batch_size, masked.vocabulary, config.mask)
    fit(masked, batches, masked_loss, config)

leaves `model` with the trained weights.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol, cast

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from compress.data.task import Split
from compress.errors import InputError
from compress.training.batches import Batch, shuffled

#: Tokens 0, 1 and 2 are padding, an unknown one, and the mask; none of them is asked for.
MASK_TOKEN = 2
SPECIAL_TOKENS = 3
#: Of the tokens that are asked for: shares that become the mask, and another token.
_MASKED, _RANDOM = 0.8, 0.1


class _Encoder(Protocol):
    def features(self, x: Tensor, lengths: Tensor | None) -> tuple[Tensor, Tensor | None]: ...


class MaskedTokens(nn.Module):
    """A model of tokens with a head that tells hidden ones, in place of its own.

    The head is BERT's: a linear layer, GELU, normalization, then the product with the token table
    and a bias for each token. Maps tokens (batch, time), lengths (batch,) and places (n,) in the
    flattened batch to logits (n, vocabulary). The model's dropout stays off: hidden tokens keep it
    from learning by heart, and it learns more (ALBERT, Lan et al., 2019, arXiv:1909.11942).
    """

    def __init__(self, model: nn.Module) -> None:
        """`model`: has `features` and `front.tokens`, and is trained in place.

        Raises:
            InputError: a model without tokens, that sees no later ones, or merges steps.
        """
        super().__init__()
        table = _token_table(model)
        self.model = model
        with torch.no_grad():
            one = torch.zeros(1, 1, dtype=torch.long, device=table.device)
            width = self._features(one, None).shape[2]
        self.transform = nn.Sequential(
            nn.Linear(width, table.shape[1]), nn.GELU(), nn.LayerNorm(table.shape[1])
        )
        self.bias = nn.Parameter(torch.zeros(len(table)))

    def train(self, mode: bool = True) -> MaskedTokens:
        """As of any module, but for dropout."""
        super().train(mode)
        for module in self.modules():
            if isinstance(module, nn.Dropout):
                module.eval()
        return self

    @property
    def vocabulary(self) -> int:
        """Number of tokens, special ones included."""
        return len(self.bias)

    def forward(self, tokens: Tensor, lengths: Tensor, places: Tensor) -> Tensor:
        asked = self._features(tokens, lengths).flatten(0, 1)[places]
        return F.linear(self.transform(asked), _token_table(self.model), self.bias)

    def _features(self, tokens: Tensor, lengths: Tensor | None) -> Tensor:
        """Hidden states of all steps, (batch, time, width)."""
        return cast(_Encoder, self.model).features(tokens, lengths)[0]


def _token_table(model: nn.Module) -> Tensor:
    """The vectors of all tokens, (vocabulary, width)."""
    name, config = type(model).__name__, getattr(model, "config", None)
    tokens = getattr(getattr(model, "front", None), "tokens", None)
    if not isinstance(tokens, nn.Embedding) or not hasattr(model, "features"):
        raise InputError(f"{name} cannot be pretrained: masked tokens need an encoder of tokens.")
    if getattr(config, "causal", False) or getattr(config, "front_width", 0):
        raise InputError(
            f"{name} cannot be pretrained: with `causal` it sees no token behind the hidden one, "
            "with `front_width` its steps are no tokens."
        )
    if len(tokens.weight) <= SPECIAL_TOKENS:
        raise InputError(
            f"{name} cannot be pretrained: it has {len(tokens.weight)} tokens, of which "
            f"{SPECIAL_TOKENS} are special; expected padding, unknown, mask, and others."
        )
    return tokens.weight


@dataclass(frozen=True)
class MaskedBatches:
    """Batches of sequences alike in length, some of their tokens hidden.

    Attributes:
        split: tokens (n, time); its targets are not looked at.
        batch_size: sequences a step.
        vocabulary: number of tokens, special ones included.
        share: of the tokens that are asked for; the rest, padding and special ones are not.
    """

    split: Split
    batch_size: int
    vocabulary: int
    share: float = 0.15

    @property
    def steps(self) -> int:
        return max(1, len(self.split) // self.batch_size)

    def epoch(self, number: int, generator: Generator) -> Iterator[Batch]:
        split = self.split
        for rows in shuffled(split.lengths, len(split), self.batch_size, generator):
            tokens, *rest = split.take(rows)
            lengths = rest[0] if rest else torch.full((len(tokens),), tokens.shape[1])
            hidden, places, targets = hide(tokens, self.vocabulary, self.share, generator)
            yield Batch((hidden, lengths, places), targets)


def hide(
    tokens: Tensor, vocabulary: int, share: float, generator: Generator
) -> tuple[Tensor, Tensor, Tensor]:
    """Choose tokens to ask for: 80 % become the mask, 10 % another token, 10 % stay.

    Those that stay keep the model from trusting whatever it sees in its place.

    Args:
        tokens: (batch, time); special ones, padding among them, are left alone.

    Returns:
        The tokens that the model is shown, (batch, time); places (n,) of those asked for in the
        flattened batch; and what they were, (n,).
    """
    flat = tokens.flatten()
    drawn = torch.rand(flat.shape, generator=generator)
    places = ((drawn < share) & (flat >= SPECIAL_TOKENS)).nonzero().flatten()
    targets, kind = flat[places], torch.rand(len(places), generator=generator)
    others = torch.randint(SPECIAL_TOKENS, vocabulary, targets.shape, generator=generator)
    shown = torch.where(kind < _MASKED, MASK_TOKEN, others)
    shown = torch.where(kind < _MASKED + _RANDOM, shown, targets)
    return flat.index_put((places,), shown).view_as(tokens), places, targets


def masked_loss(outputs: Tensor, batch: Batch) -> Tensor:
    """Cross-entropy in nats, mean over the hidden tokens; 0 where a batch has none.

    Args:
        outputs: (n, vocabulary), see `MaskedTokens`.
    """
    targets = batch.targets.to(outputs.device)
    return F.cross_entropy(outputs, targets, reduction="sum") / max(1, len(targets))

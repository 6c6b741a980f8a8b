"""What sequence models share: masks, the layers in front, and pooling over valid steps."""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from compress.models.sequence_configs import SequenceConfig

#: Primes that spread tokens over the rows of a hashed table: one for each place in an n-gram. So
#: small that products with characters are whole numbers in fp32, too, which OpenVINO computes in.
_PRIMES = (1, 15013, 9473, 5881, 13687, 3163, 11003, 7561)
#: The sum of a text's n-grams is multiplied by it: its values are seldom met, and learn that much
#: faster than other weights at the same rate.
_WIDE_SCALE = 10.0


def valid_steps(lengths: Tensor, time: int | torch.SymInt) -> Tensor:
    """Which steps belong to a sequence.

    Args:
        lengths: (batch,), at least 1.
        time: steps of the padded batch.

    Returns:
        (batch, time), True up to each length.
    """
    steps = torch.arange(time, device=lengths.device)  # type: ignore[arg-type]
    return steps.unsqueeze(0) < lengths.unsqueeze(1)


def pool(steps: Tensor, mask: Tensor | None, how: str) -> Tensor:
    """One row a sequence from (batch, time, width), padding left out; "mean", "max", "mean_max".

    Args:
        mask: (batch, time), see `valid_steps`; None where every step is valid.
    """
    parts = []
    if how in ("mean", "mean_max"):
        if mask is None:
            parts.append(steps.mean(dim=1))
        else:
            shares = mask.to(steps.dtype)
            total = (steps * shares.unsqueeze(2)).sum(dim=1)
            parts.append(total / shares.sum(dim=1, keepdim=True))
    if how in ("max", "mean_max"):
        if mask is not None:
            steps = steps.masked_fill(~mask.unsqueeze(2), -1e4)
        parts.append(steps.amax(dim=1))
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)


class Front(nn.Module):
    """Tokens to vectors, then a strided convolution over time, each where the model has one.

    Maps tokens (batch, time) or numbers (batch, time, in_features) to (batch, steps, width), and
    lengths to the lengths that are left.
    """

    def __init__(self, config: SequenceConfig, embedding: int) -> None:
        """`embedding`: width of a token's vector where the configuration leaves it open."""
        super().__init__()
        self.config = config
        self.tokens: nn.Embedding | None = None
        self.ngrams: nn.Embedding | None = None
        self.convolution: nn.Conv1d | None = None
        self.width = config.in_features
        if config.vocabulary:
            self.width = config.embedding or embedding
            self.tokens = _table(config.vocabulary, self.width)
        if config.ngrams:
            self.ngrams = _table(sum(config.ngrams.values()), config.ngram_width)
            joined = len(config.ngrams) * config.ngram_width
            self.mix = nn.Linear(joined, self.width, bias=False)
            nn.init.normal_(self.mix.weight, std=joined**-0.5)
        if config.front_width:
            self.convolution = nn.Conv1d(
                self.width, config.front_width, config.front_kernel, config.front_stride
            )
            self.width = config.front_width

    def forward(self, x: Tensor, lengths: Tensor | None) -> tuple[Tensor, Tensor | None]:
        mask = None if lengths is None else valid_steps(lengths, x.shape[1])
        vectors = x if self.tokens is None else self.tokens(x)
        if self.ngrams is not None:
            read = self.ngrams(ngram_rows(x, self.config.ngrams))
            vectors = vectors + self.mix(read.flatten(2))
        if self.convolution is None:
            return vectors, lengths
        if mask is not None and self.tokens is None:
            vectors = vectors.masked_fill(~mask.unsqueeze(2), 0.0)  # also where padding is NaN
        elif mask is not None:
            vectors = vectors * mask.unsqueeze(2).to(vectors.dtype)  # a third of the time in ONNX
        kernel, stride = self.config.front_kernel, self.config.front_stride
        left = (kernel - 1) // 2  # with kernel - 1 zeros in all, ⌈time / stride⌉ steps come out
        padded = F.pad(vectors.transpose(1, 2), (left, kernel - 1 - left))
        merged = F.relu(self.convolution(padded)).transpose(1, 2)
        if lengths is None:
            return merged, None
        assert mask is not None
        # ⌈length / stride⌉, counted: a division of whole numbers would be eight operators in ONNX.
        return merged, mask[:, ::stride].sum(dim=1)

    def writers(self) -> list[tuple[str, int]]:
        """Tensors that give a token's vector, and the dimension that is its width."""
        if self.tokens is None:
            return []
        return [("tokens.weight", 1), *([("mix.weight", 0)] if self.config.ngrams else [])]


class Wide(nn.Module):
    """What each n-gram of a text says for each output, summed: a linear model beside the deep one.

    Maps tokens (batch, time) and lengths (batch,) to (batch, outputs).
    """

    def __init__(self, config: SequenceConfig) -> None:
        super().__init__()
        self.orders = dict(config.wide)
        self.table = nn.Embedding(sum(config.wide.values()), config.outputs)
        nn.init.zeros_(self.table.weight)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, tokens: Tensor, lengths: Tensor | None) -> Tensor:
        said = self.table(ngram_rows(tokens, self.orders))
        if lengths is None:
            heard = self.dropout(torch.ones_like(tokens, dtype=said.dtype))
            count = torch.full_like(heard[:, :1], 1.0) * tokens.shape[1]
        else:
            heard = self.dropout(valid_steps(lengths, tokens.shape[1]).to(said.dtype))
            count = lengths.unsqueeze(1).to(said.dtype)
        total: Tensor = (said * heard[:, :, None, None]).sum(dim=(1, 2))
        return total * (_WIDE_SCALE * count.rsqrt())


def ngram_rows(tokens: Tensor, orders: Mapping[int, int]) -> Tensor:
    """For each order the row of every token and those before it, in one table for all orders.

    Before the first token stand zeros. The hash is a product with a matrix of primes, so that it
    takes few operators when exported.

    Args:
        tokens: (batch, time), int64.
        orders: number of tokens to rows that are theirs, one part of the table after the other.

    Returns:
        (batch, time, orders).
    """
    longest, device = max(orders), tokens.device
    padded = F.pad(tokens, (longest - 1, 0))
    steps = torch.arange(tokens.shape[1], device=device).unsqueeze(1)
    places = steps + torch.arange(longest - 1, -1, -1, device=device)  # a token, the one before, …
    # One Gather in ONNX, where an index in brackets would be a GatherND between two transposes.
    windows: Tensor = padded.index_select(1, places.flatten()).unflatten(1, (-1, longest))
    primes = torch.tensor(
        [[_PRIMES[place] if place < order else 0 for order in orders] for place in range(longest)],
        device=device,
    )
    rows = torch.tensor(list(orders.values()), device=device)
    return windows @ primes % rows + (rows.cumsum(0) - rows)


def _table(rows: int, width: int) -> nn.Embedding:
    table = nn.Embedding(rows, width)
    nn.init.normal_(table.weight, std=width**-0.5)
    return table

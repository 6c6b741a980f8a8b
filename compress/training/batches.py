"""What the training loop is fed: shuffled batches of a split."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Generator, Tensor

from compress.data.task import Augment, Inputs, Split

#: Sequences are sorted by length within so many shuffled batches: little padding, still random.
_POOL = 10


@dataclass(frozen=True)
class Batch:
    """Samples of one step.

    Attributes:
        inputs: what the model is called with: (batch, …), and lengths (batch,) of sequences.
        targets: (batch, …), class indices, tokens or values.
        teacher_logits: the teacher's outputs for these inputs, where a teacher takes part.
    """

    inputs: Inputs
    targets: Tensor
    teacher_logits: Tensor | None = None


class Batches(Protocol):
    """A source of batches; `epoch` gives the same ones for equal epoch and generator state."""

    @property
    def steps(self) -> int: ...

    def epoch(self, number: int, generator: Generator) -> Iterator[Batch]: ...


@dataclass(frozen=True)
class LabelledBatches:
    """Batches with labels; the last incomplete one is left out, as its statistics are poorer."""

    split: Split
    batch_size: int
    augment: Augment | None = None

    @property
    def steps(self) -> int:
        return max(1, len(self.split) // self.batch_size)

    def epoch(self, number: int, generator: Generator) -> Iterator[Batch]:
        for rows in shuffled(self.split.lengths, len(self.split), self.batch_size, generator):
            inputs = self.split.take(rows)
            if self.augment is not None:
                inputs = self.augment(inputs, generator)
            yield Batch(inputs, self.split.targets[rows])


def shuffled(
    lengths: Tensor | None, count: int, batch_size: int, generator: Generator
) -> list[Tensor]:
    """Positions of one epoch's batches, all but the last incomplete one.

    Args:
        lengths: (count,), steps of each sequence: those of a batch are then alike; None for none.
    """
    order = torch.randperm(count, generator=generator)
    complete = max(1, count // batch_size)
    if lengths is None:
        return list(order.split(batch_size)[:complete])
    order = order[: complete * batch_size]
    pools = order.split(_POOL * batch_size)
    sorted_pools = [pool[lengths[pool].argsort(stable=True)] for pool in pools]
    batches = [batch for pool in sorted_pools for batch in pool.split(batch_size)]
    return [batches[place] for place in torch.randperm(len(batches), generator=generator).tolist()]

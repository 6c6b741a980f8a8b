"""What the training loop is fed: shuffled batches of a split."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Generator, Tensor

from compress.data.task import Augment, Split


@dataclass(frozen=True)
class Batch:
    """Samples of one step.

    Attributes:
        inputs: (batch, …).
        targets: (batch,), class indices.
        teacher_logits: (batch, classes) where a teacher takes part.
    """

    inputs: Tensor
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
        order = torch.randperm(len(self.split), generator=generator)
        for rows in order.split(self.batch_size)[: self.steps]:
            inputs = self.split.inputs[rows]
            if self.augment is not None:
                inputs = self.augment(inputs, generator)
            yield Batch(inputs, self.split.targets[rows])

"""A task: data with its three splits, the augmentation, and the metric."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import Generator, Tensor

#: Takes a batch of inputs (batch, …) and a random generator, gives a batch of the same shape.
Augment = Callable[[Tensor, Generator], Tensor]


@dataclass(frozen=True)
class Split:
    """Samples of one split.

    Attributes:
        inputs: (n, …), preprocessed as the model expects it.
        targets: (n,), class indices.
        indices: (n,), positions in the source, so that a split can be named and compared.
    """

    inputs: Tensor
    targets: Tensor
    indices: npt.NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.targets)

    def subset(self, rows: Tensor) -> Split:
        """The samples at those positions."""
        return Split(self.inputs[rows], self.targets[rows], self.indices[rows.numpy()])


@dataclass(frozen=True)
class Metric:
    """What a task is judged by.

    Attributes:
        name: as shown to people, such as "accuracy".
        higher_is_better: False for losses and errors.
        score: takes outputs (n, …) and targets (n,), gives one score a sample, (n,); the metric is
            their mean, so that two models can be compared sample by sample.
    """

    name: str
    higher_is_better: bool
    score: Callable[[npt.NDArray[np.float32], npt.NDArray[np.int64]], npt.NDArray[np.float64]]


@dataclass(frozen=True)
class Task:
    """Data and what it means to be right on it.

    Attributes:
        name: the data reference.
        train: fits and calibrates.
        validation: decides everything that is chosen.
        test: is only reported.
        metric: what the budget is about.
        classes: names of the classes, in the order of the model's outputs.
        facts: what a reference model has to know of the data, see `models.references.resolve`.
        augment: random changes of a training batch that keep its meaning; None for none.
        preprocessing: how raw data became `inputs`, in words and numbers, for the card.
    """

    name: str
    train: Split
    validation: Split
    test: Split
    metric: Metric
    classes: tuple[str, ...]
    facts: dict[str, Any]
    augment: Augment | None = None
    preprocessing: dict[str, Any] = field(default_factory=dict)


def top1(
    outputs: npt.NDArray[np.float32], targets: npt.NDArray[np.int64]
) -> npt.NDArray[np.float64]:
    """1.0 where the largest of (n, classes) outputs is the target's, else 0.0; shape (n,)."""
    hits: npt.NDArray[np.float64] = (outputs.argmax(axis=1) == targets).astype(np.float64)
    return hits


ACCURACY = Metric("accuracy", higher_is_better=True, score=top1)

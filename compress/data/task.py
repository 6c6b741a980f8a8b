"""A task: data with its three splits, the augmentation, and the metric."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Generator, Tensor

from compress.errors import InputError

#: What a model is called with: inputs (batch, …), and lengths (batch,) where samples have them.
Inputs = tuple[Tensor, ...]
#: Takes a batch of such inputs and a random generator, gives one of as many samples.
Augment = Callable[[Inputs, Generator], Inputs]
#: Outputs and targets to one score a sample, (n,).
Score = Callable[[npt.NDArray[np.float32], npt.NDArray[Any]], npt.NDArray[np.float64]]

#: "classification": outputs (n, classes), targets (n,); "language model": outputs
#: (n, time, classes), targets (n, time); "regression": outputs and targets (n, values).
Kind = Literal["classification", "language model", "regression"]


@dataclass(frozen=True)
class Split:
    """Samples of one split.

    Attributes:
        inputs: (n, …), preprocessed as the model expects it; sequences (n, time, …) are filled up
            with zeros behind their end.
        targets: (n,) class indices, (n, time) tokens, or (n, values).
        indices: (n,), positions in the source, so that a split can be named and compared.
        lengths: (n,), steps of each sequence, at least 1; None where all samples are of one size.
    """

    inputs: Tensor
    targets: Tensor
    indices: npt.NDArray[np.int64]
    lengths: Tensor | None = None

    def __post_init__(self) -> None:
        """Refuse what no model could read: samples without targets, lengths outside the data."""
        if not len(self.inputs) == len(self.targets) == len(self.indices):
            raise InputError(
                f"a split with {len(self.inputs)} inputs, {len(self.targets)} targets and "
                f"{len(self.indices)} indices; expected as many of each."
            )
        if self.lengths is None or not len(self.lengths):
            return
        low, high, steps = int(self.lengths.min()), int(self.lengths.max()), self.inputs.shape[1]
        if len(self.lengths) != len(self.inputs) or low < 1 or high > steps:
            raise InputError(
                f"sequence lengths from {low} to {high}; expected 1 to {steps}, one a sample. "
                "Leave empty sequences out, and cut longer ones."
            )

    def __len__(self) -> int:
        return len(self.targets)

    def subset(self, rows: Tensor) -> Split:
        """The samples at those positions."""
        lengths = None if self.lengths is None else self.lengths[rows]
        return Split(self.inputs[rows], self.targets[rows], self.indices[rows.numpy()], lengths)

    def take(self, rows: Tensor) -> Inputs:
        """What a model is called with for those samples, cut to the longest of them."""
        return trim(self.whole(), rows)

    def whole(self) -> Inputs:
        """The model's inputs for all samples, as they are stored."""
        return (self.inputs,) if self.lengths is None else (self.inputs, self.lengths)

    def typical(self, count: int) -> Inputs:
        """Inputs of `count` samples that stand for the split, shortest first.

        The first ones; of sequences those at evenly spaced ranks of length, so that one sample is
        the one of median length. Samples repeat where there are fewer than `count`.
        """
        if self.lengths is None:
            return self.take(torch.arange(count) % len(self))
        order = self.lengths.argsort(stable=True)
        places = ((torch.arange(count) + 0.5) / count * len(self)).long()
        return self.take(order[places])

    def chunks(self, size: int) -> list[Tensor]:
        """Positions of all samples in groups of `size`, alike in length where they have one."""
        order = torch.arange(len(self))
        if self.lengths is not None:
            order = self.lengths.argsort(stable=True)
        return list(order.split(size))


def trim(inputs: Inputs, rows: Tensor) -> Inputs:
    """The samples at those positions, cut to the longest of them."""
    if len(inputs) == 1:
        return (inputs[0][rows],)
    lengths = inputs[1][rows]
    return inputs[0][rows, : int(lengths.max())], lengths


@dataclass(frozen=True)
class Metric:
    """What a task is judged by.

    Attributes:
        name: as shown to people, such as "accuracy".
        higher_is_better: False for losses and errors.
        score: takes outputs (n, …) and targets (n, …), gives one score a sample, (n,); the metric
            is their mean, so that two models can be compared sample by sample.
    """

    name: str
    higher_is_better: bool
    score: Score


@dataclass(frozen=True)
class Task:
    """Data and what it means to be right on it.

    Attributes:
        name: the data reference.
        train: fits and calibrates.
        validation: decides everything that is chosen.
        test: is only reported.
        metric: what the budget is about.
        classes: names of the classes, tokens or values, in the order of the model's outputs.
        facts: what a reference model has to know of the data, see `models.references.resolve`.
        kind: what outputs and targets are.
        augment: random changes of a training batch that keep its meaning; None for none.
        preprocessing: how raw data became `inputs`, in words and numbers, for the card.
        simple: name to test metric of answers that need no model, such as the last season's value:
            what any model has to beat.
        further: name to score of metrics that are told beside the main one.
    """

    name: str
    train: Split
    validation: Split
    test: Split
    metric: Metric
    classes: tuple[str, ...]
    facts: dict[str, Any]
    kind: Kind = "classification"
    augment: Augment | None = None
    preprocessing: dict[str, Any] = field(default_factory=dict)
    simple: dict[str, float] = field(default_factory=dict)
    further: dict[str, Score] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Refuse tokens and targets that the task does not have, before a model fails on them."""
        parts = {"train": self.train, "validation": self.validation, "test": self.test}
        for name, split in parts.items():
            place = f"task '{self.name}', {name} split"
            if not len(split):
                raise InputError(f"{place}: is empty; every split needs samples.")
            vocabulary = self.facts.get("vocabulary")
            if vocabulary and not split.inputs.is_floating_point():
                _check_range(split.inputs, vocabulary, f"{place}: tokens", "the vocabulary has")
            if self.kind != "regression":
                _check_range(split.targets, len(self.classes), f"{place}: targets", "there are")

    @property
    def output_name(self) -> str:
        """What one column of the outputs is, in the plural."""
        names = {"classification": "classes", "language model": "tokens", "regression": "values"}
        return names[self.kind]

    @property
    def sequences(self) -> bool:
        """Whether samples have a time dimension, whose length a model must not rely on."""
        per_step = self.kind == "language model"
        return per_step or self.train.lengths is not None or "max_length" in self.facts

    def output_shape(self, inputs: Inputs) -> tuple[int, ...]:
        """Shape of the outputs that a model has to give for such inputs."""
        if self.kind == "language model":
            return (len(inputs[0]), inputs[0].shape[1], len(self.classes))
        return (len(inputs[0]), len(self.classes))


def _check_range(values: Tensor, count: int, what: str, there: str) -> None:
    low, high = int(values.min()), int(values.max())
    if low < 0 or high >= count:
        raise InputError(f"{what} from {low} to {high}; {there} {count}, counted from 0.")


def top1(outputs: npt.NDArray[np.float32], targets: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    """1.0 where the largest of (n, classes) outputs is the target's, else 0.0; shape (n,)."""
    hits: npt.NDArray[np.float64] = (outputs.argmax(axis=1) == targets).astype(np.float64)
    return hits


def bits(outputs: npt.NDArray[np.float32], targets: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    """Mean bits that each sequence's tokens cost under logits (n, time, tokens); shape (n,)."""
    largest = outputs.max(axis=2, keepdims=True)
    log_sum = np.log(np.exp(outputs - largest).sum(axis=2, dtype=np.float64)) + largest[..., 0]
    chosen = np.take_along_axis(outputs, targets[..., None], axis=2)[..., 0]
    cost: npt.NDArray[np.float64] = (log_sum - chosen).mean(axis=1) / np.log(2)
    return cost


def squared_error(
    outputs: npt.NDArray[np.float32], targets: npt.NDArray[Any]
) -> npt.NDArray[np.float64]:
    """Mean over the values of each sample's squared error, in the outputs' unit; shape (n,)."""
    errors = outputs.astype(np.float64) - targets
    found: npt.NDArray[np.float64] = (errors**2).reshape(len(errors), -1).mean(axis=1)
    return found


ACCURACY = Metric("accuracy", higher_is_better=True, score=top1)
BITS = Metric("bits per character", higher_is_better=False, score=bits)
MSE = Metric("mean squared error", higher_is_better=False, score=squared_error)

"""Metrics beside a task's own, as sums over samples, so that two models can be compared in them.

A mean such as cross-entropy is its own sum; macro F1 and perplexity are functions of several.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from compress.data.answers import Outputs
from compress.data.task import Score, Task

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class FurtherMetric:
    """A metric that is a function of means over samples.

    Attributes:
        terms: takes outputs and targets as the task has them, gives what each sample adds, (n, k).
        combine: takes the means of those terms (..., k), gives the metric (...).
    """

    name: str
    higher_is_better: bool
    terms: Callable[[Outputs, npt.NDArray[Any]], Floats]
    combine: Callable[[Floats], Floats]


def further_metrics(task: Task) -> dict[str, FurtherMetric]:
    """By name, all that a model can be told beside the task's metric."""
    better = task.metric.higher_is_better
    found = [_mean(name, better, score) for name, score in task.further.items()]
    if task.kind == "language model":
        bits = partial(_column, task.metric.score)
        found.append(FurtherMetric("perplexity", False, bits, lambda means: 2 ** means[..., 0]))
        found.append(_mean("next-token accuracy", True, _next_token))
    if task.kind == "classification":
        found.append(_mean("cross_entropy", False, cross_entropy))
        found.append(FurtherMetric("macro_f1", True, f1_terms, macro_f1))
    return {metric.name: metric for metric in found}


def _mean(name: str, higher_is_better: bool, score: Score) -> FurtherMetric:
    return FurtherMetric(
        name, higher_is_better, partial(_column, score), lambda means: means[..., 0]
    )


def _column(score: Score, outputs: Outputs, targets: npt.NDArray[Any]) -> Floats:
    return score(outputs, targets)[:, None].astype(np.float64)


def _next_token(outputs: Outputs, targets: npt.NDArray[Any]) -> Floats:
    hits: Floats = (outputs.argmax(axis=2) == targets).mean(axis=1)
    return hits


def cross_entropy(outputs: Outputs, targets: npt.NDArray[Any]) -> Floats:
    """Loss of each sample in nats, (n,), from logits (n, classes)."""
    shifted = outputs.astype(np.float64) - outputs.max(axis=1, keepdims=True)
    loss: Floats = np.log(np.exp(shifted).sum(axis=1)) - shifted[np.arange(len(targets)), targets]
    return loss


def f1_terms(outputs: Outputs, targets: npt.NDArray[Any]) -> Floats:
    """(n, 2 classes): whether a sample is a hit of each class, and how often it names the class.

    The second is the count of prediction and target, so that F1 = 2 hits / named.
    """
    classes = np.arange(outputs.shape[1])
    predicted, true = outputs.argmax(axis=1)[:, None] == classes, targets[:, None] == classes
    terms: Floats = np.hstack([predicted & true, predicted.astype(int) + true]).astype(np.float64)
    return terms


def macro_f1(means: Floats) -> Floats:
    """Mean F1 over the classes that are there or predicted, from means of `f1_terms`."""
    hits, named = np.split(means, 2, axis=-1)
    there = named > 0
    f1 = 2 * hits / np.where(there, named, 1.0)
    mean: Floats = f1.sum(axis=-1) / there.sum(axis=-1)
    return mean

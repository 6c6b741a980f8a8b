"""k-fold cross-validation on the training split: how much a figure depends on the samples."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import nn

from compress.data.splits import stratified_folds
from compress.data.task import Task
from compress.errors import InputError
from compress.progress import Progress, quiet
from compress.training.batches import LabelledBatches
from compress.training.config import TrainConfig
from compress.training.loop import fit
from compress.training.precision import Loss
from compress.training.validation import predict


def cross_validate(
    make: Callable[[], nn.Module],
    task: Task,
    config: TrainConfig,
    loss: Loss,
    *,
    seed: int = 0,
    device: str = "cpu",
    progress: Progress = quiet,
) -> dict[str, Any]:
    """Train a fresh model on all folds but one, score it on that one, for every fold.

    Args:
        make: gives a freshly initialised model.

    Raises:
        InputError: more folds than samples, or windows that overlap.

    Returns:
        The metric of each fold, their mean and standard deviation.
    """
    split = task.train
    if config.folds > len(split):
        raise InputError(f"folds: {config.folds} of {len(split)} samples; ask for fewer.")
    if task.kind == "regression":
        raise InputError(
            f"folds: the windows of task '{task.name}' overlap in time, so a fold would know its "
            "neighbours' answers; the validation split lies behind the training split instead."
        )
    values = []
    augment = task.augment if config.augment else None
    targets = split.targets.numpy()
    strata = targets if task.kind == "classification" else np.zeros(len(targets), dtype=np.int64)
    folds = stratified_folds(strata, config.folds, seed)
    for number, (fitted, held_out) in enumerate(folds):
        torch.manual_seed(seed + number)
        model = make()
        fit(
            model,
            LabelledBatches(split.subset(torch.from_numpy(fitted)), config.batch_size, augment),
            loss,
            config,
            seed=seed + number,
            device=device,
            progress=progress,
            label=f"fold {number + 1} of {config.folds}",
        )
        rest = split.subset(torch.from_numpy(held_out))
        scores = task.metric.score(predict(model, rest), rest.targets.numpy())
        values.append(float(scores.mean()))
    return {
        "metric": task.metric.name,
        "folds": values,
        "mean": statistics.fmean(values),
        "deviation": statistics.stdev(values),
    }

"""k-fold cross-validation on the training split: how much a figure depends on the samples."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from typing import Any

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
        InputError: more folds than samples.

    Returns:
        The metric of each fold, their mean and standard deviation.
    """
    split = task.train
    if config.folds > len(split):
        raise InputError(f"folds: {config.folds} of {len(split)} samples; ask for fewer.")
    values = []
    augment = task.augment if config.augment else None
    folds = stratified_folds(split.targets.numpy(), config.folds, seed)
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
        with torch.inference_mode():
            outputs = torch.cat([model(part) for part in rest.inputs.split(500)])
        scores = task.metric.score(outputs.float().numpy(), rest.targets.numpy())
        values.append(float(scores.mean()))
    return {
        "metric": task.metric.name,
        "folds": values,
        "mean": statistics.fmean(values),
        "deviation": statistics.stdev(values),
    }

"""A torch model's answers to a split, and its quality on the validation split."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from compress.data.answers import Outputs, answer
from compress.data.task import Split, Task


def predict(model: nn.Module, split: Split) -> Outputs:
    """Outputs for all samples, (n, …), in evaluation mode on the model's device."""
    device = next(model.parameters()).device
    model.eval()
    with torch.inference_mode():
        return answer(
            lambda inputs: model(*(part.to(device) for part in inputs)).float().cpu().numpy(),
            split,
        )


def validation(task: Task) -> Callable[[nn.Module], float]:
    """The task's metric on the validation split, turned so that larger is better."""
    sign = 1.0 if task.metric.higher_is_better else -1.0

    def value(model: nn.Module) -> float:
        outputs = predict(model, task.validation)
        scores = task.metric.score(outputs, task.validation.targets.numpy())
        return sign * float(scores.mean())

    return value

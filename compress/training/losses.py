"""What training on labels minimises, for each kind of task."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from compress.data.task import Kind
from compress.errors import InputError
from compress.training.batches import Batch
from compress.training.precision import Loss


def label_loss(kind: Kind, label_smoothing: float = 0.0) -> Loss:
    """Cross-entropy in nats, mean over samples or tokens; for regression the mean squared error.

    Raises:
        InputError: labels that are values have no other classes to smooth over.
    """
    if kind == "regression" and label_smoothing:
        raise InputError("label_smoothing: this task has values and no classes; leave it out.")

    def loss(outputs: Tensor, batch: Batch) -> Tensor:
        targets = batch.targets.to(outputs.device)
        if kind == "regression":
            return F.mse_loss(outputs, targets)
        # One row a decision: a language model makes one a token.
        rows = outputs.reshape(-1, outputs.shape[-1])
        return F.cross_entropy(rows, targets.reshape(-1), label_smoothing=label_smoothing)

    return loss

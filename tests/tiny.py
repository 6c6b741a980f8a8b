"""A task and a model that train in a second; `tiny:task` and `tiny:model` are also references."""

from __future__ import annotations

from functools import partial
from itertools import pairwise

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from compress.data.augment import warp
from compress.data.task import ACCURACY, Split, Task
from compress.training.batches import Batch

CLASSES = ("horizontal", "vertical", "cross", "block")
SIDE = 12
SIZES = (120, 40, 60)


def task() -> Task:
    """Four shapes, 1 x 12 x 12, under noise; 120 / 40 / 60 samples, the same at every call."""
    random = np.random.default_rng(0)
    count = sum(SIZES)
    labels = np.arange(count) % len(CLASSES)
    images = random.normal(0.0, 0.25, (count, 1, SIDE, SIDE))
    for image, label in zip(images[:, 0], labels, strict=True):
        row, column = random.integers(3, SIDE - 4, 2)
        if label in (0, 2):
            image[row : row + 2, 1:-1] += 2.0
        if label in (1, 2):
            image[1:-1, column : column + 2] += 2.0
        if label == 3:
            image[row - 1 : row + 3, column - 1 : column + 3] += 2.0
    inputs, targets = torch.from_numpy(images.astype(np.float32)), torch.from_numpy(labels)
    bounds = np.cumsum([0, *SIZES])
    train, validation, test = (
        Split(inputs[low:high], targets[low:high], np.arange(low, high))
        for low, high in pairwise(bounds)
    )
    return Task(
        name="tiny:task",
        train=train,
        validation=validation,
        test=test,
        metric=ACCURACY,
        classes=CLASSES,
        facts={"classes": len(CLASSES), "in_channels": 1, "image_size": SIDE},
        augment=partial(warp, background=0.0, shift=1.0),
        preprocessing={"source": "drawn from seed 0"},
    )


def model(width: int = 8, classes: int = len(CLASSES)) -> nn.Module:
    """A model that is not one of the package's own: two convolutions, pooling, a linear layer."""
    return nn.Sequential(
        nn.Conv2d(1, width, 3, stride=2, padding=1),
        nn.BatchNorm2d(width),
        nn.ReLU(),
        nn.Conv2d(width, 2 * width, 3, padding=1),
        nn.BatchNorm2d(2 * width),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(2 * width, classes),
    )


def label_loss(outputs: Tensor, batch: Batch) -> Tensor:
    """Plain cross-entropy, as a loss for the training loop."""
    return F.cross_entropy(outputs, batch.targets)

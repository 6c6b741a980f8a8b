"""Tasks and a model that train in a second; all are also references, such as `tiny:sequences`."""

from __future__ import annotations

from functools import partial
from itertools import pairwise
from pathlib import Path

import numpy as np
import onnx
import torch
import torch.nn.functional as F
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn

from compress.data import augment
from compress.data.sequence_augment import distort_frames, distort_tokens
from compress.data.task import ACCURACY, BITS, MSE, Inputs, Split, Task
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
        augment=augment.images(partial(augment.warp, background=0.0, shift=1.0)),
        preprocessing={"source": "drawn from seed 0"},
    )


def sequences() -> Task:
    """Three classes of 3 to 12 steps of 4 numbers: up, down, or up and down again; under noise."""
    random = np.random.default_rng(1)
    count = sum(SIZES)
    labels, lengths = np.arange(count) % 3, random.integers(3, 13, count)
    inputs = np.zeros((count, 12, 4))
    for steps, label, length in zip(inputs, labels, lengths, strict=True):
        place = np.linspace(-1, 1, length)
        shape = (place, -place, 1 - 2 * np.abs(place))[label]
        steps[:length] = shape[:, None] * [1.5, -1.5, 1.0, 0.0]
        steps[:length] += random.normal(0.0, 0.25, (length, 4))
    train, validation, test = _splits(
        (torch.from_numpy(inputs.astype(np.float32)), torch.from_numpy(lengths)),
        torch.from_numpy(labels),
    )
    return Task(
        name="tiny:sequences",
        train=train,
        validation=validation,
        test=test,
        metric=ACCURACY,
        classes=("up", "down", "peak"),
        facts={"in_features": 4, "outputs": 3, "max_length": 12},
        augment=partial(distort_frames, longest=12, feature_mask=0.0),
    )


def tokens() -> Task:
    """Two classes of texts of 2 to 10 tokens: 3 to 6 stand in the one, 7 to 10 in the other."""
    random = np.random.default_rng(2)
    count = sum(SIZES)
    labels, lengths = np.arange(count) % 2, random.integers(2, 11, count)
    inputs = np.zeros((count, 10), dtype=np.int64)
    for text, label, length in zip(inputs, labels, lengths, strict=True):
        text[:length] = random.choice([1, 11], length)  # tokens that say nothing
        signs = random.permutation(length)[: 1 + length // 3]
        text[signs] = random.integers(3, 7, len(signs)) + 4 * label
    train, validation, test = _splits(
        (torch.from_numpy(inputs), torch.from_numpy(lengths)), torch.from_numpy(labels)
    )
    return Task(
        name="tiny:tokens",
        train=train,
        validation=validation,
        test=test,
        metric=ACCURACY,
        classes=("low", "high"),
        facts={"vocabulary": 12, "outputs": 2, "max_length": 10},
        augment=partial(distort_tokens, unknown=1, shortest=8),
    )


def language() -> Task:
    """Windows of 16 tokens that count from 0 to 5 round and round; 1 of 20 steps is any step."""
    random = np.random.default_rng(3)
    count = sum(SIZES)
    jumps = random.integers(6, size=(count, 17))
    steps = np.where(random.random(jumps.shape) < 0.05, jumps, 1)
    steps[:, 0] = jumps[:, 0]
    text = torch.from_numpy(steps.cumsum(axis=1) % 6)
    train, validation, test = _splits((text[:, :-1].contiguous(),), text[:, 1:].contiguous())
    return Task(
        name="tiny:language",
        train=train,
        validation=validation,
        test=test,
        metric=BITS,
        kind="language model",
        classes=tuple("abcdef"),
        facts={"vocabulary": 6, "outputs": 6, "per_step": True, "max_length": 16},
        simple={"uniform": float(np.log2(6))},
    )


def series() -> Task:
    """The next 4 values of a sine of any phase, from its last 10 under a little noise."""
    random = np.random.default_rng(4)
    phase = random.uniform(0, 2 * np.pi, (sum(SIZES), 1))
    values = np.sin(phase + 0.6 * np.arange(14)).astype(np.float32)
    past = values[:, :10] + random.normal(0.0, 0.05, (len(values), 10)).astype(np.float32)
    train, validation, test = _splits(
        (torch.from_numpy(past).unsqueeze(2),), torch.from_numpy(values[:, 10:].copy())
    )
    return Task(
        name="tiny:series",
        train=train,
        validation=validation,
        test=test,
        metric=MSE,
        kind="regression",
        classes=("step 1", "step 2", "step 3", "step 4"),
        facts={"in_features": 1, "outputs": 4, "max_length": 10},
        simple={"zero": float((test.targets**2).mean())},
    )


def _splits(inputs: Inputs, targets: Tensor) -> list[Split]:
    """The first 120 samples, the next 40, and the last 60."""
    parts = [np.arange(low, high) for low, high in pairwise(np.cumsum([0, *SIZES]))]
    return [Split(inputs[0][p], targets[p], p, *(part[p] for part in inputs[1:])) for p in parts]


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


def out_of_range(path: Path, name: str = "x", shape: tuple[int, ...] = (1, 12, 12)) -> Path:
    """A model that loads, and fails on every input: it takes the hundredth row of a few."""
    open_shape = ["n", *shape]
    given = helper.make_tensor_value_info(name, TensorProto.FLOAT, open_shape)
    made = helper.make_tensor_value_info("y", TensorProto.FLOAT, [*open_shape[:-1], 1])
    place = numpy_helper.from_array(np.array([99]), "place")
    node = helper.make_node("Gather", [name, "place"], ["y"], axis=len(shape))
    graph = helper.make_graph([node], "g", [given], [made], [place])
    opset = [helper.make_opsetid("", 18)]
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=9), path)
    return path

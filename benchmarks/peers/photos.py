"""Photos out of wheels, for a detector: crops of all of them, turned over half of the time.

Splits share no crop, but photos: there are eight, and people, whom the detector looks for, are on
three of them. Every second crop is of one of those.
"""

from __future__ import annotations

import io

import numpy as np
import numpy.typing as npt

from benchmarks.peers.inputs import SPLITS, Rows
from benchmarks.peers.packages import member

_IMAGES = ("scikit-image==0.26.0", "skimage/data")
_PEOPLE = (
    (_IMAGES[0], f"{_IMAGES[1]}/astronaut.png"),
    (_IMAGES[0], f"{_IMAGES[1]}/camera.png"),
    ("matplotlib==3.11.2", "matplotlib/mpl-data/sample_data/grace_hopper.jpg"),
)
_THINGS = tuple(
    (_IMAGES[0], f"{_IMAGES[1]}/{name}")
    for name in ("chelsea.png", "coffee.png", "motorcycle_left.png", "rocket.jpg", "horse.png")
)
_SIDE = 320


def crops(split: str, count: int) -> Rows:
    """Squares of 320 × 320 in three channels from 0 to 1 (YOLOv8)."""
    from PIL import Image

    people, things = (
        [Image.open(io.BytesIO(member(*place))).convert("RGB") for place in places]
        for places in (_PEOPLE, _THINGS)
    )
    random = np.random.default_rng(SPLITS.index(split))
    found = np.empty((count, 3, _SIDE, _SIDE), np.float32)
    for row in range(count):
        photos = people if row % 2 else things
        photo = photos[row // 2 % len(photos)]
        side = int(min(photo.size) * random.uniform(0.5, 1.0))
        left, top = (int(random.integers(0, full - side + 1)) for full in photo.size)
        part = photo.resize((_SIDE, _SIDE), Image.Resampling.BILINEAR, _box(left, top, side))
        pixels = np.asarray(part, np.float32) / 255
        found[row] = pixels[:, :: 1 - 2 * (row % 4 > 1)].transpose(2, 0, 1)
    return {"images": found}


def _box(left: int, top: int, side: int) -> tuple[int, int, int, int]:
    return left, top, left + side, top + side


def average_precision(found: npt.NDArray[np.float32], reference: npt.NDArray[np.float32]) -> float:
    """Area under precision over recall, what fp32 detects by 0.25 being all there is to be found.

    As in PASCAL VOC from 2010 on (Everingham et al.), over all classes at once: a detection is
    right where it overlaps one of its class by a half that no surer one has taken.

    Args:
        found, reference: (n, 4 + classes, places), centre, size and a score for each class.
    """
    truths = [_detected(image, 0.25) for image in reference]
    marked: list[tuple[float, bool]] = []
    for image, truth in zip(found, truths, strict=True):
        free = list(range(len(truth)))
        for score, label, box in _detected(image, 0.01):
            fits = [
                at for at in free if truth[at][1] == label and _overlap(truth[at][2], box) >= 0.5
            ]
            marked.append((score, bool(fits)))
            if fits:
                free.remove(max(fits, key=lambda at: _overlap(truth[at][2], box)))
    marked.sort(key=lambda entry: -entry[0])
    hits = np.cumsum([hit for _, hit in marked])
    precision = np.maximum.accumulate((hits / np.arange(1, len(hits) + 1))[::-1])[::-1]
    total = sum(map(len, truths))
    return float(precision[[hit for _, hit in marked]].sum() / total)


_Detection = tuple[float, int, npt.NDArray[np.float32]]


def _detected(image: npt.NDArray[np.float32], least: float) -> list[_Detection]:
    """Surest first, with class and corners; none that overlaps a surer one of its class."""
    scores, labels = image[4:].max(axis=0), image[4:].argmax(axis=0)
    centre, size = image[:2].T, image[2:4].T
    corners = np.concatenate([centre - size / 2, centre + size / 2], axis=1)
    kept: list[_Detection] = []
    for place in np.argsort(-scores, kind="stable"):
        if scores[place] < least:
            break
        label, box = int(labels[place]), corners[place]
        if all(label != other or _overlap(box, taken) < 0.5 for _, other, taken in kept):
            kept.append((float(scores[place]), label, box))
    return kept


def _overlap(one: npt.NDArray[np.float32], other: npt.NDArray[np.float32]) -> float:
    """Intersection over union of two boxes given by their corners."""
    sides = np.minimum(one[2:], other[2:]) - np.maximum(one[:2], other[:2])
    shared = float(np.maximum(sides, 0).prod())
    areas = float((one[2:] - one[:2]).prod() + (other[2:] - other[:2]).prod())
    return shared / max(areas - shared, 1e-9)

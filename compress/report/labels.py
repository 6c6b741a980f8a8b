"""Greedy placement of labels beside points so that none covers another.

Finding the best placement is NP-hard; the greedy rule over fixed candidate positions is the
baseline of Christensen, Marks & Shieber (1995, doi:10.1145/212332.212334).
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

_DIRECTIONS = ((1, 0), (-1, 0), (0.9, -0.9), (-0.9, -0.9), (0.9, 0.9), (-0.9, 0.9), (0, -1), (0, 1))
_DISTANCES = (10.0, 20.0, 34.0, 50.0, 70.0)


@dataclass(frozen=True)
class Box:
    """A rectangle in pixels; y grows downwards."""

    left: float
    top: float
    right: float
    bottom: float

    def overlap(self, other: Box) -> float:
        """The area shared with another box."""
        width = min(self.right, other.right) - max(self.left, other.left)
        height = min(self.bottom, other.bottom) - max(self.top, other.top)
        return max(0.0, width) * max(0.0, height)

    def inside(self, other: Box) -> bool:
        """Whether the box lies within another."""
        across = other.left <= self.left and self.right <= other.right
        return across and other.top <= self.top and self.bottom <= other.bottom


@dataclass(frozen=True)
class Label:
    """A label that was placed: its box, and whether it stands so far off that it needs a line."""

    text: str
    box: Box
    far: bool


def text_width(text: str, font_size: float) -> float:
    """A generous estimate of a text's width in a system sans-serif font, in pixels."""
    wide = sum(unicodedata.east_asian_width(letter) in "WF" for letter in text)
    return font_size * (0.58 * (len(text) - wide) + 1.05 * wide)


def place_labels(
    points: Sequence[tuple[float, float, str]],
    obstacles: Sequence[Box],
    frame: Box,
    font_size: float,
) -> list[Label]:
    """A place for the label of each point, the first points choosing first.

    Args:
        points: x, y and text.
        obstacles: what a label should not cover: markers, error bars, lines.
        frame: what a label must stay within, as far as any candidate position does.
        font_size: in pixels.
    """
    placed: list[Label] = []
    for x, y, text in points:
        reach = _DISTANCES[-1] + max(text_width(text, font_size), 2 * font_size)
        around = Box(x - reach, y - reach, x + reach, y + reach)
        taken = [label.box for label in placed if label.box.overlap(around)]
        near = [obstacle for obstacle in obstacles if obstacle.overlap(around)]
        choices = [
            (_cost(box, distance, taken, near, frame), Label(text, box, distance > 15))
            for distance in _DISTANCES
            for box in _boxes(x, y, text_width(text, font_size), font_size * 1.3, distance)
        ]
        placed.append(min(choices, key=lambda choice: choice[0])[1])
    return placed


def _boxes(x: float, y: float, width: float, height: float, distance: float) -> list[Box]:
    """The candidate positions around a point, in the order in which they are preferred."""
    boxes = []
    for right, down in _DIRECTIONS:
        left = x + right * distance - (0 if right > 0 else width if right < 0 else width / 2)
        middle = y + down * (distance + height / 2)
        boxes.append(Box(left, middle - height / 2, left + width, middle + height / 2))
    return boxes


def _cost(
    box: Box, distance: float, taken: Sequence[Box], obstacles: Sequence[Box], frame: Box
) -> float:
    cost = distance
    cost += sum(1000 + 50 * shared for other in taken if (shared := box.overlap(other)))
    cost += sum(25 + 2 * shared for other in obstacles if (shared := box.overlap(other)))
    return cost if box.inside(frame) else cost + 100_000


def spread(places: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """The nearest places, in the sense of least squares, that stand at least `gap` apart.

    Taking `gap` off once for each label before it turns the task into an isotonic regression, which
    pooling adjacent violators solves (Ayer et al., 1955, doi:10.1214/aoms/1177728423).

    Args:
        places: pixels, in any order; the answer keeps their order.
        low, high: bounds of the answer; where all do not fit, the last ones leave it.
    """
    order = sorted(range(len(places)), key=lambda index: places[index])
    pools: list[tuple[float, int]] = []
    for rank, index in enumerate(order):
        mean, size = places[index] - rank * gap, 1
        while pools and pools[-1][0] > mean:
            before, more = pools.pop()
            mean, size = (mean * size + before * more) / (size + more), size + more
        pools.append((mean, size))
    highest = max(low, high - (len(places) - 1) * gap)
    means = [min(max(mean, low), highest) for mean, size in pools for _ in range(size)]
    found = {
        index: mean + rank * gap
        for rank, (index, mean) in enumerate(zip(order, means, strict=True))
    }
    return [found[index] for index in range(len(places))]


def shortened(name: str, most: int = 26) -> str:
    """A name of at most `most` letters; a longer one ends in an ellipsis."""
    return name if len(name) <= most else name[: most - 1] + "…"

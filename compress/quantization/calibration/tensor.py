"""What is kept of one tensor, however many values it has over all samples."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from compress.quantization.calibration.histogram import Histogram

Array = npt.NDArray[Any]

#: Of a larger tensor the histogram takes evenly spread values, so many for each sample; the least
#: and the largest value are always exact. `benchmarks/calibration.py` has what it costs and saves.
SAMPLED = 2**16
#: Weight of a batch in the moving average, that of torch's MovingAverageMinMaxObserver.
MOMENTUM = 0.01


class NotFiniteError(Exception):
    """A tensor holds NaN or positive infinity."""


@dataclass
class Part:
    """What one run shows of a tensor.

    Attributes:
        count: values that are finite.
        masked: values that are minus infinity, as in the masked scores of attention.
        low, high: of all finite values; infinity and minus infinity where there is none.
        sample: (n,), the values that stand for all.
        weight: how many values each of the sample stands for.
        histogram: of the sample.
    """

    count: int
    masked: int
    low: float
    high: float
    sample: Array
    weight: int
    histogram: Histogram

    @classmethod
    def of(cls, values: Array, rows: int, number: int, bins: int, filled: int = 0) -> Part:
        """Look at the values of one run.

        Args:
            rows: samples in this run.
            number: of the run; another one samples other places.
            filled: rows of the run, where its last ones only repeat one to fill it up. They are not
                counted, as far as the first axis tells which they are; bounds do not mind them.

        Raises:
            NotFiniteError: NaN, or positive infinity, which no mask needs.
        """
        size = values.size
        low, high = (float(values.min()), float(values.max())) if size else (math.inf, -math.inf)
        if math.isnan(low) or math.isnan(high) or (size and high == math.inf):
            raise NotFiniteError
        if rows < filled and values.ndim and len(values) == filled:
            values = values[:rows]
        size = values.size
        stride = _stride(size, rows * SAMPLED)
        flat = values.reshape(-1)
        if low == -math.inf:
            flat = flat[np.isfinite(flat)]
            low = float(flat.min()) if flat.size else math.inf
            high = float(flat.max()) if flat.size else -math.inf
        sample = flat[number % stride :: stride]
        histogram = Histogram(bins)
        histogram.add(sample, stride)
        return cls(flat.size, size - flat.size, low, high, sample, stride, histogram)

    def positive(self) -> Part:
        """What the run shows of max(value, 0)."""
        low, high = (max(bound, 0.0) if self.count else bound for bound in (self.low, self.high))
        sample, histogram = np.maximum(self.sample, 0), self.histogram.positive()
        return Part(self.count, self.masked, low, high, sample, self.weight, histogram)


def _stride(size: int, most: int) -> int:
    """The least step that takes at most so many values and lines up with no axis."""
    stride = max(1, -(-size // most))
    while stride > 1 and math.gcd(stride, size) > 1:
        stride += 1
    return stride


@dataclass
class Channels:
    """Of each channel along an axis.

    Attributes:
        axis: of the channels.
        largest: (channels,), magnitudes.
        total: (channels,), sums of all values.
        count: values of a channel.
    """

    axis: int
    largest: npt.NDArray[np.float64] | None = None
    total: npt.NDArray[np.float64] | None = None
    count: int = 0

    def add(self, values: Array) -> None:
        """Look at the values of one run."""
        if not values.size:
            return
        moved = np.moveaxis(values, self.axis, 0)
        each = moved.reshape(len(moved), -1)
        largest = np.maximum(each.max(axis=1), -each.min(axis=1)).astype(np.float64)
        total = each.sum(axis=1, dtype=np.float64)
        self.largest = largest if self.largest is None else np.maximum(self.largest, largest)
        self.total = total if self.total is None else self.total + total
        self.count += each.shape[1]

    @property
    def mean(self) -> npt.NDArray[np.float64] | None:
        """(channels,); None where nothing was seen."""
        return None if self.total is None else self.total / self.count


@dataclass
class TensorStatistics:
    """One tensor over all runs.

    Attributes:
        histogram: of sampled values, each counted as often as it stands for one.
        count: finite values; exact.
        masked: values that were minus infinity.
        low, high: least and largest finite value; exact.
        average_low, average_high: the plain mean of the batches' over the first 1 / `MOMENTUM`,
            from then on their exponential moving average as torch has it. (Torch's own starts at
            the first batch, and after eight batches that is still 93 % of it.)
        batches: in which the tensor had a value.
        total, squares: sum of the values and of their squares, from those sampled.
        channels: where they were asked for.
    """

    histogram: Histogram
    count: int = 0
    masked: int = 0
    low: float = math.inf
    high: float = -math.inf
    average_low: float = 0.0
    average_high: float = 0.0
    batches: int = 0
    total: float = 0.0
    squares: float = 0.0
    channels: Channels | None = None
    _batch: tuple[float, float] = field(default=(math.inf, -math.inf), repr=False)

    def add(self, part: Part) -> None:
        """Count what one run shows."""
        self.count += part.count
        self.masked += part.masked
        self.low, self.high = min(self.low, part.low), max(self.high, part.high)
        self._batch = min(self._batch[0], part.low), max(self._batch[1], part.high)
        self.histogram.merge(part.histogram)
        sample = part.sample.astype(np.float64)
        self.total += part.weight * float(sample.sum())
        self.squares += part.weight * float(sample @ sample)

    def end_batch(self) -> None:
        """Let the moving average follow, after the last run of a batch."""
        low, high = self._batch
        self._batch = (math.inf, -math.inf)
        if low > high:
            return
        self.batches += 1
        share = max(MOMENTUM, 1 / self.batches)
        self.average_low += share * (low - self.average_low)
        self.average_high += share * (high - self.average_high)

"""What is kept of one tensor, however many values it has over all samples."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from threading import Lock
from typing import Any

import numpy as np
import numpy.typing as npt

from compress.quantization.calibration.histogram import Histogram

Array = npt.NDArray[Any]

#: Weight of a batch in the moving average, that of torch's MovingAverageMinMaxObserver.
MOMENTUM = 0.01
#: About as many values of a sample are counted, where a tensor has more; bounds are of all of them.
#: Counting takes eight times as long as looking for the bounds.
_ENOUGH = 2**17


class NotFiniteError(Exception):
    """A tensor holds NaN or positive infinity."""


@dataclass(frozen=True)
class Part:
    """What one run shows of a tensor, beside its histogram.

    Attributes:
        count: values that are finite.
        masked: values that are minus infinity, as in the masked scores of attention.
        low, high: of all finite values; infinity and minus infinity where there is none.
    """

    count: int
    masked: int
    low: float
    high: float

    def positive(self) -> Part:
        """What the run shows of max(value, 0)."""
        low, high = (max(bound, 0.0) if self.count else bound for bound in (self.low, self.high))
        return Part(self.count, self.masked, low, high)


class Counter:
    """The histogram of one tensor, which runs beside each other count into.

    What it holds does not depend on their order, see `Histogram`; all else that a run shows does.
    """

    def __init__(self, bins: int) -> None:
        """Count nothing yet.

        Args:
            bins: of the histogram, on each side of zero.
        """
        self.histogram = Histogram(bins)
        self._one_at_a_time = Lock()

    def see(self, values: Array, rows: int = 0, filled: int = 0) -> Part:
        """Look at the values of one run, at all of them for the bounds.

        Args:
            rows, filled: samples of the run, and rows that it had, where its last ones only repeat
                one to fill it up. They are not counted, as far as the first axis tells which they
                are; bounds do not mind them.

        Raises:
            NotFiniteError: NaN, or positive infinity, which no mask needs.
        """
        low, high = _bounds(values)
        if math.isnan(low) or (values.size and high == math.inf):
            raise NotFiniteError
        if rows < filled and values.ndim and len(values) == filled:
            values = values[:rows]
        size = values.size
        if low == -math.inf:
            values = values[np.isfinite(values)]
            low, high = _bounds(values)
        counted, times = _counted(values)
        with self._one_at_a_time:
            self.histogram.add(counted, max(-low, high), times)
        return Part(values.size, size - values.size, low, high)


def _counted(values: Array) -> tuple[Array, int]:
    """Values that are counted, and how many each of them stands for.

    Of a large sample one in so many, evenly spaced; the step shares no factor with any axis, so
    that all channels, rows and columns are met equally often.
    """
    size = values[0].size if values.ndim and len(values) else 0
    step = -(-size // _ENOUGH)
    while math.gcd(step, size) > 1:
        step += 1
    if step <= 1:
        return values.reshape(-1), 1
    return values.reshape(len(values), size)[:, ::step].reshape(-1), step


def _bounds(values: Array) -> tuple[float, float]:
    """Least and largest; NaN twice where there is one, infinity and minus infinity for no value."""
    if not values.size:
        return math.inf, -math.inf
    return float(values.min()), float(values.max())


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
        self.merge(Channels(self.axis, largest, total, each.shape[1]))

    def merge(self, other: Channels) -> None:
        """Add what another one saw, as if it had been seen here."""
        if other.largest is None or other.total is None:
            return
        largest, total = self.largest, self.total
        self.largest = other.largest if largest is None else np.maximum(largest, other.largest)
        self.total = other.total if total is None else total + other.total
        self.count += other.count

    @property
    def mean(self) -> npt.NDArray[np.float64] | None:
        """(channels,); None where nothing was seen."""
        return None if self.total is None else self.total / self.count


@dataclass
class TensorStatistics:
    """One tensor over all runs.

    Attributes:
        histogram: of all finite values.
        count: finite values.
        masked: values that were minus infinity.
        low, high: least and largest finite value.
        average_low, average_high: the plain mean of the batches' over the first 1 / `MOMENTUM`,
            from then on their exponential moving average as torch has it. (Torch's own starts at
            the first batch, and after eight batches that is still 93 % of it.)
        batches: in which the tensor had a value.
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
    channels: Channels | None = None
    _batch: tuple[float, float] = field(default=(math.inf, -math.inf), repr=False)

    def add(self, part: Part) -> None:
        """Follow what one run shows; its values are in the histogram by then."""
        self.count += part.count
        self.masked += part.masked
        self.low, self.high = min(self.low, part.low), max(self.high, part.high)
        self._batch = min(self._batch[0], part.low), max(self._batch[1], part.high)

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

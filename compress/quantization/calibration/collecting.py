"""One pass of samples through a graph, a part of a batch at a time, into statistics of fixed size.

What a run keeps is bounded: as many rows are run at once as keep all tensors that are looked at
within a budget, and each tensor is dropped as soon as it has been counted. Peak memory therefore
depends on the model and the budget, not on how many samples there are.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Iterator, Mapping, Sized
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from compress.artifact import sha256
from compress.errors import InputError, first_line
from compress.progress import Progress, quiet
from compress.quantization.calibration.histogram import Histogram
from compress.quantization.calibration.observed import STATIC_KINDS, Observed, observe
from compress.quantization.calibration.statistics import Statistics
from compress.quantization.calibration.tensor import (
    Channels,
    NotFiniteError,
    Part,
    TensorStatistics,
)
from compress.runtime.interface import Array, Feeds, fill
from compress.runtime.onnxruntime import check_feeds

#: Bytes of all tensors that are looked at in one run; a single sample may need more.
BUDGET = 2**26


def collect(
    source: Path,
    batches: Iterable[Feeds],
    *,
    bins: int = 2048,
    progress: Progress = quiet,
    channels: Mapping[str, int] | None = None,
    kinds: Collection[str] = STATIC_KINDS,
    threads: int = 0,
    budget: int = BUDGET,
) -> Statistics:
    """Run samples through an ONNX file and keep statistics of every tensor that needs a range.

    Args:
        source: fp32 (or fp16) model, as it will be quantized.
        batches: each one array for each of the model's inputs; shapes may vary between batches.
        bins: of the histograms on each side of zero, a power of two.
        progress: called after each batch; the steps in all are 0 where `batches` has no length.
        channels: by name, the axis of tensors whose channels are looked at one by one.
        kinds: operators whose inputs and outputs need a range; all that can be static int8.
        threads: 0 for all cores.
        budget: bytes of all tensors in one run.

    Raises:
        InputError: no samples; NaN or infinity in the data or in a tensor; onnxruntime fails on it.
        ShapeMismatch: the model does not take arrays of this number, shape or type.
        ModelFileError: the file is missing, damaged, or onnxruntime cannot run it.
        UnknownName: no tensor of a name in `channels`.
    """
    channels = channels or {}
    observed = observe(source, kinds=kinds, channels=channels, threads=threads)
    total = len(batches) if isinstance(batches, Sized) else 0
    samples = number = 0
    with ThreadPoolExecutor(threads or os.cpu_count()) as pool:
        collector = _Collector(source, observed, bins, channels, budget, pool)
        for number, given in enumerate(batches, 1):
            feeds = (given,) if isinstance(given, np.ndarray) else tuple(map(np.asarray, given))
            samples += collector.add(feeds, number)
            progress("calibration", number, total)
    if not samples:
        raise InputError(
            f"{source}: nothing to calibrate with: {number} batches and no sample in them; "
            "expected at least one."
        )
    return Statistics(sha256(source), samples, number, collector.tensors)


class _Collector:
    def __init__(
        self,
        source: Path,
        observed: Observed,
        bins: int,
        channels: Mapping[str, int],
        budget: int,
        pool: ThreadPoolExecutor,
    ) -> None:
        self.tensors = {
            name: TensorStatistics(
                Histogram(bins), channels=Channels(channels[name]) if name in channels else None
            )
            for name in observed.origins
        }
        self._source, self._observed, self._bins = source, observed, bins
        self._budget, self._pool = budget, pool
        self._inputs = observed.session.get_inputs()
        self._row_bytes: dict[object, int] = {}
        #: By the tensor that is looked at, those that follow from it.
        self._followers: dict[str, list[str]] = {}
        for name, origin in observed.origins.items():
            self._followers.setdefault(origin.name, []).append(name)

    def add(self, feeds: Feeds, number: int) -> int:
        """Run one batch; returns how many samples it had."""
        self._check(feeds, number)
        samples = 0
        for part, rows in self._parts(feeds):
            self._count(self._run(part, number), part, rows, number)
            samples += rows
        for tensor in self.tensors.values():
            tensor.end_batch()
        return samples

    def _check(self, feeds: Feeds, number: int) -> None:
        size = self._fixed_batch(feeds)
        fits = size and all(len(feed) for feed in feeds)
        check_feeds(
            self._source, self._inputs, tuple(fill(feed, size) for feed in feeds) if fits else feeds
        )
        for entry, feed in zip(self._inputs, feeds, strict=True):
            if feed.dtype.kind == "f" and not np.isfinite(feed).all():
                raise InputError(
                    f"{self._source}: input '{entry.name}' holds NaN or infinity in calibration "
                    f"batch {number}; remove such samples from the data."
                )

    def _fixed_batch(self, feeds: Feeds) -> int:
        """The batch size that the file was written for; 0 where it takes any."""
        firsts = {entry.shape[0] if entry.shape else None for entry in self._inputs}
        first = firsts.pop() if len(firsts) == 1 and self._alike(feeds) else None
        return first if isinstance(first, int) else 0

    def _alike(self, feeds: Feeds) -> bool:
        """Whether all arrays have as many rows, so that a part of them is a smaller batch."""
        return all(feed.ndim for feed in feeds) and len({len(feed) for feed in feeds}) == 1

    def _parts(self, feeds: Feeds) -> Iterator[tuple[Feeds, int]]:
        """What is run at once, and how many rows of it are not there to fill it up."""
        rows = len(feeds[0]) if feeds and feeds[0].ndim else 1
        if not rows:
            return
        fixed, splits = self._fixed_batch(feeds), self._alike(feeds)
        splits &= all(
            not isinstance(size, int) for entry in self._inputs for size in entry.shape[:1]
        )
        if not fixed and (rows == 1 or not splits):
            yield feeds, rows
            return
        step = fixed or self._rows_at_once(feeds)
        for at in range(0, rows, step):
            part = tuple(feed[at : at + step] for feed in feeds)
            yield tuple(fill(feed, step) for feed in part) if fixed else part, len(part[0])

    def _rows_at_once(self, feeds: Feeds) -> int:
        """As many rows of these shapes as keep within the budget, by a run of one of them."""
        shapes = tuple(feed.shape[1:] for feed in feeds)
        if shapes not in self._row_bytes:
            self._row_bytes[shapes] = self._bytes_of_one(feeds)
        needed = self._row_bytes[shapes]
        return max(1, self._budget // needed) if needed else len(feeds[0])

    def _bytes_of_one(self, feeds: Feeds) -> int:
        """Of all tensors for one row; 0 where the model takes no single row."""
        try:
            return sum(values.nbytes for values in self._outputs(tuple(f[:1] for f in feeds)))
        except Exception:  # a batch size written into the graph: the whole batch goes at once
            return 0

    def _outputs(self, feeds: Feeds) -> list[Array]:
        names = [entry.name for entry in self._inputs]
        if not self._observed.fetched:
            return []
        found: list[Array] = self._observed.session.run(
            self._observed.fetched, dict(zip(names, feeds, strict=True))
        )
        return found

    def _run(self, feeds: Feeds, number: int) -> dict[str, Array]:
        try:
            outputs = self._outputs(feeds)
        except Exception as error:  # onnxruntime's own classes share no public base
            raise InputError(
                f"{self._source}: onnxruntime fails on calibration batch {number}: "
                f"{first_line(error)}"
            ) from error
        values = dict(zip(self._observed.fetched, outputs, strict=True))
        for entry, feed in zip(self._inputs, feeds, strict=True):
            values[entry.name] = feed
        return values

    def _count(self, values: dict[str, Array], feeds: Feeds, rows: int, number: int) -> None:
        filled = len(feeds[0]) if feeds and feeds[0].ndim else rows

        def look(name: str) -> None:
            array = values.pop(name)
            try:
                part = Part.of(array, self._bins, rows, filled)
            except NotFiniteError:
                raise InputError(
                    f"{self._source}: tensor '{name}' holds NaN or infinity in calibration batch "
                    f"{number}; check the model on this data in fp32."
                ) from None
            for follower in self._followers[name]:
                self._add(follower, part, array)

        list(self._pool.map(look, [name for name in self._followers if name in values]))

    def _add(self, name: str, part: Part, array: Array) -> None:
        tensor = self.tensors[name]
        tensor.add(part.positive() if self._observed.origins[name].positive else part)
        if tensor.channels is not None:
            tensor.channels.add(array)

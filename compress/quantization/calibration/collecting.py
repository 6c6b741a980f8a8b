"""One pass of samples through a graph, some runs beside each other, into statistics of fixed size.

What a pass keeps is bounded: batches are cut so that all tensors that are looked at in the runs
under way keep within a budget, and each tensor is dropped as soon as it has been counted. Peak
memory therefore depends on the model and the budget, not on how many samples there are.

A run computes on one thread and is counted on the same one, as many runs beside each other as there
are cores: that takes a sixth less time of the processor than runs on several threads. What they
show is merged in the order of the samples, so that the result is that of one run after another.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Iterable, Mapping, Sized
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from compress.errors import InputError
from compress.measure.machine import cores
from compress.onnx_files import model_digest
from compress.progress import Progress, quiet
from compress.quantization.calibration.observed import STATIC_KINDS, observe
from compress.quantization.calibration.seeing import RunError, Seen, see
from compress.quantization.calibration.splitting import Run, Splitter
from compress.quantization.calibration.statistics import Statistics
from compress.quantization.calibration.tensor import Channels, Counter, TensorStatistics
from compress.runtime.interface import Feeds

#: Bytes of all tensors that are looked at in the runs under way; a single sample may need more.
BUDGET = 2**27
#: Runs that the budget is for; more of them would be too small, and fewer leave cores idle.
_RUNS = 8


class CannotRun(InputError):
    """onnxruntime fails on the samples."""


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
    bodies: bool = True,
) -> Statistics:
    """Run samples through an ONNX file and keep statistics of every tensor that needs a range.

    Args:
        source: fp32 (or fp16) model, as it will be quantized.
        batches: each one array for each of the model's inputs; shapes may vary between batches.
        bins: of the histograms on each side of zero, a power of two.
        progress: called after each batch; the steps in all are 0 where `batches` has no length.
        channels: by name, the axis of tensors whose channels are looked at one by one.
        kinds: operators whose inputs and outputs need a range; all that can be static int8.
        threads: 0 for all cores; the result does not depend on it.
        budget: bytes of all tensors in the runs under way.
        bodies: whether to look into those of If, Loop and Scan.

    Raises:
        InputError: no samples; NaN or infinity in the data or in what a layer reads or gives.
        CannotRun: onnxruntime fails on the samples; it is an InputError.
        ShapeMismatch: the model does not take arrays of this number, shape or type.
        ModelFileError: the file is missing, damaged, or onnxruntime cannot run it.
        UnknownName: no tensor of a name in `channels`.
    """
    total, number = len(batches) if isinstance(batches, Sized) else 0, 0
    model = _Model(source, kinds, channels or {}, bins, bodies=bodies)
    told = partial(progress, "calibration")
    pool = ThreadPoolExecutor(threads or cores())
    try:
        identity = pool.submit(model_digest, source)  # beside the first run, which is alone
        collector = _Collector(model, pool, threads or cores(), budget, told, total)
        for number, given in enumerate(batches, 1):
            feeds = (given,) if isinstance(given, np.ndarray) else tuple(map(np.asarray, given))
            collector.add(feeds, number)
        collector.end()
    finally:
        pool.shutdown(cancel_futures=True)
    if not collector.samples:
        raise InputError(
            f"{source}: nothing to calibrate with: {number} batches and no sample in them; "
            "expected at least one."
        )
    return Statistics(identity.result(), collector.samples, number, collector.tensors)


class _Model:
    """What is run, on how many threads a run computes, and what its values are counted by."""

    def __init__(
        self,
        source: Path,
        kinds: Collection[str],
        channels: Mapping[str, int],
        bins: int,
        *,
        bodies: bool,
    ) -> None:
        self.source, self.channels = source, channels
        self._threads = 1
        self._observe = partial(observe, source, kinds=kinds, channels=channels, bodies=bodies)
        self.observed = self._observe(threads=1)
        names = {origin.name for origin in self.observed.origins.values()}
        self.counters = {name: Counter(bins) for name in sorted(names)}

    def use(self, threads: int) -> None:
        """Load it anew where it has another number of threads."""
        if threads == self._threads:
            return
        self._threads = threads
        del self.observed  # two of them may not fit
        self.observed = self._observe(threads=threads)

    def see(self, run: Run, number: int) -> Seen:
        return see(
            self.source,
            self.observed,
            run,
            counters=self.counters,
            channels=self.channels,
            number=number,
        )

    def tensors(self) -> dict[str, TensorStatistics]:
        """Of every tensor that needs a range; histograms are shared by those that hold the same."""
        return {
            name: TensorStatistics(
                self.counters[origin.name].histogram,
                channels=Channels(self.channels[name]) if name in self.channels else None,
            )
            for name, origin in self.observed.origins.items()
        }


@dataclass(frozen=True)
class _UnderWay:
    """A run of batch `number`, or its end where there is no run."""

    number: int
    bytes: int = 0
    seen: Future[Seen] | None = None

    def wait(self) -> None:
        if self.seen is not None:
            self.seen.exception()


class _Collector:
    def __init__(
        self,
        model: _Model,
        pool: ThreadPoolExecutor,
        threads: int,
        budget: int,
        told: Callable[[int, int], None],
        total: int,
    ) -> None:
        """Start with nothing under way.

        Args:
            told: called with the number of each batch that is done, and with `total`.
        """
        self.samples = 0
        self.tensors = model.tensors()
        self._broken = set[str]()
        self._model, self._pool, self._threads, self._budget = model, pool, threads, budget
        self._told, self._total = told, total
        inputs = model.observed.session.get_inputs()
        self._splitter = Splitter(model.source, inputs, budget // _RUNS)
        self._origins = model.observed.origins
        self._under_way: deque[_UnderWay] = deque()
        #: Bytes of the largest run that is known; none that follows a trial is larger.
        self._largest = max(1, budget // _RUNS)

    def add(self, feeds: Feeds, number: int) -> None:
        """Run one batch; what it shows may be merged later."""
        self._splitter.check(feeds, number)
        for run in self._splitter.runs(feeds):
            if run.bytes is None:
                self._learn(run, number)
            else:
                self._start(run, run.bytes, number)
        self._under_way.append(_UnderWay(number))

    def end(self) -> None:
        """Wait for all runs."""
        self._drain()
        for name, origin in self._origins.items():
            if origin.name in self._broken:
                del self.tensors[name]  # no range, and so what touches it stays fp32
            elif origin.positive:
                self.tensors[name].histogram = self.tensors[name].histogram.positive()

    def _drain(self) -> None:
        while self._under_way:
            self._finish(self._under_way.popleft())

    def _learn(self, run: Run, number: int) -> None:
        """Carry out a run of which is not known what it needs, and nothing beside it."""
        self._drain()
        if not self.samples and not run.trial and run.filled > 1:
            self._model.use(self._threads)
        try:
            seen = self._model.see(run, number)
        except RunError as error:
            if not run.trial:
                raise self._failed(error, number) from error
            self._splitter.learn(run, None)
            return
        self._splitter.learn(run, seen.bytes)
        self._largest = max(self._largest, seen.bytes)
        self._merge(seen)

    def _start(self, run: Run, needed: int, number: int) -> None:
        ended = []
        while self._under_way and self._is_full(needed):
            ended.append(self._under_way.popleft())
            ended[-1].wait()
        beside = min(self._threads, self._budget // self._largest)
        self._model.use(self._threads // max(1, beside))
        seen = self._pool.submit(self._model.see, run, number)
        self._under_way.append(_UnderWay(number, needed, seen))
        for entry in ended:  # now that the next run is under way
            self._finish(entry)

    def _is_full(self, needed: int) -> bool:
        under_way = sum(entry.bytes for entry in self._under_way)
        return under_way + needed > self._budget or len(self._under_way) > 2 * self._threads

    def _finish(self, entry: _UnderWay) -> None:
        if entry.seen is not None:
            try:
                self._merge(entry.seen.result())
            except RunError as error:
                raise self._failed(error, entry.number) from error
            return
        for tensor in self.tensors.values():
            tensor.end_batch()
        self._told(entry.number, self._total)

    def _merge(self, seen: Seen) -> None:
        self.samples += seen.rows
        self._broken |= seen.broken
        for name, tensor in self.tensors.items():
            origin = self._origins[name]
            part = seen.parts.get(origin.name)
            if part is not None:
                tensor.add(part.positive() if origin.positive else part)
            if tensor.channels is not None and name in seen.channels:
                tensor.channels.merge(seen.channels[name])

    def _failed(self, error: RunError, number: int) -> CannotRun:
        return CannotRun(
            f"{self._model.source}: onnxruntime fails on calibration batch {number}: {error}"
        )

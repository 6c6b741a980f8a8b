"""Latencies of arms side by side, and of pairs in as many processes as their gates need."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, NamedTuple, TypeVar

import numpy as np

from compress.gate import Logs, looks_for, machine_is_fit
from compress.measure.config import BenchConfig
from compress.measure.latency import CONTROL, Batches, Measured, measure, measure_memory
from compress.progress import Progress, quiet
from compress.runtime.interface import Target
from compress.stats import ratio_interval


class Taken(NamedTuple):
    """What was measured of arms side by side.

    Attributes:
        memory: arm to the bytes it adds at its peak; None where that cannot be told.
        failed: arm that was left out to the reason, one line without a full stop.
    """

    measured: Measured
    memory: dict[str, int | None]
    failed: dict[str, str]


def time_arms(
    targets: Mapping[str, Target],
    config: BenchConfig,
    *,
    inputs: Batches | None = None,
    device: str = "cpu",
    seed: int = 0,
    progress: Progress = quiet,
) -> Taken:
    """Memory and latency of all arms; one that crashes, hangs or runs out of memory is left out.

    Args:
        targets: the first cannot be left out: all others are compared with it.

    Raises:
        WorkerFailed: the first arm cannot be measured.
        InputError: the same, where its file or the data is at fault.
    """
    failed: dict[str, str] = {}
    # Each arm alone in a process: what fails there would take this one down.
    memory = measure_memory(targets, config, inputs=inputs, device=device, failed=failed)
    measured = measure(
        {name: target for name, target in targets.items() if name not in failed},
        config,
        inputs=inputs,
        device=device,
        seed=seed,
        progress=progress,
        label="benchmark",
        keep_going=True,
    )
    return Taken(measured, memory, failed | measured.failed)


def that_fits(
    config: BenchConfig, memory: Mapping[str, int | None], free: int | None
) -> tuple[BenchConfig, str]:
    """A benchmark whose processes do not need more memory than there is.

    Where all arms do not fit beside each other the control is left out, and where that is not
    enough all thread counts but the largest.

    Args:
        memory: arm to the bytes it adds on one thread count, the first one first.
        free: bytes; None where that cannot be told.

    Returns:
        The settings, and what they leave out as a sentence.
    """
    first, *others = (taken or 0 for taken in memory.values())

    def needed(of: BenchConfig) -> int:
        return len(of.threads) * (first * (1 + of.control) + sum(others))

    fitting, left_out = config, []
    for what, less in (
        ("the first model a second time", {"control": False}),
        ("all thread counts but the largest", {"threads": (max(config.threads),)}),
    ):
        smaller = fitting.model_copy(update=less)
        if free is not None and free < needed(fitting) > needed(smaller):
            fitting = smaller
            left_out.append(what)
    if free is None or not left_out:
        return config, ""
    return fitting, (
        f"The benchmark leaves out {' and '.join(left_out)}: all beside each other would take "
        f"{needed(config) / 1e9:.1f} GB of memory, and {free / 1e9:.1f} GB are free."
    )


Key = TypeVar("Key")
Said = TypeVar("Said")


class Pair(NamedTuple):
    """Two models of one measurement whose latencies are compared at one size of call."""

    baseline: str
    candidate: str
    batch: int
    length: int | None = None


@dataclass(frozen=True)
class Timed(Generic[Key, Said]):
    """What came of a measurement.

    Attributes:
        verdicts: of every gate that could be decided; empty on a machine that is unfit.
        control: batch size to the first model's latency over its own.
        fit: whether the machine was fit to decide on latencies.
        workers: processes that were started.
    """

    measured: Measured
    verdicts: dict[Key, Said]
    control: dict[int, float]
    fit: bool
    workers: int


def time_pairs(
    files: Mapping[str, Path],
    pairs: Mapping[Key, Pair],
    bench: Callable[[int], BenchConfig],
    judge: Callable[[dict[Key, Logs], float], Mapping[Key, Said]],
    margin: float,
    *,
    inputs: Batches | None = None,
    device: str = "cpu",
    seed: int = 0,
    progress: Progress = quiet,
) -> Timed[Key, Said]:
    """Workers until every gate is decided on a machine that is fit, or until the last look.

    Args:
        files: name to ONNX file; all of them share one interleaved run, the first is the control.
        pairs: gate to what it compares.
        bench: the benchmark of so many workers.
        judge: takes each gate's logs, as `compress.gate.decide` does, and the error of this look.
        margin: a model against itself must stay within half of it.
        inputs: as `compress.measure.latency.measure` takes them.

    Raises:
        InputError: too many gates for the last look.
        WorkerFailed: a model crashes or hangs.
    """
    measured: Measured | None = None
    verdicts: dict[Key, Said] = {}
    first, before = next(iter(files)), 0
    for look in looks_for(len(pairs)):
        more = measure(
            files,
            bench(look.workers - before),
            inputs=inputs,
            device=device,
            seed=seed,
            first=before,
            progress=progress,
            label=f"up to {look.workers} processes",
        )
        measured, before = more if measured is None else measured.joined(more), look.workers
        controls = {size.batch: measured.logs(first, CONTROL, *size) for size in measured.sizes()}
        fit = machine_is_fit(controls, margin)
        if fit:
            logs = {key: measured.logs(*pair) for key, pair in pairs.items()}
            for key, said in judge(logs, look.alpha).items():
                verdicts.setdefault(key, said)
            if len(verdicts) == len(pairs):
                break
    assert measured is not None
    control = {batch: ratio_interval(np.exp(logs).tolist())[0] for batch, logs in controls.items()}
    return Timed(measured, verdicts if fit else {}, control, fit, before)

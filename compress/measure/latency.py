"""Latency of several arms in one interleaved run, over worker processes."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from compress.measure.config import BenchConfig
from compress.measure.measured import CONTROL, Beside, Cell, Measured
from compress.measure.processes import ArmFailed, run_worker
from compress.progress import Progress, quiet
from compress.report.measure_schema import Noise, RawWorker
from compress.runtime.interface import Target

__all__ = ["CONTROL", "Batches", "Cell", "Measured", "footprints", "measure", "measure_memory"]

#: Gives the samples of one call, for a batch size.
Batches = Callable[[int], tuple[npt.NDArray[Any], ...]]
#: Name of an arm to what it loads; a path alone is an ONNX file on onnxruntime.
Arms = Mapping[str, Path | Target]

#: Processes that slow models are timed by, where the time allows no more: fewer prove nothing.
_FEWEST = 6


def measure(
    arms: Arms,
    config: BenchConfig,
    *,
    inputs: Batches | None = None,
    device: str = "cpu",
    seed: int = 0,
    first: int = 0,
    left_out: Collection[Cell] = (),
    progress: Progress = quiet,
    label: str = "latency",
    keep_going: bool = False,
    keep_interrupted: bool = False,
) -> Measured:
    """Time all arms, interleaved, in `config.workers` processes one after the other.

    Where `config.limit_s` does not allow as many rounds and processes, there are fewer, and thread
    counts at which an arm lost to itself in the first process are left out.

    Args:
        arms: name to what is loaded.
        inputs: batch size to real samples, one array for each of the models' inputs; made from the
            declared shapes where None.
        seed: of the coins that decide each worker's order.
        first: workers that were measured before with the same seed; their coins are not used again.
        left_out: cells that need not be timed; of each arm and size one has to be left.
        keep_going: an arm that fails is left out, and `Measured.failed` says why; the first arm
            cannot be left out.
        keep_interrupted: an interrupt ends the measurement with the workers that are done, where
            there are any, and `Measured.interrupted` says so.

    Raises:
        WorkerFailed: a process died, hung, or could not load an arm; the arm is named.
        InputError: see `BenchConfig.check_here`.
    """
    config.check_here(device)
    named = _named(arms)
    baseline = named[0]
    if config.control:
        named = [*named, baseline | {"name": CONTROL}]
    found, failed, interrupted = _Found(), dict[str, str](), False
    wanted = config.workers
    with tempfile.TemporaryDirectory() as folder:
        job = _job(config, inputs, device, Path(folder))
        job["left_out"] = [list(cell) for cell in left_out]
        job["limit_s"] = config.limit_s and config.limit_s / wanted
        while (worker := len(found.answers)) < wanted:
            began = time.monotonic()
            coin = seed * 1000 + first + worker
            try:
                job |= {"seed": coin, "arms": named}
                answer = run_worker(job, config.timeout, Path(folder))
            except ArmFailed as failure:
                name = failure.arm
                if not keep_going or name is None or name in (baseline["name"], CONTROL):
                    raise failure.error(arm["name"] for arm in named) from None
                failed[name] = failure.reason
                named = [arm for arm in named if arm["name"] != name]
                continue
            except KeyboardInterrupt:
                if not keep_interrupted or not found.answers:
                    raise
                interrupted = True
                break
            found.answers.append((coin, answer))
            if not worker:  # the others do as many rounds
                job |= {"rounds": answer["rounds"], "limit_s": None}
                wanted = _affordable(config, time.monotonic() - began)
                if wanted < config.workers:
                    slow = [*left_out, *found.slow_threads()]
                    job["left_out"] = [list(cell) for cell in slow]
            progress(label, worker + 1, wanted)
    return found.measured([arm["name"] for arm in named], failed, interrupted=interrupted)


def _affordable(config: BenchConfig, seconds: float) -> int:
    """How many processes the time allows, from what the first one took."""
    if config.limit_s is None:
        return config.workers
    return min(config.workers, max(_FEWEST, int(config.limit_s / max(seconds, 1e-9))))


class Footprint(NamedTuple):
    """What an arm takes of a machine at its largest batch, on one thread count.

    Attributes:
        bytes: that it adds to a process at its peak; None if unknown.
        seconds: of one call, which is no measurement.
    """

    bytes: int | None
    seconds: float


def measure_memory(
    arms: Arms,
    config: BenchConfig,
    *,
    inputs: Batches | None = None,
    device: str = "cpu",
    failed: dict[str, str] | None = None,
) -> dict[str, int | None]:
    """Bytes that each arm adds to a process at its peak, at the largest batch; None if unknown.

    Args, Raises: see `footprints`.
    """
    found = footprints(arms, config, inputs=inputs, device=device, failed=failed)
    return {name: arm.bytes for name, arm in found.items()}


def footprints(
    arms: Arms,
    config: BenchConfig,
    *,
    inputs: Batches | None = None,
    device: str = "cpu",
    failed: dict[str, str] | None = None,
) -> dict[str, Footprint]:
    """What each arm takes, each in a process of its own.

    Args:
        failed: takes the name of each arm that fails, but the first, with the reason.

    Raises:
        WorkerFailed: an arm cannot be loaded or run, and cannot be left out.
        InputError: the same of the first arm, where the model or the data is at fault.
    """
    found: dict[str, Footprint] = {}
    with tempfile.TemporaryDirectory() as folder:
        job = _job(config, inputs, device, Path(folder)) | {"what": "footprint"}
        for place, arm in enumerate(_named(arms)):
            name = arm["name"]
            try:
                answer = run_worker(job | {"arms": [arm]}, config.timeout, Path(folder))
                found[name] = Footprint(answer["bytes"], answer["seconds"])
            except ArmFailed as failure:
                if failed is None or place == 0:
                    raise failure.error([name], by_cause=failed is not None) from None
                failed[name] = failure.reason
    return found


class _Found:
    """The answers of all workers so far, and the coin of each."""

    def __init__(self) -> None:
        self.answers: list[tuple[int, dict[str, Any]]] = []

    def measured(self, names: list[str], failed: dict[str, str], *, interrupted: bool) -> Measured:
        """All figures, arms in the order they were given; without those that failed later on."""
        entries: dict[Cell, list[dict[str, Any]]] = {cell: [] for cell in self._cells(names)}
        for _, answer in self.answers:
            for entry in answer["cells"]:
                if _cell(entry) in entries:
                    entries[_cell(entry)].append(entry)
        places = {cell: place for place, cell in enumerate(entries)}
        blocks = {
            cell: np.array([entry["blocks_ns"] for entry in found], dtype=np.float64)
            for cell, found in entries.items()
        }
        return Measured(
            blocks,
            {
                cell: sum(entry["calls_per_block"] for entry in found) * blocks[cell].shape[1]
                for cell, found in entries.items()
            },
            {cell: _beside(found) for cell, found in entries.items()},
            tuple(_worker(coin, answer, places) for coin, answer in self.answers),
            failed,
            interrupted,
        )

    def slow_threads(self) -> list[Cell]:
        """Of what is known so far, see `Measured.slow_threads`."""
        _, answer = self.answers[0]
        names = [entry["arm"] for entry in answer["cells"]]
        return self.measured(names, {}, interrupted=False).slow_threads()

    def _cells(self, names: list[str]) -> list[Cell]:
        """Those that all workers timed; the coin shuffled what they answer."""
        last = self.answers[-1][1]["cells"]
        cells = {_cell(entry) for entry in last if entry["arm"] in names}
        return sorted(
            cells,
            key=lambda cell: (names.index(cell.arm), cell.batch, cell.length or 0, cell.threads),
        )


def _cell(entry: dict[str, Any]) -> Cell:
    return Cell(entry["arm"], entry["batch"], entry["threads"], entry["length"])


def _beside(entries: list[dict[str, Any]]) -> Beside:
    return Beside(
        tuple(entry["calls_per_block"] for entry in entries),
        tuple(entry["load_ns"] for entry in entries),
        tuple(entry["first_call_ns"] for entry in entries),
        tuple(entry["unstable"] for entry in entries),
        tuple(time for entry in entries for time in entry["single_ns"]),
    )


def _worker(coin: int, answer: dict[str, Any], places: dict[Cell, int]) -> RawWorker:
    order = []
    for batch, length, drawn in answer["order"]:
        cells = [Cell(arm, batch, threads, length) for arm, threads in drawn]
        order.append([places[cell] for cell in cells if cell in places])
    noise = Noise.model_validate(answer["noise"])
    return RawWorker(seed=coin, order=order, cpus=answer["cpus"], noise=noise)


def _named(arms: Arms) -> list[dict[str, str]]:
    targets = {
        name: given if isinstance(given, Target) else Target(given) for name, given in arms.items()
    }
    return [
        {"name": name, "file": str(target.path.absolute()), "runtime": target.runtime}
        for name, target in targets.items()
    ]


def _job(config: BenchConfig, inputs: Batches | None, device: str, folder: Path) -> dict[str, Any]:
    settings = config.model_dump(exclude={"workers", "control", "timeout"})
    settings["rounds"] = [config.rounds] * len(config.batch) * len(config.lengths)
    job: dict[str, Any] = {"what": "latency", "device": device, "inputs": {}, "left_out": []}
    job |= settings
    for batch in config.batch if inputs is not None else ():
        assert inputs is not None
        job["inputs"][batch] = str(folder / f"inputs-{batch}.npz")
        np.savez(job["inputs"][batch], *inputs(batch))
    return job

"""Latency of several arms in one interleaved run, over worker processes."""

from __future__ import annotations

import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from compress.errors import WorkerFailed
from compress.measure.config import BenchConfig
from compress.progress import Progress, quiet
from compress.report.schema import Latency
from compress.stats import Interval, ratio_interval

#: Name of the arm that is the first one again, to see what the machine makes of no difference.
CONTROL = "first arm again"
#: Calls from which a 90th percentile can be told.
_LEAST_FOR_P90 = 29

Cell = tuple[str, int, int]
#: Gives the samples of one call, for a batch size.
Batches = Callable[[int], tuple[npt.NDArray[Any], ...]]


@dataclass(frozen=True)
class Measured:
    """Block medians of every worker.

    Attributes:
        blocks: (arm, batch, threads) to one array a worker, (workers, rounds), in nanoseconds.
        calls: timed calls of each cell in all workers.
    """

    blocks: dict[Cell, npt.NDArray[np.float64]]
    calls: dict[Cell, int]

    def joined(self, more: Measured) -> Measured:
        """These workers and others of the same arms and settings."""
        blocks = {
            cell: np.concatenate([rows, more.blocks[cell]]) for cell, rows in self.blocks.items()
        }
        return Measured(blocks, {cell: n + more.calls[cell] for cell, n in self.calls.items()})

    def arms(self) -> list[str]:
        """Names of all arms, the control included."""
        return list(dict.fromkeys(arm for arm, _, _ in self.blocks))

    def best(self, arm: str, batch: int) -> Cell:
        """The cell of the thread count at which that arm is fastest."""
        cells = [cell for cell in self.blocks if cell[:2] == (arm, batch)]
        return min(cells, key=lambda cell: _median(self.blocks[cell]))

    def latency(self, arm: str) -> list[Latency]:
        """Figures of one arm for the report."""
        found = []
        for cell, blocks in sorted(self.blocks.items()):
            if cell[0] != arm:
                continue
            workers = [float(median) / 1e6 for median in np.median(blocks, axis=1)]
            median = statistics.median(workers)
            enough = blocks.size >= _LEAST_FOR_P90
            found.append(
                Latency(
                    batch=cell[1],
                    threads=cell[2],
                    median_ms=median,
                    p90_ms=float(np.percentile(blocks, 90)) / 1e6 if enough else None,
                    n=self.calls[cell],
                    throughput=cell[1] / median * 1e3,
                    best=cell == self.best(arm, cell[1]),
                    workers_ms=workers,
                )
            )
        return found

    def ratio(self, baseline: str, candidate: str, batch: int) -> tuple[float, Interval, int]:
        """Candidate's latency over the baseline's, each at its best thread count.

        A worker's figure is the median over rounds of the log ratio of blocks that ran beside each
        other; over workers it is the Hodges-Lehmann estimate with its exact interval.

        Returns:
            The ratio, its 95 % interval, and the number of workers.
        """
        ratios = np.exp(self.logs(baseline, candidate, batch))
        return *ratio_interval(ratios.tolist()), len(ratios)

    def logs(self, baseline: str, candidate: str, batch: int) -> npt.NDArray[np.float64]:
        """Each worker's median log(candidate / baseline), (workers,), as in `ratio`."""
        over = self.blocks[self.best(candidate, batch)]
        under = self.blocks[self.best(baseline, batch)]
        medians: npt.NDArray[np.float64] = np.median(np.log(over / under), axis=1)
        return medians

    def overall(self, baseline: str, candidate: str) -> float:
        """Geometric mean over the batch sizes of the ratio."""
        batches = sorted({batch for _, batch, _ in self.blocks})
        logs = [math.log(self.ratio(baseline, candidate, batch)[0]) for batch in batches]
        return math.exp(statistics.fmean(logs))


def _median(blocks: npt.NDArray[np.float64]) -> float:
    return float(np.median(np.median(blocks, axis=1)))


def measure(
    arms: Mapping[str, Path],
    config: BenchConfig,
    *,
    inputs: Batches | None = None,
    device: str = "cpu",
    seed: int = 0,
    first: int = 0,
    progress: Progress = quiet,
    label: str = "latency",
) -> Measured:
    """Time all arms, interleaved, in `config.workers` processes one after the other.

    Args:
        arms: name to ONNX file.
        inputs: batch size to real samples, one array for each of the models' inputs; made from the
            declared shapes where None.
        seed: of the coins that decide each worker's order.
        first: workers that were measured before with the same seed; their coins are not used again.

    Raises:
        WorkerFailed: a process died, hung, or could not load an arm.
    """
    named = [{"name": name, "file": str(path.absolute())} for name, path in arms.items()]
    if config.control:
        named.append({"name": CONTROL, "file": named[0]["file"]})
    blocks: dict[Cell, list[list[float]]] = defaultdict(list)
    calls: dict[Cell, int] = defaultdict(int)
    with tempfile.TemporaryDirectory() as folder:
        job = _job(config, named, inputs, device, Path(folder))
        for worker in range(config.workers):
            job["seed"] = seed * 1000 + first + worker
            for entry in run_worker(job, config.timeout):
                cell = (entry["arm"], entry["batch"], entry["threads"])
                blocks[cell].append(entry["blocks_ns"])
                calls[cell] += entry["calls"]
            progress(label, worker + 1, config.workers)
    return Measured({cell: np.array(values) for cell, values in blocks.items()}, dict(calls))


def measure_memory(
    arms: Mapping[str, Path],
    config: BenchConfig,
    *,
    inputs: Batches | None = None,
    device: str = "cpu",
) -> dict[str, int | None]:
    """Bytes that each arm adds to a process at its peak, at the largest batch; None if unknown."""
    found: dict[str, int | None] = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, path in arms.items():
            named = [{"name": name, "file": str(path.absolute())}]
            job = _job(config, named, inputs, device, Path(folder)) | {"what": "memory"}
            found[name] = run_worker(job, config.timeout)
    return found


def _job(
    config: BenchConfig,
    arms: list[dict[str, str]],
    inputs: Batches | None,
    device: str,
    folder: Path,
) -> dict[str, Any]:
    job: dict[str, Any] = {
        "what": "latency",
        "arms": arms,
        "device": device,
        "batch": config.batch,
        "threads": config.threads,
        "rounds": config.rounds,
        "block_ms": config.block_ms,
        "inputs": {},
    }
    for batch in config.batch if inputs is not None else ():
        assert inputs is not None
        job["inputs"][batch] = str(folder / f"inputs-{batch}.npz")
        np.savez(job["inputs"][batch], *inputs(batch))
    return job


def run_worker(
    job: dict[str, Any], timeout: float, *, module: str = "compress.measure.worker"
) -> Any:
    """What a process of that module answers to a job; WorkerFailed where it dies or hangs."""
    command = [sys.executable, "-m", module]
    # numpy's own threads have nothing to do in a worker but to be in the way.
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    names = ", ".join(arm["name"] for arm in job["arms"])
    try:
        done = subprocess.run(
            command,
            input=json.dumps(job),
            capture_output=True,
            text=True,
            timeout=timeout,
            env=environment,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise WorkerFailed(
            f"measuring {names}: the process hung for {timeout:g} s and was stopped."
        ) from None
    if done.returncode:
        last = done.stderr.strip().splitlines()[-1:] or [f"exit code {done.returncode}"]
        raise WorkerFailed(f"measuring {names}: the process died: {last[0]}")
    return json.loads(done.stdout)

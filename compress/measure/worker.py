"""One measuring process: `python -m compress.measure.worker`, a job on stdin, JSON on stdout.

It loads every arm itself, warms up, and times blocks in an order that a fair coin decides and that
turns round each time (ABBA), so that whatever drifts meets all arms alike.
"""

from __future__ import annotations

import gc
import json
import math
import os
import random
import sys
import time
import traceback
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from compress.errors import first_line
from compress.measure.blocks import Block, WarmUp
from compress.measure.memory import forget_peak, peak
from compress.measure.noise import calibration_ns, noise_between, read_counters
from compress.runtime.interface import Model, import_runtime, open_model

#: Single calls that are handed back for percentiles, of each cell.
_KEPT_CALLS = 4000
#: Samples of a call, and the length of each where one is made up.
_Size = tuple[int, int | None]
#: Rounds, one forward and one backward.
_PAIR = 2
#: Exit code of a worker whose answer is what went wrong.
FAILED = 70


class Trace:
    """Tells the parent at which arm this process is, should it never come back to say so itself.

    A file, as it stays when the process is killed; one write of some bytes between two blocks.
    """

    def __init__(self, file: str | None) -> None:
        self._file = os.open(file, os.O_WRONLY | os.O_CREAT) if file else None
        self._steps = 0

    def at(self, place: int) -> None:
        """Note the place of the arm in the job, and that time goes on."""
        self._steps += 1
        if self._file is not None:
            os.lseek(self._file, 0, os.SEEK_SET)
            os.write(self._file, f"{self._steps:12d} {place:6d}".encode())


def main() -> None:
    """Read one job, do it, print its result."""
    job = json.load(sys.stdin)
    # What a runtime prints goes to stderr: stdout is for the answer.
    with os.fdopen(os.dup(1), "w") as answer:
        os.dup2(2, 1)
        if job["affinity"] is not None:
            os.sched_setaffinity(0, job["affinity"])
        trace = Trace(job["trace"])
        try:
            result = footprint(job, trace) if job["what"] == "footprint" else latencies(job, trace)
        except Exception as error:  # a runtime raises what it likes; the parent wants one line
            traceback.print_exc()
            json.dump({"kind": type(error).__name__, "reason": first_line(error)}, answer)
            sys.exit(FAILED)
        json.dump(result, answer)


def latencies(job: dict[str, Any], trace: Trace) -> dict[str, Any]:
    """Block medians in nanoseconds of every arm at every size of call, and the noise."""
    coin = random.Random(job["seed"])
    for arm in job["arms"]:
        import_runtime(arm["runtime"])
    before, kernel = read_counters(), calibration_ns()
    cells, order, done = list[dict[str, Any]](), [], list[int]()
    sizes = list(product(job["batch"], job["length"] or [None]))
    began, limit = time.monotonic(), job["limit_s"] or math.inf
    left_out = {tuple(cell) for cell in job["left_out"]}
    for number, (batch, length) in enumerate(sizes, 1):
        drawn = [
            (place, threads)
            for place, arm in enumerate(job["arms"])
            for threads in job["threads"]
            if (arm["name"], batch, threads, length) not in left_out
        ]
        coin.shuffle(drawn)
        names = [(job["arms"][place]["name"], threads) for place, threads in drawn]
        order.append((batch, length, names))
        until = began + limit * number / len(sizes)
        found = _time_size((batch, length), drawn, job, trace, job["rounds"][number - 1], until)
        done.append(len(found[0]["blocks_ns"]))
        cells += found
    noise = noise_between(before, read_counters(), (kernel, calibration_ns()))
    return {"cells": cells, "order": order, "noise": noise, "cpus": _cpus(), "rounds": done}


def _time_size(
    size: _Size,
    drawn: list[tuple[int, int]],
    job: dict[str, Any],
    trace: Trace,
    rounds: int,
    until: float,
) -> list[dict[str, Any]]:
    """Every cell of one size of call, loaded and timed in the order that was drawn.

    Args:
        rounds, until: how many, and the moment from which one is enough, or any number of pairs.
    """
    loaded = [_Cell(place, threads, size, job, trace) for place, threads in drawn]
    _warm(loaded, WarmUp(job["warm_up_s"], job["warm_up_calls"], job["warm_up_cap_s"]), trace)
    gc.freeze()
    gc.disable()
    for number in range(rounds):
        if (number == 1 or (number and number % _PAIR == 0)) and time.monotonic() > until:
            break
        # Forward, backward, backward, forward: each arm meets every neighbour equally often.
        for cell in loaded if number % 4 in (0, 3) else loaded[::-1]:
            trace.at(cell.place)
            cell.blocks_ns.append(cell.block.run())
    gc.enable()
    return [cell.result(job["arms"][cell.place]["name"], *size) for cell in loaded]


def _warm(cells: list[_Cell], plan: WarmUp, trace: Trace) -> None:
    """All arms by turns, as they will be timed, until each of them has settled."""
    cold = cells
    while cold:
        still = []
        for cell in cold:
            trace.at(cell.place)
            if not cell.block.warm(plan):
                still.append(cell)
        cold = still
    for cell in cells:
        cell.block.fit()


class _Cell:
    """One arm at one thread count, loaded, and what was measured of it."""

    def __init__(
        self, place: int, threads: int, size: _Size, job: dict[str, Any], trace: Trace
    ) -> None:
        trace.at(place)
        self.place, self.threads = place, threads
        start = time.perf_counter_ns()
        model = _open(job["arms"][place], job["device"], threads)
        self.load_ns = time.perf_counter_ns() - start
        inputs = _inputs(model, *size, job)
        start = time.perf_counter_ns()
        call = model.bind(inputs)
        self.first_call_ns = time.perf_counter_ns() - start
        self.block = Block(call, job["block_ms"] * 1e6, model.prepare)
        self.blocks_ns: list[int] = []

    def result(self, arm: str, batch: int, length: int | None) -> dict[str, Any]:
        """All figures, in nanoseconds."""
        single = self.block.single_ns
        return {
            "arm": arm,
            "batch": batch,
            "length": length,
            "threads": self.threads,
            "blocks_ns": self.blocks_ns,
            "calls_per_block": self.block.calls * self.block.loop,
            "load_ns": self.load_ns,
            "first_call_ns": self.first_call_ns,
            "unstable": self.block.unstable,
            "single_ns": single[:: 1 + len(single) // _KEPT_CALLS],
        }


def _open(arm: dict[str, Any], device: str, threads: int) -> Model:
    return open_model(arm["runtime"], Path(arm["file"]), device, threads)


def _inputs(model: Model, batch: int, length: int | None, job: dict[str, Any]) -> tuple[Any, ...]:
    stored = job["inputs"].get(str(batch))
    if stored is None:
        return model.example(batch, length=length)
    with np.load(stored) as arrays:
        return tuple(arrays[name] for name in arrays.files)


def _cpus() -> list[int] | None:
    return sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None


def footprint(job: dict[str, Any], trace: Trace) -> dict[str, Any]:
    """Bytes that loading one arm and running its largest batch add at most, None if unknown; and
    seconds of a call.
    """
    (arm,) = job["arms"]
    import_runtime(arm["runtime"])
    before = forget_peak()
    trace.at(0)
    model = _open(arm, job["device"], job["threads"][0])
    longest = max(job["length"]) if job["length"] else None
    call = model.bind(_inputs(model, max(job["batch"]), longest, job))
    model.prepare()
    start = 0.0
    for _ in range(3):
        start = time.perf_counter()
        call()
    seconds, most = time.perf_counter() - start, peak()
    known = None if before is None or most is None else max(0, most - before)
    return {"bytes": known, "seconds": seconds}


if __name__ == "__main__":
    main()

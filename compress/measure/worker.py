"""One measuring process: `python -m compress.measure.worker`, a job on stdin, JSON on stdout.

It loads every arm itself, warms up, and times blocks in an order that a fair coin decides and that
turns round each time (ABBA), so that whatever drifts meets all arms alike.
"""

from __future__ import annotations

import gc
import json
import random
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from compress.runtime.onnxruntime import Session

#: Timed calls of a block, where they fit into its time.
_CALLS = 15
#: A timer's own cost has to stay below 1/10,000 of what it times; shorter calls are looped.
_CLOCK_SHARE = 10_000
_WARM_UP_SECONDS = 0.05

Call = Callable[[], None]


def main() -> None:
    """Read one job, do it, print its result."""
    job = json.load(sys.stdin)
    result = peak_memory(job) if job["what"] == "memory" else latencies(job)
    json.dump(result, sys.stdout)


def latencies(job: dict[str, Any]) -> list[dict[str, Any]]:
    """Block medians in nanoseconds for every arm, batch size and thread count."""
    coin = random.Random(job["seed"])
    found = []
    for batch in job["batch"]:
        cells = [(arm, threads) for arm in job["arms"] for threads in job["threads"]]
        coin.shuffle(cells)
        calls = [_load(arm, threads, batch, job) for arm, threads in cells]
        blocks = [_Block(call, job["block_ms"] * 1e6) for call in calls]
        gc.freeze()
        gc.disable()
        order = list(range(len(cells)))
        times: list[list[float]] = [[] for _ in cells]
        for number in range(job["rounds"]):
            # Forward, backward, backward, forward: each arm meets every neighbour equally often.
            for place in order if number % 4 in (0, 3) else order[::-1]:
                times[place].append(blocks[place].run())
        gc.enable()
        for (arm, threads), values, block in zip(cells, times, blocks, strict=True):
            found.append(
                {
                    "arm": arm["name"],
                    "batch": batch,
                    "threads": threads,
                    "blocks_ns": values,
                    "calls": block.calls * block.loop * len(values),
                }
            )
    return found


def _load(arm: dict[str, Any], threads: int, batch: int, job: dict[str, Any]) -> Call:
    session = Session(Path(arm["file"]), job["device"], threads)
    stored = job["inputs"].get(str(batch))
    if stored is None:
        return session.bind(session.example(batch))
    with np.load(stored) as arrays:
        return session.bind(tuple(arrays[name] for name in arrays.files))


class _Block:
    """A few timed calls of one arm behind one that is thrown away; `run` gives their median, ns."""

    def __init__(self, call: Call, block_ns: float) -> None:
        self.call = call
        until = time.perf_counter() + _WARM_UP_SECONDS
        while time.perf_counter() < until:
            call()
        start = time.perf_counter_ns()
        for _ in range(3):
            call()
        once = (time.perf_counter_ns() - start) / 3
        self.loop = max(1, round(_CLOCK_SHARE * _clock_cost() / once))
        self.calls = int(min(_CALLS, max(3, block_ns / (once * self.loop))))

    def run(self) -> float:
        self.call()
        clock, call, loop, times = time.perf_counter_ns, self.call, range(self.loop), []
        for _ in range(self.calls):
            start = clock()
            for _ in loop:
                call()
            times.append((clock() - start) / self.loop)
        return statistics.median(times)


def _clock_cost() -> float:
    start = time.perf_counter_ns()
    for _ in range(1000):
        time.perf_counter_ns()
    return (time.perf_counter_ns() - start) / 1000


def peak_memory(job: dict[str, Any]) -> int | None:
    """Bytes that loading one arm and running its largest batch add at most; None if unknown."""
    before = _forget_peak()
    call = _load(job["arms"][0], job["threads"][0], max(job["batch"]), job)
    for _ in range(3):
        call()
    peak = _status("VmHWM")
    return None if before is None or peak is None else max(0, peak - before)


def _forget_peak() -> int | None:
    """Resident bytes now; the peak counts anew from here, as importing had a peak of its own."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return None
    return _status("VmRSS")


def _status(field: str) -> int | None:
    """A size from Linux's account of this process, in bytes."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith(field)), None)


if __name__ == "__main__":
    main()

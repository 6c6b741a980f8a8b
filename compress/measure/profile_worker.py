"""One profiling process: `python -m compress.measure.profile_worker`; job on stdin, JSON on stdout.

It loads the model twice, with the profiler and without, and the same of a model whose nodes do next
to nothing, which shows what the profiler itself costs. All take turns: what drifts meets all alike.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from compress.measure.trace import Call, middle_mean, profiler_cost, read_trace, summary
from compress.runtime.onnxruntime import Feeds, Session

#: Turns of each, so many seconds a turn, and the least and most calls in it.
_TURNS = 4
_TURN_SECONDS = 0.1
_CALLS = (3, 100)


def main() -> None:
    """Read one job, do it, print its result."""
    json.dump(profile(json.load(sys.stdin)), sys.stdout)


def profile(job: dict[str, Any]) -> dict[str, Any]:
    """Where one model's time goes.

    Returns:
        `trace.summary`; "wall_us" of a call without profiler; "cost_us" of the profiler, a run of a
        node.
    """
    with tempfile.TemporaryDirectory() as folder:
        model = _Twice(Path(job["file"]), job["threads"][0], Path(folder) / "model", _feeds(job))
        idle = _Twice(Path(job["idle"]), 1, Path(folder) / "idle", lambda it: it.example(1))
        for _ in range(_TURNS):
            model.turn()
            idle.turn()
        cost = profiler_cost(idle.calls(), idle.wall_us())
        found = summary(model.calls(), cost)
    return found | {"wall_us": model.wall_us(), "cost_us": cost.run}


class _Twice:
    """A model with the profiler and without; timed by turns, the first call of each thrown away."""

    def __init__(
        self, file: Path, threads: int, trace: Path, feeds: Callable[[Session], Feeds]
    ) -> None:
        plain = Session(file, threads=threads)
        self.traced = Session(file, threads=threads, trace=trace)
        given = feeds(plain)
        self.run, self.run_traced = plain.bind(given), self.traced.bind(given)
        self.run_traced()
        start = time.perf_counter()
        self.run_traced()
        once = time.perf_counter() - start
        self.length = int(min(max(_TURN_SECONDS / once, _CALLS[0]), _CALLS[1]))
        self.wall: list[float] = []
        self.kept: list[int] = []
        self.behind = 3  # traced calls so far: the one that binding makes, and two of warming up

    def turn(self) -> None:
        """Both for a while, one after the other."""
        for call in range(self.length + 1):
            start = time.perf_counter_ns()
            self.run()
            self.wall += [(time.perf_counter_ns() - start) / 1e3] if call else []
        for call in range(self.length + 1):
            self.run_traced()
            self.kept += [self.behind] if call else []
            self.behind += 1

    def calls(self) -> list[Call]:
        """The calls of all turns, from the trace, which ends here."""
        found = read_trace(self.traced.end_trace())
        return [found[place] for place in self.kept if place < len(found)]

    def wall_us(self) -> float:
        """Time of a call without the profiler, in microseconds."""
        return middle_mean(self.wall)


def _feeds(job: dict[str, Any]) -> Callable[[Session], Feeds]:
    if job["inputs"] is None:
        return lambda session: session.example(job["batch"], length=job["length"])
    with np.load(job["inputs"]) as arrays:
        given = tuple(arrays[name] for name in arrays.files)
    return lambda _: given


if __name__ == "__main__":
    main()

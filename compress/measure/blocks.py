"""Blocks of timed calls inside a measuring process, and when a model is warm enough for them."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

#: Timed calls of a block, where they fit into its time.
_CALLS = 15
#: A call of so many blocks' time is a block of its own: what the arm before it left in the caches
#: is a small part of it, and so no call is thrown away either.
_SLOW = 20
#: A timer's own cost has to stay below 1/10,000 of what it times; shorter calls are looped.
_CLOCK_SHARE = 10_000
#: Warm-up blocks that are compared, half against half; slow models do with fewer.
_LAST, _FEWEST = 8, 4
#: Halves that differ by less are alike, however quiet the machine is.
_ALIKE = 0.02
#: Single calls that are kept of one block for percentiles, where they are timed beside it.
_SINGLE_SHARE = 5


@dataclass(frozen=True)
class WarmUp:
    """How long a model is warmed, see `compress.measure.config.BenchConfig`."""

    seconds: float
    calls: int
    cap: float


class Block:
    """One model with one fixed input: its warm-up, and its timed blocks.

    Attributes:
        loop: calls inside one timing.
        calls: timings of a block.
        thrown_away: untimed calls at the beginning of a block.
        single_ns: single calls of all blocks so far, for percentiles.
        unstable: whether the times had not settled when the warm-up had to end.
    """

    def __init__(
        self, call: Callable[[], None], block_ns: float, prepare: Callable[[], None] = lambda: None
    ) -> None:
        self.call, self.prepare, self._block_ns = call, prepare, block_ns
        self.loop, self.calls, self.thrown_away, self.unstable = 1, 3, 1, False
        self.single_ns: list[int] = []
        self._warm: list[float] = []
        self._seconds, self._count = 0.0, 0

    def warm(self, plan: WarmUp) -> bool:
        """One block of the warm-up; whether it was the last that is needed."""
        self.prepare()
        start = time.perf_counter_ns()
        times: list[int] = []
        until = start + plan.seconds / _LAST * 1e9
        while not times or time.perf_counter_ns() < until:
            before = time.perf_counter_ns()
            self.call()
            times.append(time.perf_counter_ns() - before)
        self._seconds += (time.perf_counter_ns() - start) / 1e9
        self._count += len(times)
        self._warm.append(statistics.median(times))
        enough = self._seconds >= plan.seconds and self._count >= plan.calls
        if enough and len(self._warm) >= _LAST and settled(self._warm[-_LAST:]):
            return True
        comparable = len(self._warm) >= _FEWEST
        if self._seconds < plan.cap * (1 if comparable else _FEWEST):
            return False
        # Of calls as long as that there is nothing to compare, and little that had to settle.
        self.unstable = comparable and not settled(self._warm[-_LAST:])
        return True

    def fit(self) -> None:
        """Decide from the warm-up how many calls a block has."""
        once = max(1.0, self._warm[-1])
        self.loop = max(1, round(_CLOCK_SHARE * clock_cost() / once))
        self.calls = int(min(_CALLS, max(3, self._block_ns / (once * self.loop))))
        if once > _SLOW * self._block_ns:
            self.calls, self.thrown_away = 1, 0

    def run(self) -> int:
        """Median time of a call, in nanoseconds, behind one that is thrown away if it is short."""
        self.prepare()
        for _ in range(self.thrown_away):
            self.call()
        clock, call, loop, times = time.perf_counter_ns, self.call, range(self.loop), []
        for _ in range(self.calls):
            start = clock()
            for _ in loop:
                call()
            times.append((clock() - start) / self.loop)
        self._keep_single([round(each) for each in times])
        return round(statistics.median(times))

    def _keep_single(self, times: list[int]) -> None:
        """Looped calls hide their own tails: a few more are timed one by one, beside the block."""
        if self.loop == 1:
            self.single_ns += times
            return
        clock, call = time.perf_counter_ns, self.call
        found: list[int] = []
        until = clock() + self._block_ns / _SINGLE_SHARE
        while len(found) < 3 or (len(found) < _CALLS and clock() < until):
            start = clock()
            call()
            found.append(clock() - start)
        self.single_ns += found


def settled(times: Sequence[float]) -> bool:
    """Whether the two halves of the times agree.

    They do where their medians differ by less than 2 %, or by less than twice the standard error
    that the spread within the halves gives (of a median: 1.25 times that of a mean).
    """
    logs, half = np.log(np.maximum(np.asarray(times, dtype=float), 1.0)), len(times) // 2
    halves = (logs[:half], logs[-half:])
    medians = [float(np.median(part)) for part in halves]
    strays = np.concatenate([np.abs(part - m) for part, m in zip(halves, medians, strict=True)])
    error = 1.25 * 1.4826 * float(np.median(strays)) * math.sqrt(2 / half)
    return bool(abs(medians[0] - medians[1]) <= max(_ALIKE, 2 * error))


def clock_cost() -> float:
    """Nanoseconds that reading the clock takes."""
    start = time.perf_counter_ns()
    for _ in range(1000):
        time.perf_counter_ns()
    return (time.perf_counter_ns() - start) / 1000

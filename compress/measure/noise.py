"""What else happened on the machine while a process measured: counters of Linux, where it has them.

What a machine does not offer is None, never a guess. The files are described in proc(5), in the
kernel's "Pressure Stall Information" and in its "Control Group v2".
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:  # a worker imports no pydantic: it starts fast
    from compress.report.measure_schema import RawWorker

_ROOT = Path("/")
#: Length and repetitions of the calibration kernel: some milliseconds in all, in the first cache.
_CALIBRATION, _REPEATS = 4096, 9


@dataclass(frozen=True)
class Counters:
    """Counters at one moment, None for those that this machine does not have; times in ms."""

    moment: float
    involuntary_switches: int | None
    steal_ms: float | None
    cpu_pressure_ms: float | None
    throttled_ms: float | None
    throttled_periods: int | None


def read_counters(root: Path = _ROOT) -> Counters:
    """All counters now.

    Args:
        root: where /proc and /sys are looked for.
    """
    throttling = _throttling(root)
    return Counters(
        moment=time.monotonic(),
        involuntary_switches=_switches(),
        steal_ms=_steal(root),
        cpu_pressure_ms=_pressure(root),
        throttled_ms=throttling[0],
        throttled_periods=throttling[1],
    )


def noise_between(
    before: Counters, after: Counters, calibration: tuple[int, int]
) -> dict[str, Any]:
    """What was counted between two moments: the fields of a report's `Noise`."""
    names = ("involuntary_switches", "steal_ms", "cpu_pressure_ms", "throttled_ms")
    found: dict[str, Any] = {"calibration_ns": calibration}
    for name in (*names, "throttled_periods"):
        start, end = getattr(before, name), getattr(after, name)
        found[name] = None if start is None or end is None else round(end - start)
    return found | {"seconds": round(after.moment - before.moment, 3)}


def calibration_ns() -> int:
    """Median time of a fixed piece of work in numpy, on one thread."""
    values, times = np.linspace(0.0, 1.0, _CALIBRATION), []
    for _ in range(_REPEATS):
        start = time.perf_counter_ns()
        for _ in range(20):
            np.sqrt(values * values + 1.0)
        times.append(time.perf_counter_ns() - start)
    return round(statistics.median(times))


def describe_noise(workers: Sequence[RawWorker]) -> str:
    """One line for a person: how quiet the machine was; empty without workers."""
    if not workers:
        return ""
    noises = [worker.noise for worker in workers]
    seconds = sum(noise.seconds for noise in noises) or 1.0
    cpus = os.cpu_count() or 1
    parts = []
    for name, label, share in (
        ("steal_ms", "taken by the hypervisor", cpus),
        ("cpu_pressure_ms", "of the time some process waited for a CPU", 1),
        ("throttled_ms", "throttled", 1),
    ):
        values = [getattr(noise, name) for noise in noises]
        if None not in values:
            parts.append(f"{sum(values) / (10 * seconds * share):.1f} % {label}")
    switches = [noise.involuntary_switches for noise in noises]
    if None not in switches:
        total = sum(count for count in switches if count is not None)
        parts.append(f"{total / seconds:.0f} involuntary context switches a second")
    kernel = [time for noise in noises for time in noise.calibration_ns]
    spread = (max(kernel) - min(kernel)) / statistics.median(kernel)
    parts.append(f"a fixed piece of work varied by {100 * spread:.1f} % over all workers")
    return "; ".join(parts)


def _switches() -> int | None:
    try:
        import resource
    except ImportError:  # not on Windows
        return None
    return resource.getrusage(resource.RUSAGE_SELF).ru_nivcsw


def _steal(root: Path) -> float | None:
    """The eighth figure of the line "cpu", in ticks of the clock."""
    for line in _lines(root / "proc/stat"):
        words = line.split()
        if words and words[0] == "cpu" and len(words) > 8:
            return int(words[8]) * 1000 / os.sysconf("SC_CLK_TCK")
    return None


def _pressure(root: Path) -> float | None:
    for line in _lines(root / "proc/pressure/cpu"):
        if line.startswith("some "):
            return int(line.rpartition("total=")[2]) / 1000
    return None


def _throttling(root: Path) -> tuple[float | None, int | None]:
    """Milliseconds and periods in which this process's control group was throttled."""
    own = [line.rpartition(":")[2].lstrip("/") for line in _lines(root / "proc/self/cgroup")]
    group = root / "sys/fs/cgroup"
    for folder in (*(group / path for path in own), group, group / "cpu"):
        pairs = [line.split() for line in _lines(folder / "cpu.stat")]
        found = {pair[0]: int(pair[1]) for pair in pairs if len(pair) == 2}
        if "nr_throttled" in found:
            micro = found.get("throttled_usec", found.get("throttled_time", 0) / 1000)
            return micro / 1000, found["nr_throttled"]
    return None, None


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text().splitlines()
    except OSError:
        return []

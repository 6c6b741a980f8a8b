"""Latencies of candidates: one process times all of them, three more those that may be chosen."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from compress.measure.config import BenchConfig
from compress.measure.judge import Judge
from compress.measure.latency import Measured, measure
from compress.progress import Progress
from compress.runtime.interface import Target

#: A choice needs no more replication than this: the benchmark behind it measures again.
WORKERS = 4
_SETTINGS = {"rounds": 6, "control": False, "warm_up_cap_s": 0.1}
#: Loads of one model differ by a few percent; what is further behind in one process has lost.
_NEAR = 1.3


@dataclass(frozen=True)
class Timed:
    """What is known of the candidates' latencies.

    Attributes:
        ratios: name to latency / latency of the baseline, the geometric mean over batch sizes.
        measured: by one process, of all; and of those that may be chosen by all processes.
        failed: name to the reason, of those that could not be timed.
        interrupted: whether it is less than was to be measured.
    """

    ratios: dict[str, float]
    measured: tuple[Measured, ...]
    failed: dict[str, str]
    interrupted: bool = False

    def threads(self, name: str, batch: int) -> int:
        """The thread count at which an arm is fastest."""
        known = next(entry for entry in reversed(self.measured) if name in entry.arms())
        return known.best(name, batch)[2]


def time_candidates(
    targets: Mapping[str, Target],
    baseline: str,
    allowed: Collection[str],
    bench: BenchConfig,
    judge: Judge,
    device: str,
    progress: Progress,
) -> Timed:
    """Time all targets, interleaved.

    An interrupt ends the timing with what is known, once the first process has timed them all.

    Args:
        baseline: the target that the others are compared with.
        allowed: those that may be chosen if they are fast.
        bench: batch sizes and thread counts.
    """
    settings = {**_SETTINGS, "workers": 1}
    glance = measure(
        targets,
        bench.model_copy(update=settings),
        inputs=judge.batch,
        device=device,
        progress=progress,
        label="all candidates",
        keep_going=True,
    )
    ratios = {name: glance.overall(baseline, name) for name in glance.arms()}
    fastest = min(ratios[name] for name in ratios if name in allowed or name == baseline)
    near = [name for name in ratios if name in allowed and ratios[name] <= _NEAR * fastest]
    contenders = {name: targets[name] for name in dict.fromkeys([baseline, *near])}
    if len(contenders) == 1:
        return Timed(ratios, (glance,), glance.failed)
    try:
        more = measure(
            contenders,
            bench.model_copy(update=settings | {"workers": WORKERS - 1}),
            inputs=judge.batch,
            device=device,
            first=1,
            progress=progress,
            label="best candidates",
            keep_going=True,
            keep_interrupted=True,
        )
    except KeyboardInterrupt:
        return Timed(ratios, (glance,), glance.failed, interrupted=True)
    both = glance.only(more.arms()).joined(more)
    ratios = {name: ratio for name, ratio in ratios.items() if name not in more.failed}
    ratios |= {name: both.overall(baseline, name) for name in both.arms()}
    failed = glance.failed | more.failed
    return Timed(ratios, (glance, both), failed, len(both.workers) < WORKERS)

"""Latencies of candidates: a look at all, then three processes for those that may be chosen.

The look also tells at which thread counts an arm is worth timing on.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import numpy as np

from compress.measure.config import BenchConfig
from compress.measure.judge import Judge
from compress.measure.latency import Cell, Measured, measure
from compress.progress import Progress
from compress.runtime.interface import Target

#: A choice needs no more replication than this: the benchmark behind it measures again.
WORKERS = 3
_SETTINGS = {"control": False, "warm_up_cap_s": 0.1}
_LOOK, _CHOICE = {"workers": 1, "rounds": 2}, {"workers": WORKERS, "rounds": 6}
#: Loads of one model differ by a few percent; what is further behind in one process has lost.
_NEAR = 1.3
#: The same of an arm's thread counts: two of them differ by nothing, or by nearly two times.
_SLOW = 1.5


@dataclass(frozen=True)
class Timed:
    """What is known of the candidates' latencies.

    Attributes:
        ratios: name to latency / latency of the baseline, the geometric mean over batch sizes.
        measured: the look at all, and the processes for those that may be chosen.
        failed: name to the reason, of those that could not be timed.
        interrupted: whether it is less than was to be measured.
    """

    ratios: dict[str, float]
    measured: tuple[Measured, ...]
    failed: dict[str, str]
    interrupted: bool = False

    @property
    def contenders(self) -> set[str]:
        """Names of the arms that were timed last, and so best."""
        return set(self.measured[-1].arms())

    def threads(self, name: str, batch: int) -> int:
        """The thread count at which an arm is fastest."""
        return self._known(name).best(name, batch)[2]

    def ratio(self, name: str, baseline: str, batch: int) -> float:
        """Latency / latency of the baseline at one batch size."""
        return self._known(name).ratio(baseline, name, batch)[0]

    def _known(self, name: str) -> Measured:
        """The last measurement that an arm was in."""
        return next(entry for entry in reversed(self.measured) if name in entry.arms())


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

    An interrupt ends the timing with what is known, once all were looked at.

    Args:
        baseline: the target that the others are compared with.
        allowed: those that may be chosen if they are fast.
        bench: batch sizes and thread counts.
    """
    glance = measure(
        targets,
        bench.model_copy(update=_SETTINGS | _LOOK),
        inputs=judge.batch,
        device=device,
        progress=progress,
        label="all candidates",
        keep_going=True,
    )
    ratios = {name: glance.overall(baseline, name) for name in glance.arms()}
    near = _near(glance, baseline, allowed)
    contenders = {name: targets[name] for name in dict.fromkeys([baseline, *near])}
    if len(contenders) == 1:
        return Timed(ratios, (glance,), glance.failed)
    try:
        more = measure(
            contenders,
            bench.model_copy(update=_SETTINGS | _CHOICE),
            inputs=judge.batch,
            device=device,
            first=1,
            left_out=_slow_threads(glance),
            progress=progress,
            label="best candidates",
            keep_going=True,
            keep_interrupted=True,
        )
    except KeyboardInterrupt:
        return Timed(ratios, (glance,), glance.failed, interrupted=True)
    ratios = {name: ratio for name, ratio in ratios.items() if name not in more.failed}
    ratios |= {name: more.overall(baseline, name) for name in more.arms()}
    failed = glance.failed | more.failed
    return Timed(ratios, (glance, more), failed, len(more.workers) < WORKERS)


def _near(glance: Measured, baseline: str, allowed: Collection[str]) -> list[str]:
    """Of those that may be chosen the fastest ones, at any of the batch sizes."""
    names = [name for name in glance.arms() if name in allowed or name == baseline]
    found = set[str]()
    for size in glance.sizes():
        ratios = {name: glance.ratio(baseline, name, *size)[0] for name in names}
        most = _NEAR * min(ratios.values())
        found |= {name for name in names if ratios[name] <= most}
    return [name for name in names if name in found]


def _slow_threads(glance: Measured) -> list[Cell]:
    """Thread counts at which an arm has lost to itself; of a slow model they take the most time."""
    medians = {cell: float(np.median(blocks)) for cell, blocks in glance.blocks.items()}
    return [
        cell
        for cell, median in medians.items()
        if median > _SLOW * medians[glance.best(cell.arm, cell.batch, cell.length)]
    ]

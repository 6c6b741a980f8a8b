"""Latencies of candidates: ever more processes for ever fewer of those that may be chosen.

A look at all of them, which also tells at which thread counts an arm is worth timing on; then two
processes; then, where these leave several close together, four new ones for those: what won by luck
does not win again.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from compress.measure.config import BenchConfig
from compress.measure.judge import Judge
from compress.measure.latency import Cell, Measured, measure
from compress.progress import Progress
from compress.runtime.interface import Target

WORKERS = 2
#: A choice needs no more replication than this: the benchmark behind it measures again.
LAST_WORKERS = 4
_SETTINGS = {"control": False, "warm_up_cap_s": 0.1}
_LOOK, _ROUNDS = {"workers": 1, "rounds": 2}, 6
#: The last ones may take so long in all, or are fewer; none, where that leaves no more than before.
_LAST_SECONDS = 150.0
#: Loads of one model differ by a few percent; what is further behind in one process has lost.
_NEAR = 1.3
#: The same of two processes.
_CLOSE = 1.1
#: The same of an arm's thread counts: two of them differ by nothing, or by nearly two times.
_SLOW = 1.5


@dataclass(frozen=True)
class Timed:
    """What is known of the candidates' latencies.

    Attributes:
        ratios: name to latency / latency of the baseline, the geometric mean over batch sizes.
        measured: the look at all, and the processes for ever fewer of those that may be chosen.
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
    found, failed, interrupted = [glance], dict(glance.failed), False
    names, workers = _near(glance, baseline, allowed, _NEAR), WORKERS
    if set(names) <= {baseline}:
        return Timed(_ratios(found, baseline), (glance,), failed)
    for label in ("best candidates", "closest candidates"):
        contenders = {name: targets[name] for name in dict.fromkeys([baseline, *names])}
        start = time.monotonic()
        try:
            more = measure(
                contenders,
                bench.model_copy(update=_SETTINGS | {"workers": workers, "rounds": _ROUNDS}),
                inputs=judge.batch,
                device=device,
                first=sum(len(entry.workers) for entry in found),
                left_out=_slow_threads(glance),
                progress=progress,
                label=label,
                keep_going=True,
                keep_interrupted=True,
            )
        except KeyboardInterrupt:
            interrupted = True
            break
        found.append(more)
        failed |= more.failed
        interrupted = len(more.workers) < workers
        names = _near(more, baseline, allowed, _CLOSE)
        of_one = (time.monotonic() - start) / workers * len(names) / len(contenders)
        workers = min(LAST_WORKERS, int(_LAST_SECONDS / max(of_one, 1e-9)))
        if interrupted or len(names) < 2 or workers <= WORKERS:
            break
    return Timed(_ratios(found, baseline), tuple(found), failed, interrupted)


def _ratios(found: Sequence[Measured], baseline: str) -> dict[str, float]:
    """Of every arm by the last measurement that it was in; none of what failed in one of them."""
    ratios = dict[str, float]()
    for measured in found:
        ratios |= {name: measured.overall(baseline, name) for name in measured.arms()}
        ratios = {name: ratio for name, ratio in ratios.items() if name not in measured.failed}
    return ratios


def _near(measured: Measured, baseline: str, allowed: Collection[str], within: float) -> list[str]:
    """Of those that may be chosen the fastest ones, at any of the batch sizes or over all."""
    names = [name for name in measured.arms() if name in allowed or name == baseline]
    overall = {name: measured.overall(baseline, name) for name in names}
    found = {name for name in names if overall[name] <= within * min(overall.values())}
    for size in measured.sizes():
        ratios = {name: measured.ratio(baseline, name, *size)[0] for name in names}
        most = within * min(ratios.values())
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

"""Latencies of candidates: ever more processes for ever fewer of those that may be chosen.

A look at all of them, which also tells at which thread counts an arm is worth timing on; then two
processes; then, where these leave several close together, four new ones for those: what won by luck
does not win again. Models that do not fit into memory beside each other are timed in groups, the
baseline in each; slow ones are looked at with the smallest batch alone, and fewer are timed on.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from compress.measure.config import BenchConfig
from compress.measure.judge import Judge
from compress.measure.latency import Cell, Measured, footprints, measure
from compress.measure.memory import available
from compress.progress import Progress
from compress.runtime.interface import Target

WORKERS = 2
#: A choice needs no more replication than this: the benchmark behind it measures again.
LAST_WORKERS = 4
_SETTINGS = {"control": False, "warm_up_cap_s": 0.1, "limit_s": 150.0}
_LOOK, _ROUNDS = {"workers": 1, "rounds": 2}, 6
#: The last ones may take so long in all, or are fewer; none, where that leaves no more than before.
_LAST_SECONDS = 150.0
#: Loads of one model differ by a few percent; what is further behind in one process has lost.
_NEAR = 1.3
#: The same of two processes.
_CLOSE = 1.1
#: Of the memory that is available, what one process may take: a candidate may need more than the
#: model that came in.
_SHARE = 0.5
#: What a look may take, about, and how often an arm is called in it at least at one batch size and
#: thread count: once to bind its buffers, once to warm up, and in two rounds.
_LOOK_SECONDS, _CALLS = 300.0, 4
#: A baseline and one arm to compare with it: fewer say nothing.
_LEAST = 2

#: What was measured of arms side by side, each group of them with the baseline.
_Look = list[Measured]


@dataclass(frozen=True)
class Timed:
    """What is known of the candidates' latencies.

    Attributes:
        ratios: name to latency / latency of the baseline, the geometric mean over batch sizes.
        looks: at all, and then by more processes for ever fewer of those that may be chosen.
        failed: name to the reason, of those that could not be timed.
        interrupted: whether it is less than was to be measured.
    """

    ratios: dict[str, float]
    looks: tuple[_Look, ...]
    failed: dict[str, str]
    interrupted: bool = False

    @property
    def contenders(self) -> set[str]:
        """Names of the arms that were timed last, and so best."""
        return {name for group in self.looks[-1] for name in group.arms()}

    def threads(self, name: str, batch: int) -> int:
        """The thread count at which an arm is fastest."""
        known = self._known(name)
        return known.best(name, batch if batch in self.batches(name) else known.sizes()[-1][0])[2]

    def glanced_at(self, name: str) -> bool:
        """Whether others were timed at more batch sizes than this one."""
        return self.batches(name) < {batch for batch, _ in self.looks[-1][0].sizes()}

    def batches(self, name: str) -> set[int]:
        """Batch sizes that an arm was timed at: of slow models the others are for the best ones."""
        return {batch for batch, _ in self._known(name).sizes()}

    def ratio(self, name: str, baseline: str, batch: int) -> float:
        """Latency / latency of the baseline at one batch size."""
        return self._known(name).ratio(baseline, name, batch)[0]

    def _known(self, name: str) -> Measured:
        """The last measurement that an arm was in."""
        found = (group for look in reversed(self.looks) for group in look if name in group.arms())
        return next(found)


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
    look = _Looking(targets, baseline, bench, judge, device, progress)
    glance = look.at(targets, "all candidates", **_LOOK)
    found, interrupted = [glance], False
    names, workers = _near(glance, baseline, allowed, _NEAR), WORKERS
    names = look.affordable(names, glance)
    if set(names) <= {baseline}:
        return Timed(_ratios(found, baseline), (glance,), look.failed)
    look.left_out = _slow_threads(glance)
    for label in ("best candidates", "closest candidates"):
        start = time.monotonic()
        more = look.at(names, label, workers=workers, rounds=_ROUNDS)
        interrupted = look.interrupted
        if not more:
            break
        found.append(more)
        of_one = (time.monotonic() - start) / workers / len({baseline, *names})
        names = _near(more, baseline, allowed, _CLOSE)
        workers = min(LAST_WORKERS, int(_LAST_SECONDS / max(of_one * len(names), 1e-9)))
        if interrupted or len(names) < 2 or workers <= WORKERS:
            break
    return Timed(_ratios(found, baseline), tuple(found), look.failed, interrupted)


class _Looking:
    """Measures arms beside the baseline, as many at once as there is room for."""

    def __init__(
        self,
        targets: Mapping[str, Target],
        baseline: str,
        bench: BenchConfig,
        judge: Judge,
        device: str,
        progress: Progress,
    ) -> None:
        self.failed: dict[str, str] = {}
        self.left_out: list[Cell] = []
        self.interrupted = False
        self._targets, self._baseline, self._bench = targets, baseline, bench
        self._judge, self._device, self._progress = judge, device, progress
        self._workers, first = 0, {baseline: targets[baseline]}
        (self._takes,) = footprints(first, bench, inputs=judge.batch, device=device).values()
        self._free = available() if device == "cpu" else None
        slow = self._takes.seconds * _CALLS * len(targets) * len(bench.threads) > _LOOK_SECONDS
        self._batch = (min(bench.batch),) if slow else bench.batch

    def at(self, names: Collection[str], label: str, *, workers: int, rounds: int) -> _Look:
        """What so many processes say of arms; of fewer of them after an interrupt."""
        found: _Look = []
        first, self._workers = self._workers, self._workers + workers
        settings: dict[str, Any] = _SETTINGS | {"workers": workers, "rounds": rounds}
        settings |= {} if first else {"batch": self._batch}
        for group in self._groups(names):
            try:
                more = measure(
                    group,
                    self._bench.model_copy(update=settings),
                    inputs=self._judge.batch,
                    device=self._device,
                    first=first,
                    left_out=[cell for cell in self.left_out if cell.arm in group],
                    progress=self._progress,
                    label=label,
                    keep_going=True,
                    keep_interrupted=first > 0,
                )
            except KeyboardInterrupt:
                if not first:  # not all have been looked at
                    raise
                self.interrupted = True
                break
            found.append(more)
            self.failed |= more.failed
            self.interrupted = more.interrupted
            if self.interrupted:
                break
        return found

    @property
    def _room(self) -> int | None:
        """How many arms fit into memory beside each other; None where that is not known."""
        if self._free is None or not self._takes.bytes:
            return None
        each = self._takes.bytes * len(self._bench.threads)
        return max(_LEAST, int(self._free * _SHARE / each))

    def affordable(self, names: Collection[str], glance: _Look) -> list[str]:
        """The fastest ones, as many as two processes can time at all batch sizes."""
        most = int(_LOOK_SECONDS / max(self._takes.seconds * _CALLS * WORKERS, 1e-9))
        of = {name: group for group in glance for name in group.arms()}
        ratios = {name: of[name].overall(self._baseline, name) for name in names}
        kept = set(sorted(names, key=ratios.__getitem__)[: max(1, most)])
        return [name for name in names if name in kept]

    def _groups(self, names: Collection[str]) -> Iterator[dict[str, Target]]:
        others = [name for name in names if name != self._baseline]
        size = len(others) if self._room is None else self._room - 1
        for at in range(0, max(1, len(others)), max(1, size)):
            chosen = [self._baseline, *others[at : at + max(1, size)]]
            yield {name: self._targets[name] for name in chosen}


def _ratios(found: Sequence[_Look], baseline: str) -> dict[str, float]:
    """Of every arm by the last measurement that it was in; none of what failed in one of them."""
    ratios = dict[str, float]()
    for measured in (group for look in found for group in look):
        ratios |= {name: measured.overall(baseline, name) for name in measured.arms()}
        ratios = {name: ratio for name, ratio in ratios.items() if name not in measured.failed}
    return ratios


def _slow_threads(look: _Look) -> list[Cell]:
    """Thread counts at which an arm has lost to itself, in one group: one of them always stays."""
    of = {name: group for group in look for name in group.arms()}
    return [cell for group in look for cell in group.slow_threads() if of[cell.arm] is group]


def _near(look: _Look, baseline: str, allowed: Collection[str], within: float) -> list[str]:
    """Of those that may be chosen the fastest ones, at any of the batch sizes or over all."""
    of = {name: group for group in look for name in group.arms()}
    of = {name: group for name, group in of.items() if name in allowed or name == baseline}
    overall = {name: group.overall(baseline, name) for name, group in of.items()}
    found = {name for name in of if overall[name] <= within * min(overall.values())}
    for size in look[0].sizes():
        ratios = {name: group.ratio(baseline, name, *size)[0] for name, group in of.items()}
        most = within * min(ratios.values())
        found |= {name for name in of if ratios[name] <= most}
    return [name for name in of if name in found]

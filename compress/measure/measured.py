"""What a measurement found: figures, ratios, and the raw record of it in a report and back."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from compress.errors import InputError
from compress.report import measure_schema
from compress.report.measure_schema import (
    Latency,
    Percentile,
    RawCell,
    RawMeasurement,
    RawWorker,
    Size,
    in_order,
)
from compress.report.schema import Report
from compress.stats import Interval, quantile_interval, ratio_interval

#: Name of the arm that is the first one again, to see what the machine makes of no difference.
CONTROL = measure_schema.CONTROL
#: Blocks from which a 90th percentile can be told.
_LEAST_FOR_P90 = 29
#: Two thread counts of an arm differ by nothing, or by nearly two times.
_SLOW = 1.5
#: Percentiles of single calls.
_PERCENTILES = (50, 90, 95, 99)


class Cell(NamedTuple):
    """One arm at one size of call and one thread count.

    Attributes:
        length: of made-up inputs; None where the inputs decide.
    """

    arm: str
    batch: int
    threads: int
    length: int | None = None


@dataclass(frozen=True)
class Beside:
    """What was measured of one cell beside its blocks, one figure a worker.

    Attributes:
        calls_per_block: timed calls behind each block's median.
        load_ns: time to load the model.
        first_call_ns: time of its first call.
        unstable: whether its times had not settled when the warm-up had to end.
        single_ns: times of single calls, of all workers together.
    """

    calls_per_block: tuple[int, ...] = ()
    load_ns: tuple[int, ...] = ()
    first_call_ns: tuple[int, ...] = ()
    unstable: tuple[bool, ...] = ()
    single_ns: tuple[int, ...] = ()

    def joined(self, more: Beside) -> Beside:
        """These workers and then the others."""
        return Beside(
            self.calls_per_block + more.calls_per_block,
            self.load_ns + more.load_ns,
            self.first_call_ns + more.first_call_ns,
            self.unstable + more.unstable,
            self.single_ns + more.single_ns,
        )


@dataclass(frozen=True)
class Measured:
    """Block medians of every worker.

    Attributes:
        blocks: cell to one array a worker, (workers, rounds), in nanoseconds; a key without a
            length is a cell without one.
        calls: timed calls of each cell in all workers.
        beside: what else is known of each cell.
        workers: the processes; the places in their order are places in `blocks`.
        failed: name of an arm that was left out to the reason.
        interrupted: whether there were to be more workers.
    """

    blocks: dict[Cell, npt.NDArray[np.float64]]
    calls: dict[Cell, int]
    beside: dict[Cell, Beside] = field(default_factory=dict)
    workers: tuple[RawWorker, ...] = ()
    failed: dict[str, str] = field(default_factory=dict)
    interrupted: bool = False

    def __post_init__(self) -> None:
        for name in ("blocks", "calls", "beside"):
            cells = {Cell(*cell): known for cell, known in getattr(self, name).items()}
            object.__setattr__(self, name, cells)

    def joined(self, more: Measured) -> Measured:
        """These workers and others of the same arms and settings."""
        places = list(self.blocks)
        others = [places.index(cell) for cell in more.blocks]
        moved = [
            worker.model_copy(
                update={"order": [[others[at] for at in drawn] for drawn in worker.order]}
            )
            for worker in more.workers
        ]
        return Measured(
            {cell: np.concatenate([rows, more.blocks[cell]]) for cell, rows in self.blocks.items()},
            {cell: n + more.calls[cell] for cell, n in self.calls.items()},
            {cell: known.joined(more.beside[cell]) for cell, known in self.beside.items()},
            (*self.workers, *moved),
            self.failed | more.failed,
            self.interrupted or more.interrupted,
        )

    def arms(self) -> list[str]:
        """Names of all arms, the control included."""
        return list(dict.fromkeys(cell.arm for cell in self.blocks))

    def sizes(self) -> list[Size]:
        """Every batch size and length, smallest first."""
        return in_order(Size(cell.batch, cell.length) for cell in self.blocks)

    def best(self, arm: str, batch: int, length: int | None = None) -> Cell:
        """The cell of the thread count at which that arm is fastest."""
        wanted = (arm, batch, length)
        cells = [cell for cell in self.blocks if (cell.arm, cell.batch, cell.length) == wanted]
        return min(cells, key=lambda cell: _median(self.blocks[cell]))

    def slow_threads(self) -> list[Cell]:
        """Thread counts at which an arm has lost to itself; of a slow model they take most time."""
        medians = {cell: _median(blocks) for cell, blocks in self.blocks.items()}
        return [
            cell
            for cell, median in medians.items()
            if median > _SLOW * medians[self.best(cell.arm, cell.batch, cell.length)]
        ]

    def latency(self, arm: str) -> list[Latency]:
        """Figures of one arm for the report."""
        cells = [cell for cell in self.blocks if cell.arm == arm]
        order = sorted(cells, key=lambda cell: (cell.batch, cell.length or 0, cell.threads))
        return [self._point(cell) for cell in order]

    def _point(self, cell: Cell) -> Latency:
        blocks, known = self.blocks[cell], self.beside.get(cell, Beside())
        workers = [float(median) / 1e6 for median in np.median(blocks, axis=1)]
        median = statistics.median(workers)
        enough = blocks.size >= _LEAST_FOR_P90
        return Latency(
            batch=cell.batch,
            length=cell.length,
            threads=cell.threads,
            median_ms=median,
            p90_ms=float(np.percentile(blocks, 90)) / 1e6 if enough else None,
            n=self.calls[cell],
            throughput=cell.batch / median * 1e3,
            best=cell == self.best(cell.arm, cell.batch, cell.length),
            workers_ms=workers,
            percentiles=percentiles(known.single_ns),
            load_ms=_milliseconds(known.load_ns),
            first_call_ms=_milliseconds(known.first_call_ns),
            unstable=sum(known.unstable),
        )

    def ratio(
        self, baseline: str, candidate: str, batch: int, length: int | None = None
    ) -> tuple[float, Interval, int]:
        """Candidate's latency over the baseline's, each at its best thread count.

        A worker's figure is the median over rounds of the log ratio of blocks that ran beside each
        other; over workers it is the Hodges-Lehmann estimate with its exact interval.

        Returns:
            The ratio, its 95 % interval, and the number of workers.
        """
        ratios = np.exp(self.logs(baseline, candidate, batch, length))
        return *ratio_interval(ratios.tolist()), len(ratios)

    def logs(
        self, baseline: str, candidate: str, batch: int, length: int | None = None
    ) -> npt.NDArray[np.float64]:
        """Each worker's median log(candidate / baseline), (workers,), as in `ratio`."""
        over = self.blocks[self.best(candidate, batch, length)]
        under = self.blocks[self.best(baseline, batch, length)]
        medians: npt.NDArray[np.float64] = np.median(np.log(over / under), axis=1)
        return medians

    def overall(self, baseline: str, candidate: str) -> float:
        """Geometric mean over the batch sizes and lengths of the ratio."""
        logs = [math.log(self.ratio(baseline, candidate, *size)[0]) for size in self.sizes()]
        return math.exp(statistics.fmean(logs))

    def raw(self) -> RawMeasurement:
        """All that the figures follow from, for the report; single calls left out."""
        cells = []
        for cell, blocks in self.blocks.items():
            known = self.beside.get(cell, Beside())
            cells.append(
                RawCell(
                    arm=cell.arm,
                    batch=cell.batch,
                    length=cell.length,
                    threads=cell.threads,
                    blocks_ns=np.rint(blocks).astype(int).tolist(),
                    calls_per_block=list(known.calls_per_block),
                    load_ns=list(known.load_ns),
                    first_call_ns=list(known.first_call_ns),
                    unstable=[place for place, marked in enumerate(known.unstable) if marked],
                )
            )
        return RawMeasurement(cells=cells, workers=list(self.workers))


def from_report(report: Report) -> Measured:
    """The measurement that a report was made from: every ratio of it can be computed anew.

    Raises:
        InputError: the report is of a version that did not keep it.
    """
    if report.raw is None:
        raise InputError(
            f"the report of {report.created} holds no raw times; measure again with this version."
        )
    blocks, calls, beside = {}, {}, {}
    for entry in report.raw.cells:
        cell = Cell(entry.arm, entry.batch, entry.threads, entry.length)
        blocks[cell] = np.array(entry.blocks_ns, dtype=np.float64)
        calls[cell] = sum(entry.calls_per_block) * blocks[cell].shape[1]
        beside[cell] = Beside(
            tuple(entry.calls_per_block),
            tuple(entry.load_ns),
            tuple(entry.first_call_ns),
            tuple(place in entry.unstable for place in range(len(entry.blocks_ns))),
        )
    return Measured(blocks, calls, beside, tuple(report.raw.workers), dict(report.failed))


def percentiles(single_ns: Sequence[int]) -> dict[str, Percentile | None]:
    """Percentiles of single calls with their intervals; None where there are too few calls."""
    found: dict[str, Percentile | None] = {}
    for percent in _PERCENTILES if single_ns else ():
        interval = quantile_interval(single_ns, percent / 100)
        found[f"p{percent}"] = interval and Percentile(
            value_ms=float(np.percentile(single_ns, percent)) / 1e6,
            low_ms=interval[0] / 1e6,
            high_ms=interval[1] / 1e6,
            n=len(single_ns),
        )
    return found


def _milliseconds(nanoseconds: Sequence[int]) -> float | None:
    return statistics.median(nanoseconds) / 1e6 if nanoseconds else None


def _median(blocks: npt.NDArray[np.float64]) -> float:
    return float(np.median(np.median(blocks, axis=1)))

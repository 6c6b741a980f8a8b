"""What a report keeps of a measurement: its figures, and enough to compute every ratio anew."""

from __future__ import annotations

from collections.abc import Iterable
from statistics import median
from typing import Annotated, NamedTuple

from pydantic import Field

from compress.report.record import Record

#: Name of the arm that is the first one again, to see what the machine makes of no difference.
CONTROL = "first arm again"


class Size(NamedTuple):
    """What one call takes: so many samples, each of a length where inputs were made up so."""

    batch: int
    length: int | None = None

    def __str__(self) -> str:
        """Such as "batch 1", or "batch 1, length 64"."""
        return f"batch {self.batch}" + (f", length {self.length}" if self.length else "")


def in_order(sizes: Iterable[Size]) -> list[Size]:
    """Each size once, smallest batch first, then the shortest."""
    return sorted(set(sizes), key=lambda size: (size.batch, size.length or 0))


class Percentile(Record):
    """A percentile over single calls, with its order-statistic interval.

    Attributes:
        value_ms: the percentile, in milliseconds.
        low_ms, high_ms: each bound alone holds at 95 %, both together at 90 %, for calls that are
            independent. Calls of one process resemble each other, so the doubt is larger.
        n: calls, of all workers together.
    """

    value_ms: float = Field(ge=0)
    low_ms: float = Field(ge=0)
    high_ms: float = Field(ge=0)
    n: int = Field(ge=1)


class Latency(Record):
    """Time of one call at one batch size and thread count.

    Attributes:
        batch: samples a call.
        length: of made-up inputs; None where the inputs decide.
        threads: intra-op threads of the runtime.
        median_ms: median over workers of each worker's median, in milliseconds.
        p90_ms: 90th percentile of all timed blocks; None where n is too small for one (29).
        n: timed calls in all workers together.
        throughput: samples a second at `median_ms`.
        best: whether this is the arm's fastest thread count at this batch size.
        workers_ms: each worker's median, in milliseconds.
        percentiles: "p50", "p90", "p95" and "p99" over single calls; None where n is too small for
            an interval (5, 29, 59, 299).
        load_ms, first_call_ms: medians over workers of the time to load the model and of its first
            call; None where they were not measured.
        unstable: how many workers began to time before the warm-up had settled.
    """

    batch: int = Field(ge=1)
    length: int | None = Field(default=None, ge=1)
    threads: int = Field(ge=1)
    median_ms: float = Field(gt=0)
    p90_ms: Annotated[float, Field(gt=0)] | None
    n: int = Field(ge=1)
    throughput: float = Field(gt=0)
    best: bool
    workers_ms: list[Annotated[float, Field(gt=0)]]
    percentiles: dict[str, Percentile | None] = {}
    load_ms: float | None = Field(default=None, ge=0)
    first_call_ms: float | None = Field(default=None, ge=0)
    unstable: int = 0

    @property
    def size(self) -> Size:
        """Batch and length."""
        return Size(self.batch, self.length)


class Noise(Record):
    """What disturbed one worker while it measured; None for what the machine does not tell.

    Attributes:
        seconds: that the measuring took, warm-up included.
        involuntary_switches: how often the kernel took the CPU from the worker.
        steal_ms: time that the hypervisor gave to others, over all CPUs.
        cpu_pressure_ms: time in which some process of the machine waited for a CPU.
        throttled_ms: time in which the worker's control group was throttled.
        throttled_periods: how often that happened.
        calibration_ns: a fixed piece of work in numpy, at the start and at the end.
    """

    seconds: float
    involuntary_switches: int | None = None
    steal_ms: int | None = None
    cpu_pressure_ms: int | None = None
    throttled_ms: int | None = None
    throttled_periods: int | None = None
    calibration_ns: tuple[int, int]


class RawWorker(Record):
    """One measuring process.

    Attributes:
        seed: of its coin.
        order: for each batch size and length the places in `RawMeasurement.cells`, in the order
            that the coin gave: they are loaded and timed forward, then backward, backward, forward,
            and so on.
        cpus: numbers of the CPUs that it was allowed to run on; None where that cannot be told.
        noise: what disturbed it.
    """

    seed: int
    order: list[list[int]]
    cpus: list[int] | None = None
    noise: Noise


class RawCell(Record):
    """One arm at one batch size, length and thread count, in every worker.

    Attributes:
        arm: its name; the control's is `CONTROL`.
        length: of made-up inputs; None where the inputs decide.
        blocks_ns: (workers, rounds) medians of blocks, nanoseconds a call.
        calls_per_block: (workers,) timed calls behind each of these medians.
        load_ns: (workers,) time to load the model.
        first_call_ns: (workers,) time of the first call.
        unstable: numbers of the workers whose warm-up ended before the times had settled.
    """

    arm: str
    batch: int = Field(ge=1)
    length: int | None = Field(default=None, ge=1)
    threads: int = Field(ge=1)
    blocks_ns: list[list[Annotated[int, Field(gt=0)]]]
    calls_per_block: list[Annotated[int, Field(gt=0)]] = []
    load_ns: list[Annotated[int, Field(ge=0)]] = []
    first_call_ns: list[Annotated[int, Field(ge=0)]] = []
    unstable: list[int] = []


class RawMeasurement(Record):
    """Everything that the latencies and ratios of a report follow from.

    Attributes:
        cells: every arm, the control included, at every batch size and thread count.
        workers: the processes, in the order in which they ran.
    """

    cells: list[RawCell]
    workers: list[RawWorker] = []

    def worker_ratios(
        self, baseline: str, candidate: str, batch: int, length: int | None = None
    ) -> list[float]:
        """Each worker's candidate / baseline: the median over rounds, blocks beside each other.

        Each arm at the thread count at which it is fastest; empty where one was not measured.
        """
        fastest = [self._fastest(arm, Size(batch, length)) for arm in (baseline, candidate)]
        under, over = fastest
        if under is None or over is None:
            return []
        pairs = zip(under.blocks_ns, over.blocks_ns, strict=True)
        return [
            median(after / before for before, after in zip(*blocks, strict=True))
            for blocks in pairs
        ]

    def _fastest(self, arm: str, size: Size) -> RawCell | None:
        wanted = (arm, *size)
        cells = [cell for cell in self.cells if (cell.arm, cell.batch, cell.length) == wanted]
        return min(cells, key=lambda cell: median(map(median, cell.blocks_ns)), default=None)

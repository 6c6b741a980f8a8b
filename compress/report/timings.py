"""The table of every timing: what each arm took at each batch size and thread count."""

from __future__ import annotations

from compress.report import formatting
from compress.report.formatting import DASH
from compress.report.measure_schema import Latency, Percentile
from compress.report.schema import Report
from compress.report.tables import Cell, Column, Table

#: Percentiles of single calls that are shown.
_PERCENTILES = ("p50", "p90", "p95", "p99")


def timings_table(report: Report) -> Table:
    """Every batch size, length and thread count that was timed."""
    columns = [
        Column("Arm", numeric=False),
        Column("Batch"),
        Column("Length"),
        Column("Threads"),
        Column("Median"),
        *(Column(name, "single calls, 90 %") for name in _PERCENTILES),
        Column("Samples a second"),
        Column("Calls"),
        Column("Worker medians"),
        Column("Load"),
        Column("First call"),
    ]
    rows = [
        [
            Cell(arm.name),
            Cell(str(point.batch), sort=point.batch),
            Cell(formatting.count(point.length), sort=point.length),
            Cell(str(point.threads), tags=("best",) if point.best else (), sort=point.threads),
            _median_cell(point),
            *(_percentile_cell(point.percentiles.get(name)) for name in _PERCENTILES),
            Cell(formatting.number(point.throughput), sort=point.throughput),
            Cell(formatting.count(point.n), sort=point.n),
            Cell(_spread(point.workers_ms), sort=min(point.workers_ms, default=None)),
            Cell(formatting.milliseconds(point.load_ms), sort=point.load_ms),
            Cell(formatting.milliseconds(point.first_call_ms), sort=point.first_call_ms),
        ]
        for arm in report.arms
        for point in arm.latency
    ]
    return Table(columns, rows).without_empty_columns()


def _median_cell(point: Latency) -> Cell:
    """The median, marked where some worker began to time before the warm-up had settled."""
    figure = formatting.milliseconds(point.median_ms)
    if not point.unstable:
        return Cell(figure, sort=point.median_ms)
    share = f"in {point.unstable} of {formatting.plural(len(point.workers_ms), 'worker')}"
    return Cell(figure, (share,), ("unstable",), sort=point.median_ms)


def _percentile_cell(found: Percentile | None) -> Cell:
    if found is None:
        return Cell()
    bounds = formatting.interval(formatting.number(found.low_ms), formatting.number(found.high_ms))
    return Cell(formatting.milliseconds(found.value_ms), (bounds,), sort=found.value_ms)


def _spread(values: list[float]) -> str:
    if not values:
        return DASH
    low, high = formatting.number(min(values)), formatting.number(max(values))
    return f"{low} to {high} ms"

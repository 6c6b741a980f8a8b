"""The tables of a report as cells of text, for the HTML page and for Markdown alike."""

from __future__ import annotations

from dataclasses import dataclass, field

from compress.report import formatting
from compress.report.formatting import DASH, MetricFormat
from compress.report.gains import (
    batches,
    find_arm,
    latency_gain,
    quality_drop,
    report_metric,
    size_gain,
)
from compress.report.schema import Arm, Candidate, Quality, Report


@dataclass(frozen=True)
class Cell:
    """One cell: the figure, quieter lines beneath it, and words that are drawn as tags.

    Attributes:
        sort: the number that a page sorts the cell by; None for its text, and for "unknown".
    """

    text: str = DASH
    notes: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()
    sort: float | None = None


@dataclass(frozen=True)
class Column:
    """One column: heading, note on its unit, how it is set, whether a summary keeps it."""

    heading: str
    note: str = ""
    numeric: bool = True
    brief: bool = False


@dataclass(frozen=True)
class Table:
    """Columns and rows of equally many cells; the first column names the row.

    Attributes:
        sortable: whether the cells of a column can be compared with each other.
    """

    columns: list[Column]
    rows: list[list[Cell]] = field(default_factory=list)
    sortable: bool = True

    def without_empty_columns(self, *, brief: bool = False) -> Table:
        """Without the columns in which no row says anything; `brief` keeps the main ones."""
        kept = [
            place
            for place, column in enumerate(self.columns)
            if (column.brief or not brief) and any(row[place].text != DASH for row in self.rows)
        ]
        rows = [[row[place] for place in kept] for row in self.rows]
        return Table([self.columns[place] for place in kept], rows, self.sortable)


def arms_table(report: Report) -> Table:
    """Every arm with its accuracy, latency at every batch size, size and cost."""
    metric = report_metric(report)
    name = metric.label if metric else "quality"
    unit = f" in {metric.unit}" if metric and metric.unit else ""
    sizes = batches(report)
    columns = [
        Column("Arm", numeric=False, brief=True),
        Column("Precision", numeric=False, brief=True),
        Column(metric.heading if metric else "Quality", "test split", brief=True),
        Column(_worse(metric), f"paired{unit}", brief=True),
        *(Column(f"Latency, batch {batch}", "× faster", brief=True) for batch in sizes),
        Column("File", "× smaller", brief=True),
        Column("Parameters"),
        Column("MACs", "one sample"),
        Column("Validation", name),
        Column("Peak memory"),
        Column("Made in"),
    ]
    return Table(columns, [_arm_row(report, arm, sizes) for arm in report.arms])


def _worse(metric: MetricFormat | None) -> str:
    return metric.change.capitalize() if metric else "Drop"


def _arm_row(report: Report, arm: Arm, sizes: list[int]) -> list[Cell]:
    shrunk = size_gain(report, arm)
    return [
        Cell(arm.name, _origin(arm), _roles(report, arm)),
        Cell(arm.precision, _runtime(report, arm)),
        _quality_cell(arm.quality),
        _drop_cell(report, arm),
        *(_latency_cell(report, arm, batch) for batch in sizes),
        Cell(
            formatting.size(arm.size_bytes),
            (formatting.times(shrunk.factor),) if shrunk else (),
            sort=arm.size_bytes,
        ),
        Cell(formatting.count(arm.parameters), sort=arm.parameters),
        Cell(formatting.magnitude(arm.macs), sort=arm.macs),
        _quality_cell(arm.validation),
        Cell(formatting.size(arm.peak_memory_bytes), sort=arm.peak_memory_bytes),
        Cell(formatting.seconds(arm.seconds), sort=arm.seconds),
    ]


def _origin(arm: Arm) -> tuple[str, ...]:
    made = f"{arm.kind} from {arm.parent}" if arm.parent else arm.kind
    return (made, f"control of {arm.control_of}") if arm.control_of else (made,)


def _runtime(report: Report, arm: Arm) -> tuple[str, ...]:
    """Where an arm runs, said only where the arms differ in it."""
    alike = len({(other.runtime, other.device) for other in report.arms}) == 1
    return () if alike else (f"{arm.runtime}, {arm.device}",)


def _roles(report: Report, arm: Arm) -> tuple[str, ...]:
    roles = {
        "baseline": arm.name == report.baseline,
        "final": arm.name == report.final,
        "control": arm.control_of is not None,
    }
    return tuple(role for role, held in roles.items() if held)


def _quality_cell(quality: Quality | None) -> Cell:
    if quality is None:
        return Cell()
    metric = formatting.metric_format(quality.metric)
    notes = metric.basis(quality.interval, quality.n)
    return Cell(metric.value(quality.value, quality.n), notes, sort=quality.value)


def _drop_cell(report: Report, arm: Arm) -> Cell:
    found, metric = quality_drop(report, arm), report_metric(report)
    if found is None or found.difference is None or metric is None:
        return Cell()
    n = found.n or (arm.quality.n if arm.quality else 1)
    notes = (metric.interval(found.interval, n),) if found.interval else ()
    figure = metric.difference(found.difference, n)
    return Cell(figure, notes, _doubt(found.verdict), sort=found.difference)


def _latency_cell(report: Report, arm: Arm, batch: int) -> Cell:
    point = arm.best_latency(batch)
    if point is None:
        return Cell()
    gain = latency_gain(report, arm, batch)
    threads = formatting.plural(point.threads, "thread")
    figure = formatting.milliseconds(point.median_ms)
    if gain is None:
        return Cell(figure, (threads,), sort=point.median_ms)
    change = f"{formatting.times(gain.factor)} {gain.bounds()}".rstrip()
    return Cell(figure, (change, threads), _doubt(gain.verdict), sort=point.median_ms)


def _doubt(verdict: str | None) -> tuple[str, ...]:
    return (verdict,) if verdict in ("regressed", "inconclusive") else ()


def candidates_table(report: Report) -> Table:
    """What the stages built and kept or refused, and why."""
    metric = report_metric(report)
    unit = f", {metric.unit}" if metric and metric.unit else ""
    columns = [
        Column("Stage", numeric=False, brief=True),
        Column("Candidate", numeric=False, brief=True),
        Column("Outcome", numeric=False, brief=True),
        Column(_worse(metric), f"validation{unit}", brief=True),
        Column("Speed", "× of the stage's input", brief=True),
        Column("File", brief=True),
        Column("Reason", numeric=False, brief=True),
    ]
    return Table(columns, [_candidate_row(report, entry, metric) for entry in report.candidates])


def _candidate_row(report: Report, entry: Candidate, metric: MetricFormat | None) -> list[Cell]:
    speed = 1 / entry.latency_ratio if entry.latency_ratio else None
    return [
        Cell(entry.stage),
        Cell(entry.name),
        Cell("", tags=("kept" if entry.kept else "refused",)),
        Cell(_candidate_drop(report, entry, metric), sort=entry.drop),
        Cell(formatting.times(speed), sort=speed),
        Cell(formatting.size(entry.size_bytes), sort=entry.size_bytes),
        Cell(entry.reason),
    ]


def _candidate_drop(report: Report, entry: Candidate, metric: MetricFormat | None) -> str:
    if entry.drop is None:
        return DASH
    if metric is None:
        return formatting.number(entry.drop)
    arm = find_arm(report, entry.stage) or find_arm(report, report.baseline)
    n = arm.validation.n if arm and arm.validation else 1
    return metric.difference(entry.drop, n)


def operators_table(report: Report) -> Table:
    """How many nodes of each computing operator type run in which precision."""
    types = sorted({kind for arm in report.arms for kind in arm.operators})
    columns = [Column("Arm", numeric=False), *(Column(kind, numeric=False) for kind in types)]
    rows = [
        [Cell(arm.name), *(_operator_cell(arm.operators.get(kind, {})) for kind in types)]
        for arm in report.arms
        if arm.operators
    ]
    return Table(columns, rows)


def _operator_cell(counts: dict[str, int]) -> Cell:
    return Cell(formatting.nodes(counts), sort=sum(counts.values()) or None)


def metrics_table(report: Report) -> Table:
    """The further metrics of the test split."""
    found = [(arm, arm.quality.details) for arm in report.arms if arm.quality]
    names = sorted({name for _, details in found for name in details})
    headings = [formatting.metric_format(name).heading for name in names]
    columns = [Column("Arm", numeric=False), *(Column(heading) for heading in headings)]
    rows = [
        [Cell(arm.name), *(Cell(_detail(name, details), sort=details.get(name)) for name in names)]
        for arm, details in found
        if details
    ]
    return Table(columns, rows)


def _detail(name: str, details: dict[str, float]) -> str:
    if name not in details:
        return DASH
    return formatting.metric_format(name).value(details[name], 1)

"""The table of a check, for the HTML page, for Markdown and for the terminal alike."""

from __future__ import annotations

from compress.report import formatting
from compress.report.formatting import DASH
from compress.report.gains import report_metric
from compress.report.gates_schema import Further, Promise
from compress.report.measure_schema import Size
from compress.report.schema import Arm, Comparison, Report
from compress.report.tables import Cell, Column, Table


def gate_table(report: Report) -> Table:
    """What a check compared: both figures, the change with its interval, and the verdict."""
    if report.promises:
        return _promises_table(report)
    columns = [
        Column("Compared", numeric=False, brief=True),
        Column("Baseline", brief=True),
        Column("Candidate", brief=True),
        Column("Change", brief=True),
        Column("Verdict", numeric=False, brief=True),
    ]
    if report.gate is None:
        return Table(columns)
    rows = [_gate_row(report, entry) for entry in report.comparisons]
    rows += [_further_row(entry) for entry in report.further]
    return Table(columns, rows, sortable=False)


def comparison_name(report: Report, entry: Comparison) -> str:
    """What a comparison is about, such as "Latency, batch 1"."""
    return _compared(entry, _arms(report, entry))[0]


def comparison_line(report: Report, entry: Comparison) -> str:
    """Both figures of a comparison and the change with its interval, in one line."""
    _, (before, after) = _compared(entry, _arms(report, entry))
    return f"{before} → {after}: {_change(report, entry)}"


def _arms(report: Report, entry: Comparison) -> list[Arm]:
    return [report.arm(name) for name in (entry.baseline, entry.candidate)]


def _promises_table(report: Report) -> Table:
    """What a gate file promises, what was found, and what came of it."""
    columns = [
        Column("Gate", numeric=False, brief=True),
        Column("Promised", numeric=False, brief=True),
        Column("Found", brief=True),
        Column("Outcome", numeric=False, brief=True),
    ]
    return Table(columns, [_promise_row(entry) for entry in report.promises], sortable=False)


def promise_name(entry: Promise) -> str:
    """What a gate of a gate file is about, such as "int8 latency, batch 1"."""
    size = "" if entry.batch is None else f", {Size(entry.batch, entry.length)}"
    return f"{entry.candidate} {entry.metric}{size}"


def _promise_row(entry: Promise) -> list[Cell]:
    return [
        Cell(promise_name(entry)),
        Cell(entry.promised),
        Cell(entry.found or DASH),
        Cell("", (entry.reason,) if entry.reason else (), (entry.outcome,)),
    ]


def _gate_row(report: Report, entry: Comparison) -> list[Cell]:
    name, figures = _compared(entry, _arms(report, entry))
    return [
        Cell(name),
        *(Cell(figure) for figure in figures),
        Cell(_change(report, entry)),
        Cell("", tags=(entry.verdict,)),
    ]


def _further_row(entry: Further) -> list[Cell]:
    metric = formatting.metric_format(entry.metric, entry.higher_is_better)
    return [
        Cell(f"{metric.heading}, test split"),
        *(Cell(metric.value(value, entry.n)) for value in entry.values),
        Cell(further_change(entry)),
        Cell("told, not judged"),
    ]


def further_change(entry: Further) -> str:
    """How much worse the candidate is in a further metric, with its interval."""
    metric = formatting.metric_format(entry.metric, entry.higher_is_better)
    text = f"{metric.change} {metric.difference(entry.difference, entry.n)} {metric.unit}".rstrip()
    return text if entry.interval is None else f"{text} {metric.interval(entry.interval, entry.n)}"


def _compared(entry: Comparison, arms: list[Arm]) -> tuple[str, list[str]]:
    """What a comparison is about, and the figure of each arm."""
    if entry.what == "latency":
        points = [arm.best_latency(*entry.size) for arm in arms]
        figures = [formatting.milliseconds(point.median_ms) if point else DASH for point in points]
        return f"Latency, {entry.size}", figures
    if entry.what == "quality":
        cells = [_quality(arm) for arm in arms]
        quality = arms[0].quality
        name = formatting.metric_format(quality.metric).heading if quality else "Quality"
        return f"{name}, test split", cells
    if entry.what == "size":
        return "File", [formatting.size(arm.size_bytes) for arm in arms]
    if entry.what == "int8":
        return _operators(entry, arms)
    if entry.what == "parameters":
        return "Parameters", [formatting.count(arm.parameters) for arm in arms]
    return "MACs, one sample", [formatting.magnitude(arm.macs) for arm in arms]


def _operators(entry: Comparison, arms: list[Arm]) -> tuple[str, list[str]]:
    if entry.operator is None:
        return "Operators in int8", [str(arm.int8_nodes) for arm in arms]
    counts = [arm.operators.get(entry.operator, {}) for arm in arms]
    return f"{entry.operator} operators", [formatting.nodes(each) for each in counts]


def _change(report: Report, entry: Comparison) -> str:
    if entry.what == "int8":
        fell = round(entry.difference or 0)
        if fell:
            return f"{abs(fell)} {'gained' if fell < 0 else 'fell'}"
        return "same" if entry.operator is None else "changed"
    if entry.what == "quality":
        metric = report_metric(report)
        if metric is None or entry.difference is None:
            return DASH
        n = entry.n or 1
        bounds = f" {metric.interval(entry.interval, n)}" if entry.interval else ""
        return (
            f"{metric.change} {metric.difference(entry.difference, n)} {metric.unit}".rstrip()
            + bounds
        )
    if entry.ratio is None:
        return DASH
    bounds = f" [{entry.interval[0]:.3f}, {entry.interval[1]:.3f}]" if entry.interval else ""
    return f"{entry.ratio:.3f} ×{bounds}"


def _quality(arm: Arm) -> str:
    if arm.quality is None:
        return DASH
    return formatting.metric_format(arm.quality.metric).value(arm.quality.value, arm.quality.n)

"""The latencies of a check as ratios to the baseline, against the margin."""

from __future__ import annotations

from markupsafe import Markup

from compress.report.formatting import DASH, interval, milliseconds
from compress.report.gains import find_arm
from compress.report.measure_schema import CONTROL
from compress.report.pictures import Width
from compress.report.schema import Comparison, Gate, Report
from compress.report.workers import Row, Strips


def ratio_rows(report: Report) -> list[Row]:
    """Baseline, candidate and control of every batch size that a check compared."""
    if report.gate is None:
        return []
    latencies = [entry for entry in report.comparisons if entry.what == "latency" and entry.ratio]
    several = len(latencies) > 1
    return [
        row
        for entry in latencies
        for row in _rows(report, report.gate, entry, f", {entry.size}" if several else "")
    ]


def _rows(report: Report, gate: Gate, entry: Comparison, where: str) -> list[Row]:
    assert entry.batch is not None
    assert entry.ratio is not None
    baseline = find_arm(report, entry.baseline)
    point = baseline.best_latency(*entry.size) if baseline else None
    shown = milliseconds(point.median_ms) if point else DASH
    pair = (entry.baseline, entry.candidate)
    ratios = report.raw.worker_ratios(*pair, *entry.size) if report.raw else ()
    bounds = entry.interval
    figure = f"{entry.ratio:.3f} ×" + (
        f" {interval(*(f'{bound:.3f}' for bound in bounds))}" if bounds else ""
    )
    rows = [
        Row(f"baseline{where}", "baseline", shown, (), 1.0),
        Row(f"candidate{where}", "arm", figure, ratios, entry.ratio, bounds),
    ]
    if entry.batch in gate.control:
        again = gate.control[entry.batch]
        strays = (
            report.raw.worker_ratios(entry.baseline, CONTROL, *entry.size) if report.raw else ()
        )
        rows.append(Row(f"control{where}", "control", f"{again:.3f} ×", strays, again))
    return rows


def ratio_picture(report: Report, width: Width) -> Markup:
    """The rows over the band that counts as equal; beyond it the side that counts as regressed."""
    rows = ratio_rows(report)
    if not rows or report.gate is None:
        return Markup("")
    margin = report.gate.margin
    around = (1 / (1 + 2 * margin), 1 + 2 * margin)
    description = "Latency of candidate and control as a ratio to the baseline's"
    strips = Strips(rows, "Ratio to the baseline (log scale)", width, description, around)
    strips.shade("slower", 1 + margin, strips.axis.high)
    strips.shade("equal", 1 - margin, 1 + margin)
    strips.rule("origin", 1.0)
    return strips.drawn()

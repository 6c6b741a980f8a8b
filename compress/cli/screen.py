"""What a person sees: progress bars on a terminal, and tables."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from compress.progress import Progress, quiet

if TYPE_CHECKING:
    from compress.report.schema import Arm, Report
    from compress.report.tables import Table


@contextmanager
def progress_bars(enabled: bool = True) -> Iterator[Progress]:
    """A callback that draws one bar at a time on stderr; silent where stderr is no terminal."""
    if not (enabled and sys.stderr.isatty()):
        yield quiet
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bars

    columns = (
        TextColumn("{task.description:24}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    with Bars(*columns, console=Console(stderr=True), transient=True) as bars:
        task = bars.add_task("", total=None)
        shown = ""

        def advance(label: str, done: int, total: int) -> None:
            nonlocal shown
            if label != shown or done == 1:
                bars.reset(task, description=label, total=total, completed=0)
                shown = label
            bars.update(task, completed=done, total=total)

        yield advance


def say(text: str) -> None:
    """One line for a person, on stderr, so that stdout stays for results."""
    print(text, file=sys.stderr, flush=True)


def results_table(report: Report, width: int | None = None) -> str:
    """Every stage with its quality, latency, size, parameters, MACs, and ratios to the start.

    Args:
        width: of the terminal, in characters; the least needed columns go until the table fits.
            None keeps them all.
    """
    batches = sorted({point.batch for arm in report.arms for point in arm.latency})
    header = ["stage", "precision", "quality (test)", "95 % interval"]
    for batch in batches:
        header += [f"ms at {batch}", "faster"]
    header += ["kB", "smaller", "params", "MACs"]
    rows = _fit([header] + [_row(report, arm, batches) for arm in report.arms], width)
    header = rows[0]
    widths = _widths(rows)
    lines = []
    for number, row in enumerate(rows):
        cells = [
            cell.ljust(size) if title in ("stage", "precision") else cell.rjust(size)
            for title, cell, size in zip(header, row, widths, strict=True)
        ]
        lines.append("  ".join(cells).rstrip())
        if number == 0:
            lines.append("  ".join("─" * size for size in widths))
    return "\n".join(lines)


def gate_table(report: Report) -> str:
    """What a check compared, a line each."""
    from compress.report.gate_table import gate_table as cells

    return table_text(cells(report))


def table_text(table: Table, width: int | None = None) -> str:
    """A report's table as text; tags of a cell, and its notes in brackets, stand behind its figure.

    Args:
        width: of the terminal, in characters; where the table is wider, long names are shortened in
            their middle, and then what no summary needs goes. None keeps everything.
    """
    rows = _table_rows(table)
    columns = table.columns
    if width is not None and _total(rows) > width:
        rows = [[_shortened(text) for text in row] for row in rows]
    if width is not None and _total(rows) > width:
        kept = [place for place, column in enumerate(columns) if column.brief]
        rows = [[row[place] for place in kept] for row in rows]
        columns = [columns[place] for place in kept]
    widths = _widths(rows)
    lines = [
        "  ".join(
            cell.rjust(size) if column.numeric else cell.ljust(size)
            for column, cell, size in zip(columns, row, widths, strict=True)
        ).rstrip()
        for row in rows
    ]
    return "\n".join([lines[0], "  ".join("─" * size for size in widths), *lines[1:]])


#: Characters to which a name is cut where a table is too wide.
_SHORT = 36


def _table_rows(table: Table) -> list[list[str]]:
    heads = [column.heading for column in table.columns]
    return [heads] + [
        [
            " ".join([cell.text, *cell.tags, *(f"({note})" for note in cell.notes)]).strip()
            for cell in row
        ]
        for row in table.rows
    ]


def _shortened(text: str) -> str:
    half = _SHORT // 2
    return text if len(text) <= _SHORT else f"{text[: half - 1]}…{text[-half:]}"


def _total(rows: list[list[str]]) -> int:
    return sum(_widths(rows)) + 2 * (len(rows[0]) - 1)


#: What goes first from a table that is too wide; the report has it all.
_EXPENDABLE = ("MACs", "params", "95 % interval", "precision", "kB")


def _fit(rows: list[list[str]], width: int | None) -> list[list[str]]:
    for name in _EXPENDABLE:
        if width is None or _total(rows) <= width:
            break
        if name in rows[0]:
            column = rows[0].index(name)
            rows = [row[:column] + row[column + 1 :] for row in rows]
    return rows


def _widths(rows: list[list[str]]) -> list[int]:
    return [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]


def terminal_width() -> int | None:
    """Characters in a line of the terminal that stdout is; None where it is none."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else None


def _row(report: Report, arm: Arm, batches: list[int]) -> list[str]:
    marks = {report.final: " ← final", report.baseline: " (baseline)"}
    name = arm.name + marks.get(arm.name, " (control)" if arm.control_of else "")
    row = [name, arm.precision]
    if arm.quality:
        bounds = arm.quality.interval
        between = f"{bounds[0]:.4f}–{bounds[1]:.4f}" if bounds else "–"
        row += [f"{arm.quality.value:.4f}", between]
    else:
        row += ["–", "–"]
    for batch in batches:
        point, entry = arm.best_latency(batch), report.comparison(arm.name, "latency", batch)
        row.append(f"{point.median_ms:.3g}" if point else "–")
        row.append(f"{1 / entry.ratio:.1f} ×" if entry and entry.ratio else "–")
    size = report.comparison(arm.name, "size")
    row += [
        f"{arm.size_bytes / 1e3:,.1f}",
        f"{1 / size.ratio:.1f} ×" if size and size.ratio else "–",
    ]
    row += [
        f"{arm.parameters:,}" if arm.parameters else "–",
        f"{arm.macs / 1e6:.2f} M" if arm.macs else "–",
    ]
    return row


def samples_line(report: Report) -> str:
    """How many samples the qualities stand on."""
    arm = next((arm for arm in report.arms if arm.quality), None)
    if arm is None or arm.quality is None:
        return "No data was given: quality was not measured."
    better = "" if arm.quality.higher_is_better else ", lower is better"
    on = f", on {arm.quality.n:,} test samples" if arm.quality.interval else ""
    return f"quality: {arm.quality.metric}{better}{on}"

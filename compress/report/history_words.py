"""The figures of a history as people read them."""

from __future__ import annotations

from dataclasses import dataclass

from compress.report import formatting
from compress.report.formatting import metric_format, number, plural
from compress.report.history_schema import History, LevelChange, Point, Series, Subject
from compress.report.measure_schema import Size
from compress.report.tables import Cell, Column, Table

_COSTS = {"size": "File", "parameters": "Parameters", "macs": "MACs, one sample"}


def heading(series: Series) -> str:
    """What a series is about, such as "Latency against the baseline, batch 1"."""
    size = Size(series.batch or 1, series.length)
    if series.measure == "ratio":
        return f"Latency against the baseline, {size}"
    if series.measure == "milliseconds":
        return f"Milliseconds, {size}, machine {series.fingerprint}"
    if series.measure == "quality":
        return f"{metric_format(series.metric or 'quality').heading}, test split"
    return _COSTS[series.measure]


def figure(series: Series, value: float, n: int | None = None) -> str:
    """One value of a series with its unit."""
    if series.measure == "ratio":
        return formatting.times(value)
    if series.measure == "milliseconds":
        return formatting.milliseconds(value)
    if series.measure == "quality":
        return metric_format(series.metric or "quality").value(value, n or 1)
    if series.measure == "size":
        return formatting.size(round(value))
    if series.measure == "parameters":
        return formatting.count(round(value))
    return formatting.magnitude(round(value))


def commit_name(point: Point) -> str:
    """The first seven digits of the commit, or the minute of the measurement."""
    return point.commit[:7] if point.commit else point.created[:16].replace("T", " ")


def point_words(series: Series, point: Point) -> str:
    """One point in a line, for those who ask for it."""
    text = f"{commit_name(point)}, {point.created[:10]}: {figure(series, point.value, point.n)}"
    if point.interval:
        low, high = (figure(series, bound, point.n) for bound in point.interval)
        text += f" [{low}, {high}]"
    return f"{text}, machine {point.machine}"


@dataclass(frozen=True)
class ChangeWords:
    """One change of level: since which commit, from what to what, how sure."""

    key: str
    since: str
    change: str
    better: bool


def change_words(series: Series, change: LevelChange, key: int) -> ChangeWords:
    """A change of level for the list below a picture and for the table of Markdown."""
    point = series.points[change.place]
    n = point.n
    moved = _moved(series, change, n)
    place = f", machine {change.machine}" if change.machine else ""
    sure = "exact" if change.p is None else f"p = {number(change.p, 2)}"
    levels = f"{figure(series, change.before, n)} → {figure(series, change.after, n)}"
    return ChangeWords(
        key=str(key),
        since=f"{commit_name(point)}, {point.created[:10]}",
        change=f"{levels} ({moved} {'better' if change.better else 'worse'}{place}, {sure})",
        better=change.better,
    )


def _moved(series: Series, change: LevelChange, n: int | None) -> str:
    metric = metric_format(series.metric or "quality")
    if series.measure == "quality" and metric.share:
        return f"{metric.difference(abs(change.after - change.before), n or 1)} points"
    if not change.before:
        return number(abs(change.after - change.before))
    return f"{number(abs(change.after / change.before - 1) * 100, 2)} %"


def summary(history: History) -> tuple[str, str]:
    """The headline, and "met" where something became worse, "proven" where only better, "none"."""
    reports = sum(subject.reports for subject in history.subjects)
    changes = [
        change
        for subject in history.subjects
        for series in subject.series
        for change in series.changes
    ]
    worse = sum(not change.better for change in changes)
    status = "met" if worse else "proven" if changes else "none"
    found = "no change of level" if not changes else plural(len(changes), "change") + " of level"
    if changes:
        found += f", {worse} for the worse" if worse else ", none for the worse"
    return f"{found[:1].upper()}{found[1:]} in {plural(reports, 'report')}", status


def overview(subject: Subject) -> Table:
    """Each figure of a subject: its first and last value and how often its level changed."""
    columns = [
        Column("Figure", numeric=False),
        Column("First"),
        Column("Last"),
        Column("Reports"),
        Column("Changes of level", numeric=False),
    ]
    rows = []
    for series in subject.series:
        ends = (series.points[0], series.points[-1])
        changes = [
            f"{words.since}: {words.change}"
            for key, change in enumerate(series.changes, start=1)
            if (words := change_words(series, change, key))
        ]
        untested = series.measure == "milliseconds"
        said = changes[-1] if changes else ("not tested" if untested else "none")
        rows.append(
            [
                Cell(heading(series)),
                *(Cell(figure(series, point.value, point.n)) for point in ends),
                Cell(str(len(series.points))),
                Cell(said, tuple(reversed(changes[:-1]))),
            ]
        )
    return Table(columns, rows)

"""From the reports of one subject to the series of its figures."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from compress.change_points import change_points
from compress.report.gains import call_sizes, comparison
from compress.report.history_schema import LevelChange, Measure, Point, Series
from compress.report.measure_schema import Size, in_order
from compress.report.record import Interval
from compress.report.schema import Arm, Report
from compress.report.subject import machine_fingerprint

#: How much a figure without noise may move and still count as equal, as in `compress check`.
SAME = 0.01
_COSTS: dict[Measure, str] = {"size": "size_bytes", "parameters": "parameters", "macs": "macs"}


@dataclass(frozen=True)
class Entry:
    """One report of a history: where it lies, its model, and its machine's letter."""

    file: str
    report: Report
    arm: Arm
    machine: str


_Figure = tuple[float, Interval | None, int | None]


def all_series(entries: Sequence[Entry], error_rate: float) -> list[Series]:
    """Every figure that at least one report has, its change points marked.

    Args:
        entries: reports of one subject, in order of time.
        error_rate: largest share of subjects without a change that get a change point.
    """
    sizes = in_order(size for entry in entries for size in call_sizes(entry.report))
    noisy = [_series(entries, _ratio(size), measure="ratio", size=size) for size in sizes]
    noisy += _qualities(entries)
    noisy = _marked([series for series in noisy if series.points], error_rate)
    exact = [_series(entries, _cost(field), measure=name) for name, field in _COSTS.items()]
    steps = [each.model_copy(update={"changes": exact_changes(each)}) for each in exact]
    times = [series for size in sizes for series in _milliseconds(entries, size)]
    return [series for series in (*noisy, *steps, *times) if series.points]


def _series(
    entries: Sequence[Entry],
    figure: Callable[[Entry], _Figure | None],
    *,
    measure: Measure,
    size: Size | None = None,
    metric: str | None = None,
    higher_is_better: bool = False,
    fingerprint: str | None = None,
) -> Series:
    points = []
    for entry in entries:
        found = figure(entry)
        if found is None:
            continue
        value, interval, n = found
        points.append(
            Point(
                commit=entry.report.commit,
                created=entry.report.created,
                file=entry.file,
                machine=entry.machine,
                value=value,
                interval=interval,
                n=n,
            )
        )
    return Series(
        measure=measure,
        batch=size.batch if size else None,
        length=size.length if size else None,
        metric=metric,
        higher_is_better=higher_is_better,
        fingerprint=fingerprint,
        points=points,
    )


def _ratio(size: Size) -> Callable[[Entry], _Figure | None]:
    """Latency over the baseline's of the same run: compared, or from both medians."""

    def figure(entry: Entry) -> _Figure | None:
        report, arm = entry.report, entry.arm
        found = comparison(report, report.baseline, arm.name, "latency", size)
        if found is not None and found.ratio is not None and found.ratio > 0:
            return found.ratio, found.interval, found.n
        before = report.arm(report.baseline).best_latency(*size)
        after = arm.best_latency(*size)
        return (after.median_ms / before.median_ms, None, None) if before and after else None

    return figure


def _cost(field: str) -> Callable[[Entry], _Figure | None]:
    def figure(entry: Entry) -> _Figure | None:
        value = getattr(entry.arm, field)
        return None if value is None else (float(value), None, None)

    return figure


def _qualities(entries: Sequence[Entry]) -> list[Series]:
    """One series a metric: two metrics have no scale in common."""
    kinds = {
        (entry.arm.quality.metric, entry.arm.quality.higher_is_better): None
        for entry in entries
        if entry.arm.quality
    }
    return [
        _series(
            entries,
            _quality(metric),
            measure="quality",
            metric=metric,
            higher_is_better=higher,
        )
        for metric, higher in kinds
    ]


def _quality(metric: str) -> Callable[[Entry], _Figure | None]:
    def figure(entry: Entry) -> _Figure | None:
        quality = entry.arm.quality
        if quality is None or quality.metric != metric:
            return None
        return quality.value, quality.interval, quality.n

    return figure


def _milliseconds(entries: Sequence[Entry], size: Size) -> list[Series]:
    """One series a machine: milliseconds of two machines are never one line."""
    machines: dict[str, list[Entry]] = {}
    for entry in entries:
        machines.setdefault(machine_fingerprint(entry.report), []).append(entry)

    def figure(entry: Entry) -> _Figure | None:
        point = entry.arm.best_latency(*size)
        return (point.median_ms, None, len(point.workers_ms)) if point else None

    return [
        _series(own, figure, measure="milliseconds", size=size, fingerprint=name)
        for name, own in machines.items()
    ]


def _marked(noisy: list[Series], error_rate: float) -> list[Series]:
    """Change points of all noisy figures together; ratios within classes of machines."""
    if not noisy:
        return []
    found = change_points(
        [_scale(series) for series in noisy],
        [
            [point.machine if series.measure == "ratio" else "" for point in series.points]
            for series in noisy
        ],
        alpha=error_rate,
    )
    marked = []
    for series, changes in zip(noisy, found, strict=True):
        p = {change.place: change.p for change in changes}
        marked.append(series.model_copy(update={"changes": _levels(series, p)}))
    return marked


def _scale(series: Series) -> list[float]:
    """Ratios as logarithms, so that machines that differ by a factor change by equal steps."""
    values = np.array([point.value for point in series.points])
    scaled: list[float] = (np.log(values) if series.measure == "ratio" else values).tolist()
    return scaled


def exact_changes(series: Series) -> list[LevelChange]:
    """Where a figure without noise leaves the level of its last change by more than `SAME`."""
    found: dict[int, float | None] = {}
    level: float | None = None
    for place, point in enumerate(series.points):
        if level is not None and abs(point.value - level) > SAME * abs(level):
            found[place] = None
            level = point.value
        level = point.value if level is None else level
    return _levels(series, found)


def _levels(series: Series, found: Mapping[int, float | None]) -> list[LevelChange]:
    edges = [0, *found, len(series.points)]
    changes = []
    for number, (place, p) in enumerate(found.items(), start=1):
        sides = series.points[edges[number - 1] : place], series.points[place : edges[number + 1]]
        machine = _common_machine(series, *sides)
        if machine is not None:
            old, new = sides
            sides = _of(old, machine), _of(new, machine)
        before, after = (float(np.median([point.value for point in side])) for side in sides)
        better = after > before if series.higher_is_better else after < before
        changes.append(
            LevelChange(
                place=place, before=before, after=after, machine=machine, p=p, better=better
            )
        )
    return changes


def _common_machine(series: Series, old: list[Point], new: list[Point]) -> str | None:
    """The machine that says most of both sides, for ratios of several machines."""
    machines = {point.machine for point in series.points}
    if series.measure != "ratio" or len(machines) == 1:
        return None
    said = {each: min(len(_of(old, each)), len(_of(new, each))) for each in sorted(machines)}
    best = max(said, key=lambda each: said[each])
    return best if said[best] else None


def _of(points: list[Point], machine: str) -> list[Point]:
    return [point for point in points if point.machine == machine]

"""Profiles as tables and sentences: operators, the slowest nodes, and the difference of two."""

from __future__ import annotations

from dataclasses import dataclass

from compress.report import formatting
from compress.report.formatting import DASH, MINUS
from compress.report.measure_schema import Size
from compress.report.profile_schema import Profile, ProfiledNode, ProfiledOperator
from compress.report.record import Interval
from compress.report.schema import Report
from compress.report.tables import Cell, Column, Table

#: So many of the slowest nodes are shown; report.json has them all.
MOST_NODES = 15
#: So many operators of a difference have a line of their own.
MOST_DIFFERENCES = 12


@dataclass(frozen=True)
class Pair:
    """Two profiles to be compared, and the names of their arms."""

    before_name: str
    before: Profile
    after_name: str
    after: Profile


def compared(report: Report) -> list[Pair]:
    """The baseline against the final model, or against every other arm where there is none."""
    profiles = {arm.name: arm.profile for arm in report.arms if arm.profile is not None}
    before = profiles.get(report.baseline)
    if before is None:
        return []
    others = [report.final] if report.final in profiles else list(profiles)
    return [
        Pair(report.baseline, before, name, profiles[name])
        for name in others
        if name is not None and name != report.baseline
    ]


def operators_table(profile: Profile) -> Table:
    """Every type of operator: its share with the range over processes, its time, its precisions."""
    columns = [
        Column("Operator", numeric=False, brief=True),
        Column("Precision", numeric=False, brief=True),
        Column("Nodes", brief=True),
        Column("Runs", "a call"),
        Column("µs", "a call", brief=True),
        Column("Share", "of kernel time", brief=True),
        Column("Range", "over processes"),
    ]
    rows = [
        [
            Cell(entry.operator),
            Cell(_precisions(entry)),
            Cell(formatting.count(entry.nodes)),
            Cell(_runs(entry.runs)),
            Cell(microseconds(entry.us)),
            Cell(percent(entry.share)),
            Cell(_range(entry.share_range)),
        ]
        for entry in profile.operators
    ]
    return Table(columns, rows)


def nodes_table(profile: Profile, most: int = MOST_NODES) -> Table:
    """The slowest nodes."""
    return _nodes(profile.nodes[:most])


def int8_table(profile: Profile) -> Table:
    """All nodes that compute or move values in int8, and those that convert them."""
    return _nodes([node for node in profile.nodes if node.precision.startswith("int8")])


def _nodes(nodes: list[ProfiledNode]) -> Table:
    columns = [
        Column("Node", numeric=False, brief=True),
        Column("Operator", numeric=False, brief=True),
        Column("Precision", numeric=False),
        Column("Inputs", numeric=False),
        Column("Runs", "a call"),
        Column("µs", "a call", brief=True),
        Column("Share", "of kernel time", brief=True),
    ]
    rows = [
        [
            Cell(node.name, (f"inside {node.inside}",) if node.inside else ()),
            Cell(node.operator),
            Cell(node.precision),
            Cell(", ".join(node.shapes) or DASH),
            Cell(_runs(node.runs)),
            Cell(microseconds(node.us)),
            Cell(percent(node.share)),
        ]
        for node in nodes
    ]
    return Table(columns, rows)


def difference_table(pair: Pair, most: int = MOST_DIFFERENCES) -> Table:
    """Time by operator before and after, the largest difference first; last the whole call.

    Operators that only one of the two has are always named, of the others `most` at most.
    """
    columns = [
        Column("Operator", numeric=False, brief=True),
        Column("Before", "µs a call", brief=True),
        Column("After", "µs a call", brief=True),
        Column("Difference", "µs, the largest first", brief=True),
        Column("Range", "over processes"),
    ]
    before, after = pair.before, pair.after
    kinds = dict.fromkeys(entry.operator for entry in (*before.operators, *after.operators))
    found = [(kind, before.operator(kind), after.operator(kind)) for kind in kinds]
    found.sort(key=lambda entry: -abs(_us(entry[2]) - _us(entry[1])))
    shown = [
        entry
        for place, entry in enumerate(found)
        if place < most or entry[1] is None or entry[2] is None
    ]
    rows = [_difference_row(*entry) for entry in shown]
    if rest := [entry for entry in found if entry not in shown]:
        before_us, after_us = sum(_us(old) for _, old, _ in rest), sum(_us(new) for *_, new in rest)
        rows.append(_changed(formatting.plural(len(rest), "other"), before_us, after_us, None))
    return Table(columns, rows + _sum_rows(before, after))


def _sum_rows(before: Profile, after: Profile) -> list[list[Cell]]:
    kernels = paired_range(before.workers_kernels_us, after.workers_kernels_us)
    wall = paired_range(before.workers_wall_us, after.workers_wall_us)
    sums = (
        ("All kernels", before.kernels_us, after.kernels_us, kernels),
        ("Whole call, without profiler", before.wall_us, after.wall_us, wall),
    )
    return [_changed(*entry) for entry in sums]


def _changed(name: str, old: float, new: float, bounds: Interval | None) -> list[Cell]:
    figures = (microseconds(old), microseconds(new), signed(new - old), _bounds(bounds))
    return [Cell(name), *map(Cell, figures)]


def _difference_row(
    kind: str, old: ProfiledOperator | None, new: ProfiledOperator | None
) -> list[Cell]:
    tags = ("new",) if old is None else ("gone",) if new is None else ()
    bounds = paired_range(_workers(old, new), _workers(new, old))
    return [
        Cell(kind, tags=tags),
        Cell(microseconds(old.us) if old else DASH),
        Cell(microseconds(new.us) if new else DASH),
        Cell(signed(_us(new) - _us(old))),
        Cell(_bounds(bounds)),
    ]


def paired_range(before: list[float], after: list[float]) -> Interval | None:
    """Lowest and highest difference of processes of the same turn; None where they do not pair."""
    if len(before) != len(after) or not before:
        return None
    differences = [new - old for old, new in zip(before, after, strict=True)]
    return min(differences), max(differences)


def _workers(entry: ProfiledOperator | None, other: ProfiledOperator | None) -> list[float]:
    """Every process's time; zeros where only the other model has such nodes."""
    if entry is not None:
        return entry.workers_us
    return [0.0] * len(other.workers_us) if other is not None else []


def _us(entry: ProfiledOperator | None) -> float:
    return entry.us if entry else 0.0


def sentences(profile: Profile) -> list[str]:
    """What a call took with and without the profiler, and how much of it ran in int8."""
    found = [_call(profile), _int8(profile), _doubt(profile)]
    if profile.kernels_us < sum(entry.runs for entry in profile.operators):
        found.append(
            "Its nodes take less than the microsecond that the profiler counts in: the shares are "
            "rough, and a larger batch tells more."
        )
    return found


def _call(profile: Profile) -> str:
    size = Size(profile.batch, profile.length)
    at = f"{size}, {formatting.plural(profile.threads, 'thread')}"
    text = (
        f"A call takes {microseconds(profile.wall_us)} µs without the profiler ({at}), its kernels "
        f"{microseconds(profile.kernels_us)} µs under it."
    )
    outside = profile.outside_us
    if outside <= 0:
        return f"{text} What the runtime takes outside of kernels cannot be told from that."
    return (
        f"{text} At least {microseconds(outside)} µs ({percent(outside / profile.wall_us)}) are "
        "outside of kernels: the runtime's own work and the call from Python."
    )


def _int8(profile: Profile) -> str:
    if not profile.int8_nodes:
        return "No node runs in int8."
    share = percent(profile.int8_share)
    text = (
        f"{profile.int8_nodes} of {formatting.plural(len(profile.nodes), 'node')} run in int8: "
        f"{share} of the kernel time."
    )
    if profile.conversion_share:
        text += f" Conversions to int8 and back take {percent(profile.conversion_share)}."
    return text


def _doubt(profile: Profile) -> str:
    processes = len(profile.workers_kernels_us)
    return (
        f"The profiler makes a call {formatting.times(profile.profiled_us / profile.wall_us)} as "
        f"long. {microseconds(profile.cost_us)} µs a run of a node are taken off, its cost where "
        "nodes do nothing; the rest runs slower than without it, short nodes most: trust shares "
        f"more than microseconds. {formatting.count(profile.calls)} calls in {processes} "
        f"{'process' if processes == 1 else 'processes'}."
    )


def microseconds(value: float) -> str:
    """Microseconds to three digits, at most one behind the point."""
    return formatting.number(round(value, 1) if abs(value) < 100 else round(value), trim=True)


def signed(value: float) -> str:
    """A difference with its sign."""
    text = microseconds(abs(value))
    return text if text == "0" else f"{MINUS if value < 0 else '+'}{text}"


def percent(share: float) -> str:
    """A share as percent: `63 %`, below ten `6.3 %`."""
    value = 100 * share
    return f"{value:.0f} %" if value >= 9.95 else f"{value:.1f} %"


def _range(bounds: Interval) -> str:
    low, high = (100 * bound for bound in bounds)
    return f"{low:.1f} to {high:.1f} %"


def _bounds(bounds: Interval | None) -> str:
    return f"{signed(bounds[0])} to {signed(bounds[1])}" if bounds else DASH


def _runs(runs: float) -> str:
    return formatting.number(runs, trim=True)


def _precisions(entry: ProfiledOperator) -> str:
    if len(entry.precisions) == 1:
        return next(iter(entry.precisions))
    return ", ".join(f"{count} {kind}" for kind, count in entry.precisions.items())

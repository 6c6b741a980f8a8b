"""Which operators lost or gained precision from one graph to another, by their type."""

from __future__ import annotations

from functools import partial

from compress.report.schema import Arm, Comparison, Verdict

#: Operator type to precision to nodes, as `Arm.operators`.
Counts = dict[str, dict[str, int]]

#: Steps above fp32: half precision, weights stored as integers, computing in int8.
_STEPS = (1, 2, 3)


def step(precision: str) -> int:
    """How far a precision of `Arm.operators` is from fp32; what is further costs less."""
    if precision.startswith("int8"):
        return 3
    if precision.endswith("weights"):
        return 2
    return 0 if precision == "fp32" else 1


def compare_operators(baseline: Arm, candidate: Arm) -> list[Comparison]:
    """One entry for each type whose nodes changed; one for all where none did.

    A type has regressed where fewer of its nodes are at some step above fp32 and more nodes, its
    own or the whole graph's, are below it: a graph that lost whole layers to pruning has not.
    Nothing for a baseline in fp32.
    """
    before, after = baseline.operators, candidate.operators
    if not any(step(precision) for counts in before.values() for precision in counts):
        return []
    changed = [kind for kind in sorted(before | after) if before.get(kind) != after.get(kind)]
    entry = partial(Comparison, baseline=baseline.name, candidate=candidate.name, what="int8")
    if not changed:
        return [entry(difference=0, verdict="ok")]
    return [
        entry(operator=kind, difference=fell, verdict=verdict)
        for kind in changed
        for fell, verdict in [judge_type(before, after, kind)]
    ]


def judge_type(before: Counts, after: Counts, kind: str) -> tuple[int, Verdict]:
    """How many nodes of a type fell to a lower step (negative: rose), and what that means."""
    old, new = ({kind: counts.get(kind, {})} for counts in (before, after))
    falls = [_above(old, at) - _above(new, at) for at in _STEPS]
    lower = [
        _below(new, at) > _below(old, at) or _below(after, at) > _below(before, at) for at in _STEPS
    ]
    fell = max(
        (fall for fall, more in zip(falls, lower, strict=True) if fall > 0 and more), default=0
    )
    if fell:
        return fell, "regressed"
    rose = max((-fall for fall in falls if fall < 0), default=0)
    return -rose, "improved" if rose else "ok"


def _above(counts: Counts, at: int) -> int:
    return sum(n for each in counts.values() for name, n in each.items() if step(name) >= at)


def _below(counts: Counts, at: int) -> int:
    return sum(n for each in counts.values() for name, n in each.items() if step(name) < at)

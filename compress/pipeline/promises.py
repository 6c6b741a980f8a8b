"""What came of one gate: its bound and its figure in words, and whether it was kept."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from compress.data.task import Task
from compress.measure.latency import Batches
from compress.pipeline.compare import Scores, metric_drop
from compress.pipeline.regression import samples_needed
from compress.pipeline.timing import Timed
from compress.recipe.gate_schema import (
    SAME,
    CostGate,
    GateConfig,
    LatencyGate,
    OperatorsGate,
    OutputsGate,
    QualityGate,
)
from compress.report import formatting
from compress.report.gates_schema import Outcome, Promise
from compress.report.record import Interval
from compress.report.schema import Arm
from compress.runtime.onnxruntime import Session

_FIELDS = {"size": "size_bytes", "parameters": "parameters", "macs": "macs"}
#: Floating point may not break a bound that is met exactly.
_ROUNDING = 1e-12
#: Samples on which outputs are compared.
_SAMPLES = 16


@dataclass(frozen=True)
class Evidence:
    """All that was measured for the gates of a file.

    Attributes:
        scores: model to its scores; empty without data.
        rows: samples of one call; None without data.
        timed: None where no gate is on latency.
    """

    arms: dict[str, Arm]
    scores: dict[str, Scores]
    task: Task | None
    files: Mapping[str, Path]
    rows: Batches | None
    device: str
    timed: Timed[int, bool] | None


def decide(number: int, gate: GateConfig, evidence: Evidence) -> Promise:
    """What came of one gate that is about this machine."""
    match gate:
        case LatencyGate():
            assert evidence.timed is not None
            return _latency(number, gate, evidence.timed)
        case CostGate():
            return _cost(number, gate, evidence.arms)
        case OperatorsGate():
            return _operators(number, gate, evidence.arms)
        case OutputsGate():
            return _outputs(number, gate, evidence)
        case QualityGate(max_drop=None):
            return _level(number, gate, evidence)
        case QualityGate():
            return _drop(number, gate, evidence)
    raise AssertionError(gate)


def promised(gate: GateConfig) -> str:
    """The bound in words."""
    match gate:
        case LatencyGate() | OutputsGate():
            unit = "×" if isinstance(gate, LatencyGate) else "of"
            return f"at most {gate.at_most:g} {unit} {gate.against}"
        case QualityGate(max_drop=float(drop)):
            share = " of its own" if gate.relative else ""
            return f"at most {drop:g}{share} worse than {gate.against}"
        case QualityGate():
            return "{} {:g}".format(*_quality_bound(gate))
        case CostGate() | OperatorsGate():
            way, bound = gate.limit
            if bound == SAME:
                return f"{way} {gate.against}'s"
            assert isinstance(bound, (int, float))
            return f"{way} {bound:,g}" + (f" × {gate.against}" if gate.against else "")
    raise AssertionError(gate)


def _quality_bound(gate: QualityGate) -> tuple[str, float]:
    if gate.at_most is not None:
        return "at most", gate.at_most
    assert gate.at_least is not None
    return "at least", gate.at_least


def promise(number: int, gate: GateConfig, outcome: Outcome, **figures: Any) -> Promise:
    """The record of one gate."""
    return Promise(
        gate=number,
        metric=gate.metric if not isinstance(gate, OperatorsGate) else _operators_name(gate),
        candidate=gate.compare,
        baseline=gate.against,
        batch=gate.batch if isinstance(gate, LatencyGate) else None,
        promised=promised(gate),
        outcome=outcome,
        **figures,
    )


def _operators_name(gate: OperatorsGate) -> str:
    return f"{gate.type or 'operators'} in {gate.precision}"


def _latency(number: int, gate: LatencyGate, timed: Timed[int, bool]) -> Promise:
    """A ratio of two latencies, as the test over processes has it."""
    assert gate.against is not None
    ratio, interval, workers = timed.measured.ratio(gate.against, gate.compare, gate.batch)
    kept = timed.verdicts.get(number)
    reason = ""
    if kept is None:
        reason = "the machine is unfit" if not timed.fit else f"{workers} processes cannot tell"
    finite = None if math.isinf(interval[1]) else interval
    return promise(
        number,
        gate,
        "inconclusive" if kept is None else "kept" if kept else "broken",
        value=ratio,
        interval=finite,
        n=workers,
        found=f"{ratio:.3f} ×" + (f" {_bounds(finite, '.3f')}" if finite else ""),
        reason=reason,
    )


def _bounds(interval: Interval, form: str) -> str:
    """An interval as text."""
    return formatting.interval(*(format(value, form) for value in interval))


def _within(interval: Interval, way: str, bound: float) -> Outcome:
    """Whether a whole interval lies on the right side of a bound, or on the wrong one."""
    low, high = interval if way == "at most" else (-interval[1], -interval[0])
    bound = bound if way == "at most" else -bound
    if high <= bound:
        return "kept"
    return "broken" if low > bound else "inconclusive"


def _cost(number: int, gate: CostGate, arms: dict[str, Arm]) -> Promise:
    """Bytes, parameters or multiply-accumulates, which are exact."""
    field = _FIELDS[gate.metric]
    value = float(getattr(arms[gate.compare], field))
    shown: Callable[[float], str] = lambda each: f"{each:,.0f}"  # noqa: E731
    text, other = shown(value), 1.0
    if gate.against is not None:
        other = float(getattr(arms[gate.against], field))
        text = f"{value / other:.3f} × ({shown(value)} of {shown(other)})"
    way, bound = gate.limit
    limit = other * (1.0 if bound == SAME else float(bound))
    wrong = value > limit * (1 + _ROUNDING) if way == "at most" else value < limit * (1 - _ROUNDING)
    return promise(
        number,
        gate,
        "broken" if wrong else "kept",
        value=value / other if gate.against else value,
        found=text,
    )


def _operators(number: int, gate: OperatorsGate, arms: dict[str, Arm]) -> Promise:
    """Operators that run in a precision; beside another model type by type."""
    new = _counts(gate, arms[gate.compare])
    way, bound = gate.limit
    total = sum(new.values())
    if gate.against is None:
        assert isinstance(bound, (int, float))
        kept = total <= bound if way == "at most" else total >= bound
        return promise(number, gate, "kept" if kept else "broken", value=total, found=str(total))
    old = _counts(gate, arms[gate.against])
    kinds = sorted(old | new)
    pairs = {kind: (old.get(kind, 0), new.get(kind, 0)) for kind in kinds}
    wrong = {
        kind: pair
        for kind, pair in pairs.items()
        if (pair[1] > pair[0] if way == "at most" else pair[1] < pair[0])
    }
    told = {kind: pair for kind, pair in (wrong or pairs).items() if wrong or pair[0] != pair[1]}
    text = ", ".join(f"{kind} {before} → {after}" for kind, (before, after) in told.items())
    return promise(
        number,
        gate,
        "broken" if wrong else "kept",
        value=total,
        found=text or f"{total}, type by type the same",
    )


def _counts(gate: OperatorsGate, arm: Arm) -> dict[str, int]:
    """Operator type to its nodes in the gate's precision."""
    found = {}
    for kind, by_precision in arm.operators.items():
        if gate.type in (None, kind):
            found[kind] = sum(n for name, n in by_precision.items() if _is(name, gate.precision))
    return {kind: n for kind, n in found.items() if n}


def _is(found: str, wanted: str) -> bool:
    if wanted == "int8":
        return found.startswith("int8 (")
    return found == wanted or found.endswith(f", {wanted}")


def _drop(number: int, gate: QualityGate, evidence: Evidence) -> Promise:
    """How much worse than the other model on the same samples of the test split."""
    assert evidence.task is not None
    assert gate.against is not None
    assert gate.max_drop is not None
    drop, interval, before, n = metric_drop(
        gate.metric, evidence.task, evidence.scores[gate.against], evidence.scores[gate.compare]
    )
    limit = gate.max_drop * abs(before) if gate.relative else gate.max_drop
    outcome = _within(interval, "at most", limit)
    reason = ""
    if outcome == "inconclusive" and gate.metric in ("quality", evidence.task.metric.name):
        pair = {name: evidence.scores[name] for name in (gate.against, gate.compare)}
        needed = samples_needed(limit, pair)
        reason = f"about {needed:,} samples would prove it" if needed else ""
    return promise(
        number,
        gate,
        outcome,
        value=drop,
        interval=interval if math.isfinite(sum(interval)) else None,
        n=n,
        found=f"{drop:+.4f} {_bounds(interval, '+.4f')}",
        reason=reason,
    )


def _level(number: int, gate: QualityGate, evidence: Evidence) -> Promise:
    """A bound on the metric itself."""
    quality = evidence.arms[gate.compare].quality
    assert quality is not None
    way, bound = _quality_bound(gate)
    return promise(
        number,
        gate,
        _within(quality.bounds, way, bound),
        value=quality.value,
        interval=quality.interval,
        n=quality.n,
        found=f"{quality.value:.4f} {_bounds(quality.bounds, '.4f')}",
    )


def _outputs(number: int, gate: OutputsGate, evidence: Evidence) -> Promise:
    """The largest difference of two first outputs, over the other model's largest output."""
    assert gate.against is not None
    old, new = (
        Session(evidence.files[name], evidence.device) for name in (gate.against, gate.compare)
    )
    samples = evidence.rows(_SAMPLES) if evidence.rows else old.example(_SAMPLES)
    before, after = (session.run(samples).astype(np.float64) for session in (old, new))
    difference = float(np.abs(after - before).max() / max(np.abs(before).max(), 1e-30))
    return promise(
        number,
        gate,
        "kept" if difference <= gate.at_most else "broken",
        value=difference,
        n=_SAMPLES,
        found=f"{difference:.2g}",
    )


def known_cost(gate: CostGate, arms: dict[str, Arm]) -> str:
    """Which model's figure is not known; or nothing."""
    for name in (gate.compare, gate.against):
        if name is not None and not getattr(arms[name], _FIELDS[gate.metric]):
            return (
                f"the {gate.metric} of '{name}' are not known: {arms[name].file} has no card that "
                "tells them; name the artifact's folder."
            )
    return ""

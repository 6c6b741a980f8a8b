"""What a gate of a gate file allows, in words."""

from __future__ import annotations

from compress.recipe.gate_schema import (
    SAME,
    CostGate,
    GateConfig,
    LatencyGate,
    OperatorsGate,
    OutputsGate,
    QualityGate,
)


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
            return "{} {:g}".format(*quality_bound(gate))
        case CostGate() | OperatorsGate():
            way, bound = gate.limit
            if bound == SAME:
                return f"{way} {gate.against}'s"
            assert isinstance(bound, (int, float))
            return f"{way} {bound:,g}" + (f" × {gate.against}" if gate.against else "")
    raise AssertionError(gate)


def quality_bound(gate: QualityGate) -> tuple[str, float]:
    """In which way a bound on a metric holds, and the bound."""
    if gate.at_most is not None:
        return "at most", gate.at_most
    assert gate.at_least is not None
    return "at least", gate.at_least

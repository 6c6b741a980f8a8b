"""What a quantized model would answer on other CPUs than the one it was chosen on."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from compress.measure.judge import Floats, Judge
from compress.measure.machine import machine
from compress.quantization.saturation import Saturation, emulate, saturates
from compress.report.formatting import metric_format
from compress.runtime.onnxruntime import Session
from compress.stats import paired_drop

_WHERE = "On x86 CPUs without VNNI, where sums of 8-bit products are cut off"


def elsewhere(
    model: Path, reference: Floats, judge: Judge, limit: float, threads: int
) -> tuple[dict[str, Any], list[str]]:
    """The drop on x86 CPUs without VNNI, whose 8-bit products saturate, by emulation.

    Args:
        reference: validation scores that the drop is counted from.
        limit: the drop that is allowed, in the metric's unit.

    Returns:
        Evidence for the card, and what a reader has to know; both empty where no sum can be cut
        off.
    """
    facts = machine()
    if saturates(facts["architecture"], facts["instruction_sets"]):
        return {}, []  # what was judged here is what such a CPU answers
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "saturating.onnx"
        found = emulate(model, copy)
        if not any(found.at_risk.values()):
            known = not found.left_out
            return ({}, []) if known else ({"without_vnni": _evidence(found)}, [_unknown(found)])
        scores = judge.scores(Session(copy, "cpu", threads), "validation")
    drop, _ = paired_drop(reference, scores, judge.higher_is_better)
    change = metric_format(judge.metric, judge.higher_is_better).change
    note = _note(found, f"the validation {change} would be {drop:+.4f}", needed=drop > limit)
    return {"without_vnni": {"drop": drop, **_evidence(found)}}, [note]


def _note(found: Saturation, change: str, *, needed: bool) -> str:
    """What would change; where it is too much, `needed`, also what helps."""
    left = f"; not emulated: {', '.join(sorted(set(found.left_out)))}" if found.left_out else ""
    remedy = "Make it with reduce_range=true for such CPUs"
    if found.dynamic:  # its weights have 8 bits in any case
        remedy = "Choose one on such a CPU"
    advice = f". {remedy}" if needed else ""
    return f"{_WHERE}, {change} by emulation{left}{advice}."


def _evidence(found: Saturation) -> dict[str, Any]:
    at_risk = {name: share for name, share in found.at_risk.items() if share}
    return {"nodes_at_risk": at_risk, "not_emulated": found.left_out}


def _unknown(found: Saturation) -> str:
    kinds = ", ".join(sorted(set(found.left_out)))
    return f"{_WHERE}, nothing is known of what the model answers; not emulated: {kinds}."

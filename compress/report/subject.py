"""Which models of a report the outputs for CI are about, and what they were measured on."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from compress.report.formatting import plural
from compress.report.gains import find_arm
from compress.report.schema import Arm, Report

#: What decides how the latencies of two models compare on a machine.
_CLASS = ("processor", "architecture", "cores", "instruction_sets")


def judged_arms(report: Report) -> list[Arm]:
    """The models that a report is about, beside its baseline.

    The candidate of a check, the models that a gate file judges, the final model of a run, every
    other arm of a benchmark; the baseline itself where there is nothing else.
    """
    if report.gate is not None:
        judged = [entry.candidate for entry in report.comparisons]
        judged += [entry.candidate for entry in report.promises]
        return [report.arm(name) for name in dict.fromkeys(judged)]
    final = find_arm(report, report.final)
    if final is not None:
        return [final]
    others = [arm for arm in report.arms if arm.name != report.baseline and not arm.control_of]
    return others or report.arms[:1]


def machine_class(machine: Mapping[str, Any]) -> str:
    """Processor, cores and instruction sets in words; ratios hold within one such class."""
    processor = machine.get("processor") or machine.get("architecture")
    cores = machine.get("cores")
    words = [str(processor or "unknown processor")]
    words += [plural(cores, "core")] if isinstance(cores, int) else []
    words += [str(flag) for flag in machine.get("instruction_sets") or []]
    return ", ".join(words)


def machine_fingerprint(report: Report) -> str:
    """Eight digits of a hash; milliseconds of two fingerprints are never compared.

    Beside the class it covers memory, system, device, and every package that takes part.
    """
    machine = report.machine
    names = (*_CLASS, "memory_bytes", "system", "python", "versions")
    facts: dict[str, Any] = {name: machine.get(name) for name in names}
    facts["devices"] = sorted({f"{arm.runtime} {arm.device}" for arm in report.arms})
    text = json.dumps(facts, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:8]

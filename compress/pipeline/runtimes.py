"""Which file an arm of a benchmark loads, and what is known of it without running it."""

from __future__ import annotations

from typing import Any

from compress.artifact import WEIGHTS, Artifact
from compress.errors import InputError
from compress.export.graph import operators, precision
from compress.export.loading import load_graph
from compress.onnx_files import size_bytes
from compress.runtime.interface import TORCH, Target


def target_of(artifact: Artifact, runtime: str) -> Target:
    """What a runtime loads of an artifact: its ONNX file, or its folder where torch runs it.

    Raises:
        InputError: the runtime needs torch weights, and there are none.
    """
    if runtime not in TORCH:
        return Target(artifact.onnx, runtime)
    if artifact.file is not None or WEIGHTS not in artifact.card.files:
        raise InputError(
            f"{artifact.file or artifact.folder}@{runtime}: holds no torch weights; name the "
            f"artifact folder of a model that torch can run, or leave @{runtime} out."
        )
    return Target(artifact.folder, runtime)


def arm_facts(artifact: Artifact, target: Target) -> dict[str, Any]:
    """Fields of an `Arm` that follow from the files: precision, cost, size, operators."""
    evidence = artifact.card.evidence
    found = {
        "kind": artifact.card.kind,
        "runtime": target.runtime,
        "parameters": evidence.get("parameters", [None])[-1],
        "macs": evidence.get("macs", [None])[-1],
    }
    if target.runtime in TORCH:
        weights = artifact.folder / WEIGHTS
        size = weights.stat().st_size
        return found | {"file": str(weights), "precision": "fp32", "size_bytes": size}
    counts = operators(load_graph(target.path))
    return found | {
        "file": str(target.path),
        "precision": precision(counts),
        "size_bytes": size_bytes(target.path),
        "operators": counts,
    }

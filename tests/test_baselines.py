"""What `python -m benchmarks.baselines` has stored is whole, small, and int8."""

from __future__ import annotations

from pathlib import Path

import pytest

from compress.artifact import load_artifact
from compress.export.graph import operators
from compress.export.loading import load_onnx
from compress.models.build import count_parameters
from compress.recipe.gate_file import load_gates

FOLDER = Path(__file__).parent.parent / "benchmarks" / "baselines"


@pytest.mark.parametrize("family", ["cnn", "lstm", "transformer"])
def test_weights_and_int8_file_belong_together(family: str):
    weights, int8 = (load_artifact(FOLDER / family / name) for name in ("fp32", "int8"))
    assert int8.card.parents == {"from": weights.identity}
    assert int8.card.evidence["parameters"] == [count_parameters(weights.load_model())]
    counts = operators(load_onnx(int8.onnx))
    assert any("int8 (" in precision for found in counts.values() for precision in found)


def test_all_together_are_small_and_the_gates_are_valid():
    assert sum(path.stat().st_size for path in FOLDER.rglob("*") if path.is_file()) < 300_000
    assert len(load_gates(FOLDER / "gates.yaml").gates) == 11

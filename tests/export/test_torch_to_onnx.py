"""Export: any batch size, checked against torch, and refused where the two disagree."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import Tensor, nn

from compress.data.task import Task
from compress.errors import ExportMismatch, InputError
from compress.export import torch_to_onnx
from compress.export.config import ExportConfig
from compress.export.torch_to_onnx import export

SAMPLES = torch.randn(5, 4, generator=torch.Generator().manual_seed(0))


class DiffersWhenExported(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * 1.01 if torch.compiler.is_exporting() else x * 1.0


class Unexportable(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x if x.sum() > 0 else -x


@pytest.fixture(scope="module")
def linear(tmp_path_factory: pytest.TempPathFactory) -> tuple[nn.Module, Path, dict[str, object]]:
    model, path = nn.Linear(4, 3), tmp_path_factory.mktemp("linear") / "linear.onnx"
    return model, path, export(model, SAMPLES, path, ExportConfig(opset=18))


@pytest.mark.parametrize("batch", [1, 2, 7])
def test_every_batch_size_gives_what_torch_gives(
    trained: nn.Module, trained_onnx: Path, tiny_task: Task, batch: int
):
    rows = tiny_task.test.inputs[:batch]
    session = onnxruntime.InferenceSession(trained_onnx)
    (found,) = session.run(None, {"input": rows.numpy()})
    with torch.inference_mode():
        expected = trained(rows).numpy()
    assert found.shape == (batch, 4)
    np.testing.assert_allclose(found, expected, atol=1e-4 * np.abs(expected).max())


def test_the_file_has_a_dynamic_batch_and_nothing_for_debuggers(trained_onnx: Path):
    model = onnx.load(trained_onnx)
    (value,), (output,) = model.graph.input, model.graph.output
    assert (value.name, output.name) == ("input", "output")
    assert [d.dim_param or d.dim_value for d in value.type.tensor_type.shape.dim] == [
        "batch",
        1,
        12,
        12,
    ]
    assert [d.dim_param or d.dim_value for d in output.type.tensor_type.shape.dim] == ["batch", 4]
    assert not any(node.doc_string or node.metadata_props for node in model.graph.node)
    assert not model.graph.value_info


def test_evidence_carries_the_opset_operators_and_differences(
    linear: tuple[nn.Module, Path, dict[str, object]],
):
    model, path, evidence = linear
    assert [entry.version for entry in onnx.load(path).opset_import if not entry.domain] == [18]
    found = onnxruntime.InferenceSession(path).run(None, {"input": SAMPLES.numpy()})[0]
    with torch.inference_mode():
        difference = np.abs(found - model(SAMPLES).numpy())
    assert evidence == {
        "operators": {"Gemm": {"fp32": 1}},
        "opset": 18,
        "max_difference": pytest.approx(difference.max(), abs=1e-6),
        "mean_difference": pytest.approx(difference.mean(), abs=1e-6),
    }


def test_the_default_opset_is_used(trained_onnx: Path):
    (opset,) = (entry for entry in onnx.load(trained_onnx).opset_import if not entry.domain)
    assert opset.version == ExportConfig().opset


def test_a_model_that_computes_something_else_when_exported(tmp_path: Path):
    path = tmp_path / "m.onnx"
    largest = float(SAMPLES.abs().max())
    with pytest.raises(ExportMismatch) as caught:
        export(DiffersWhenExported(), SAMPLES, path)
    assert str(caught.value) == (
        f"{path}: outputs of onnxruntime and torch differ by {largest * 0.01:.3g} (outputs reach "
        f"{largest:.3g}); allowed is 0.001 of that. Export another opset, or raise `tolerance` if "
        "that is what you expect."
    )
    evidence = export(DiffersWhenExported(), SAMPLES, path, ExportConfig(tolerance=0.02))
    assert evidence["max_difference"] == pytest.approx(largest * 0.01, rel=1e-3)


def test_outputs_that_are_no_numbers_are_a_mismatch(
    linear: tuple[nn.Module, Path, dict[str, object]], monkeypatch: pytest.MonkeyPatch
):
    class Broken:
        def __init__(self, path: Path) -> None: ...

        def run(self, inputs: np.ndarray, batch_size: int) -> np.ndarray:
            return np.full((len(inputs), 3), np.nan, np.float32)

    model, path, _ = linear
    monkeypatch.setattr(torch_to_onnx, "Session", Broken)
    with pytest.raises(ExportMismatch, match="differ by nan"):
        torch_to_onnx._compare(model(SAMPLES).detach(), SAMPLES, path, ExportConfig(tolerance=1e9))


def test_a_model_that_torch_cannot_export_is_one_line(tmp_path: Path):
    with pytest.raises(InputError) as caught:
        export(Unexportable(), SAMPLES, tmp_path / "m.onnx")
    assert str(caught.value).startswith("torch cannot export Unexportable: ")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "m.onnx").exists()


def test_the_model_is_exported_in_evaluation_mode(tmp_path: Path):
    model = nn.Sequential(nn.Linear(4, 4), nn.Dropout(0.5)).train()
    export(model, SAMPLES, tmp_path / "m.onnx")
    assert not model.training
    assert {node.op_type for node in onnx.load(tmp_path / "m.onnx").graph.node} == {"Gemm"}

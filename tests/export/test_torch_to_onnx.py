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
from compress.runtime.onnxruntime import Session

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
    return model, path, export(model, (SAMPLES,), path, ExportConfig(opset=18))


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
        export(DiffersWhenExported(), (SAMPLES,), path)
    assert str(caught.value) == (
        f"{path}: outputs of onnxruntime and torch differ by {largest * 0.01:.3g} (outputs reach "
        f"{largest:.3g}); allowed is 0.001 of that. Export another opset, or raise `tolerance` if "
        "that is what you expect."
    )
    evidence = export(DiffersWhenExported(), (SAMPLES,), path, ExportConfig(tolerance=0.02))
    assert evidence["max_difference"] == pytest.approx(largest * 0.01, rel=1e-3)


def test_outputs_that_are_no_numbers_are_a_mismatch(
    linear: tuple[nn.Module, Path, dict[str, object]], monkeypatch: pytest.MonkeyPatch
):
    class Broken:
        def __init__(self, path: Path) -> None: ...

        def run(self, inputs: tuple[np.ndarray, ...], batch_size: int) -> np.ndarray:
            return np.full((len(inputs[0]), 3), np.nan, np.float32)

    model, path, _ = linear
    path = path.with_name("other.onnx")
    monkeypatch.setattr(torch_to_onnx, "Session", Broken)
    with pytest.raises(ExportMismatch, match="differ by nan"):
        export(model, (SAMPLES,), path, ExportConfig(tolerance=1e9))


def test_a_model_that_torch_cannot_export_is_one_line(tmp_path: Path):
    with pytest.raises(InputError) as caught:
        export(Unexportable(), (SAMPLES,), tmp_path / "m.onnx")
    assert str(caught.value).startswith("torch cannot export Unexportable: ")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "m.onnx").exists()


def test_the_model_is_exported_in_evaluation_mode(tmp_path: Path):
    model = nn.Sequential(nn.Linear(4, 4), nn.Dropout(0.5)).train()
    export(model, SAMPLES, tmp_path / "m.onnx")
    assert not model.training
    assert {node.op_type for node in onnx.load(tmp_path / "m.onnx").graph.node} == {"Gemm"}


class Steps(nn.Module):
    """Something of each step, and how long each sequence is; (batch, time, features)."""

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        return x.cumsum(dim=1)[:, -1] / lengths.unsqueeze(1)


class WrongAt(nn.Module):
    """Gives something else where it is exported and the sequence has `length` steps."""

    def __init__(self, length: int) -> None:
        super().__init__()
        self.length = length

    def forward(self, x: Tensor) -> Tensor:
        if not torch.compiler.is_exporting():
            return x.mean(dim=1)
        steps = torch.ones_like(x[:1, :, 0]).sum()
        return x.mean(dim=1) * torch.where(steps == self.length, 1.5, 1.0)


class Window(nn.Module):
    """A convolution over three steps, without padding."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv1d(4, 3, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x.transpose(1, 2)).amax(dim=2)


def sequences(batch: int = 5, time: int = 9) -> Tensor:
    return torch.randn(batch, time, 4, generator=torch.Generator().manual_seed(0))


def test_sequences_and_their_lengths_of_any_size(tmp_path: Path):
    path, lengths = tmp_path / "m.onnx", torch.tensor([9, 1, 4, 7, 2])
    evidence = export(Steps(), (sequences(), lengths), path, sequences=True)
    assert evidence["lengths"] == [1, 2, 5, 9]
    found = {value.name: value.type.tensor_type for value in onnx.load(path).graph.input}
    dims = {name: [d.dim_param or d.dim_value for d in t.shape.dim] for name, t in found.items()}
    assert dims == {"input": ["batch", "time", 4], "lengths": ["batch"]}
    assert found["lengths"].elem_type == onnx.TensorProto.INT64
    session = onnxruntime.InferenceSession(path)
    for batch, time in ((1, 1), (2, 30)):
        x, whole = sequences(batch, time), torch.full((batch,), time)
        (output,) = session.run(None, {"input": x.numpy(), "lengths": whole.numpy()})
        np.testing.assert_allclose(output, Steps()(x, whole).numpy(), atol=1e-6)


def test_images_have_no_time(tmp_path: Path):
    evidence = export(Window(), (sequences(),), tmp_path / "m.onnx")
    assert "lengths" not in evidence
    (value,) = onnx.load(tmp_path / "m.onnx").graph.input
    assert value.type.tensor_type.shape.dim[1].dim_value == 9


@pytest.mark.parametrize("length", [1, 2, 5])
def test_a_mismatch_at_one_length_is_named(length: int, tmp_path: Path):
    path = tmp_path / "m.onnx"
    with pytest.raises(ExportMismatch, match=rf"torch differ by \S+ at length {length} \("):
        export(WrongAt(length), (sequences(),), path, sequences=True)


def test_lengths_that_torch_itself_cannot_take_are_left_out(tmp_path: Path):
    evidence = export(Window(), (sequences(),), tmp_path / "m.onnx", sequences=True)
    assert evidence["lengths"] == [5, 9]


def test_a_length_that_only_torch_can_take_is_a_mismatch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    whole, path = Session.run, tmp_path / "m.onnx"

    def run(self: Session, inputs: tuple[np.ndarray, ...], batch_size: int) -> np.ndarray:
        if inputs[0].shape[1] == 2:
            raise ValueError("no kernel for this\nand much more")
        return whole(self, inputs, batch_size=batch_size)

    monkeypatch.setattr(Session, "run", run)
    with pytest.raises(ExportMismatch) as caught:
        export(WrongAt(0), (sequences(),), path, sequences=True)
    assert str(caught.value) == (
        f"{path}: onnxruntime fails where torch does not at length 2: no kernel for this"
    )


def test_short_samples(tmp_path: Path):
    for time, lengths in ((2, [1, 2]), (3, [1, 2, 3])):
        inputs = (sequences(3, time), torch.tensor([1, 2, time]))
        evidence = export(Steps(), inputs, tmp_path / "m.onnx", sequences=True)
        assert evidence["lengths"] == lengths

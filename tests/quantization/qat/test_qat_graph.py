"""The graph in training against onnxruntime, for all three families."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import pytest
import tiny
import torch
from onnx import numpy_helper

from compress.errors import NoEffect
from compress.export.graph import operators
from compress.export.torch_to_onnx import export
from compress.measure.judge import TaskJudge
from compress.models.build import build
from compress.models.references import resolve
from compress.quantization.qat.check import compare, left_in_fp32, scale_summary
from compress.quantization.qat.config import QatConfig
from compress.quantization.qat.graph import QuantizedGraph
from compress.quantization.qat.start import start_graph
from compress.quantization.rewriting.simplify import simplify
from compress.runtime.onnxruntime import Session

Start = Callable[[str], tuple[QuantizedGraph, str]]


@dataclass(frozen=True)
class Case:
    """A small model of a family, its method by default, and what becomes int8 by it."""

    model: str
    settings: dict
    task: str
    method: str
    operators: dict


WIDE = {"width": 96, "heads": [3], "head_width": 32, "feed_forward": [192], "dropout": 0.0}
CASES = {
    "cnn": Case(
        "cnn",
        {"widths": [8, 16], "blocks": 1},
        "task",
        "static",
        {"Conv": {"int8 (static)": 6}, "Gemm": {"int8 (static)": 1}},
    ),
    "bilstm": Case(
        "bilstm",
        {"widths": [24, 24]},
        "sequences",
        "dynamic",
        {"Gemm": {"fp32": 1}, "LSTM": {"int8 (dynamic)": 2}},
    ),
    "convolution and lstm": Case(
        "lstm",
        {"widths": [32], "front_width": 16},
        "sequences",
        "static and dynamic",
        {"Conv": {"int8 (static)": 1}, "Gemm": {"fp32": 1}, "LSTM": {"int8 (dynamic)": 1}},
    ),
    "gru": Case(
        "gru",
        {"widths": [64, 64]},
        "sequences",
        "step by step",
        {"Gemm": {"fp32": 1}, "MatMul": {"fp32": 1, "int8 (dynamic)": 3}},
    ),
    "rnn": Case(
        "rnn",
        {"widths": [96], "bidirectional": True},
        "sequences",
        "step by step",
        {"Gemm": {"fp32": 1}, "MatMul": {"fp32": 2, "int8 (dynamic)": 2}},
    ),
    "transformer": Case(
        "transformer",
        {**WIDE, "ngrams": {2: 64}, "wide": {1: 12}},
        "tokens",
        "dynamic",
        {},
    ),
    "gpt": Case("gpt", {**WIDE, "positions": "sinusoidal"}, "language", "dynamic", {}),
}


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The ONNX file of a case, exported when it is first asked for."""
    folder = tmp_path_factory.mktemp("sources")

    def find(name: str) -> Path:
        path = folder / name / "fp32.onnx"
        if not path.is_file():
            path.parent.mkdir()
            _export(CASES[name], path)
        return path

    return find


@pytest.fixture(scope="module")
def started(sources: Callable[[str], Path]) -> Start:
    """A copy of the graph that training starts from, and the method that it was quantized by."""
    found: dict[str, tuple[QuantizedGraph, str]] = {}

    def start(name: str) -> tuple[QuantizedGraph, str]:
        if name not in found:
            samples = TaskJudge(getattr(tiny, CASES[name].task)()).calibration(64, 0)
            found[name] = start_graph(sources(name), samples, QatConfig())
        return copy.deepcopy(found[name])

    return start


def _export(case: Case, path: Path) -> None:
    torch.manual_seed(0)
    task = getattr(tiny, case.task)()
    model = build(resolve(case.model, case.settings, task.facts)).eval()
    for values in model.parameters():
        values.detach().mul_(1.5)  # answers that differ, of a model that is not trained
    export(model, task.validation.typical(8), path, sequences=task.sequences)


@pytest.mark.parametrize("name", CASES)
def test_a_fp32_graph_gives_what_onnxruntime_gives(
    sources: Callable[[str], Path], tmp_path: Path, name: str
) -> None:
    """Without anything to round, the module and the file must agree to the last digits."""
    task = getattr(tiny, CASES[name].task)()
    prepared = tmp_path / "prepared.onnx"
    simplify(sources(name), prepared)
    inputs = task.validation.typical(6)
    expected = Session(prepared).run(tuple(part.numpy() for part in inputs))
    with torch.no_grad():
        found = QuantizedGraph(onnx.load(prepared))(*inputs).numpy()
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-4 * np.abs(expected).max())


@pytest.mark.parametrize("name", CASES)
def test_the_int8_file_gives_what_the_graph_in_training_gives(
    started: Start, tmp_path: Path, name: str
) -> None:
    case = CASES[name]
    task = getattr(tiny, case.task)()
    graph, method = started(name)
    assert method == case.method
    for values in graph.parameters():  # as if trained: no value where calibration put it
        values.detach().add_(torch.randn_like(values) * values.abs().mean() * 0.01)
    for log in graph._log_scales:
        log.detach().add_(torch.rand_like(log) * 0.2 - 0.1)
    model = graph.learned()
    onnx.save(model, tmp_path / "int8.onnx")
    if case.operators:
        assert operators(model) == case.operators
    found = compare(graph, tmp_path / "int8.onnx", task.validation, labels=True)
    assert found["mean_difference"] < 0.02
    assert found["equal_answers"] >= 0.97


@pytest.mark.parametrize("name", ["cnn", "bilstm", "gru", "transformer"])
def test_untrained_it_is_the_file_that_calibration_made(
    started: Start, tmp_path: Path, name: str
) -> None:
    """Weights come from fp32 and go back to the very integers that they were rounded to."""
    graph, _ = started(name)
    before = {t.name: numpy_helper.to_array(t) for t in graph.proto.graph.initializer}
    after = {t.name: numpy_helper.to_array(t) for t in graph.learned().graph.initializer}
    assert before.keys() == after.keys()
    for tensor, values in before.items():
        assert after[tensor].dtype == values.dtype
        np.testing.assert_allclose(after[tensor], values, rtol=1e-6, atol=1e-7, err_msg=tensor)


def test_the_weights_in_training_are_the_fp32_ones(
    sources: Callable[[str], Path], started: Start, tmp_path: Path
) -> None:
    graph, _ = started("cnn")
    simplify(sources("cnn"), tmp_path / "prepared.onnx")
    fp32 = [
        numpy_helper.to_array(t) for t in onnx.load(tmp_path / "prepared.onnx").graph.initializer
    ]
    for name, weight in zip(graph.weight_names, graph.weights, strict=True):
        if name in graph.points.weights:
            found = weight.detach().numpy()
            assert any(found.shape == w.shape and np.array_equal(found, w) for w in fp32), name


def test_scales_are_learned_and_told(started: Start) -> None:
    graph, _ = started("cnn")
    graph(*tiny.task().train.typical(4)).square().sum().backward()
    moved = [log.grad is not None and bool(log.grad.abs().sum() > 0) for log in graph._log_scales]
    assert all(moved)
    assert all(weight.grad is not None for weight in graph.weights)
    assert scale_summary(graph) == {
        "activations": {"tensors": 10, "median_change": 0.0, "largest_change": 0.0},
        "weights": {"tensors": 7, "median_change": 0.0, "largest_change": 0.0},
    }


def test_what_stays_fp32_is_listed_with_its_reason(started: Start) -> None:
    graph, _ = started("bilstm")
    (head,) = left_in_fp32(graph.proto)
    assert head["operator"] == "Gemm"
    assert head["reason"] == "144 weights: int8 would cost more than it saves"


def test_a_model_with_nothing_to_quantize_is_refused(tmp_path: Path) -> None:
    task = tiny.task()
    model = torch.nn.Sequential(torch.nn.AvgPool2d(6), torch.nn.Flatten())
    export(model, task.validation.typical(4), tmp_path / "m.onnx")
    with pytest.raises(NoEffect, match="no operator became int8 by method 'dynamic': it has no"):
        start_graph(tmp_path / "m.onnx", TaskJudge(task).calibration(32, 0), QatConfig())

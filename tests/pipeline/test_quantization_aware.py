"""The stage `qat`: in a recipe, alone, stopped and resumed, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import tiny
import torch
import yaml
from onnx import numpy_helper
from torch import nn
from typer.testing import CliRunner

from compress.artifact import Artifact, load_artifact
from compress.cli.app import app
from compress.data.task import Task
from compress.errors import ArtifactError, InputError, NoEffect, RecipeError
from compress.export.torch_to_onnx import export
from compress.measure.config import BenchConfig
from compress.measure.judge import TaskJudge
from compress.measure.quality import run_onnx
from compress.pipeline import run
from compress.pipeline.context import Context, Inputs
from compress.pipeline.runner import make_artifact
from compress.progress import Progress, quiet
from compress.quantization.qat.config import QatConfig
from compress.quantization.qat.start import start_graph
from compress.recipe import BudgetConfig, Stage, parse_recipe
from compress.runtime.onnxruntime import Session
from compress.training import loop

FIT = {"batch_size": 24, "precision": "fp32"}
BENCH = {"batch": [1], "threads": 1, "workers": 2, "rounds": 2, "block_ms": 0.5}


def recipe(*stages: dict[str, Any]) -> dict[str, Any]:
    return {
        "task": "tiny:task",
        "model": {"name": "cnn-small", "widths": [8, 16], "blocks": 1},
        "budget": {"max_drop": 0.3, "minimise": "size"},
        "stages": [{"train": {**FIT, "epochs": 3}}, *stages, {"benchmark": BENCH}],
    }


def invoke(*words: object) -> Any:
    return CliRunner().invoke(app, [str(word) for word in words])


def test_in_a_recipe_it_leaves_an_int8_file_and_says_what_it_did(tmp_path: Path) -> None:
    plan = recipe(
        {"prune": {"ratio": 0.3, "round_to": 4, "epochs": 1, **FIT}},  # leaves a plan
        {"qat": {"epochs": 2, "batch_size": 24, "samples": 32}},
    )
    outcome = run(parse_recipe(plan), tmp_path / "run")
    assert [arm.name for arm in outcome.report.arms] == ["1-train", "2-prune", "3-qat"]
    card = load_artifact(tmp_path / "run/3-qat").card
    evidence = card.evidence
    assert evidence["method"] == "static"
    assert evidence["taught_by"] == "prune"
    assert evidence["operators"]["Conv"] == {"int8 (static)": 6}
    assert evidence["left_in_fp32"] == []
    assert evidence["agreement"]["equal_answers"] >= 0.95
    assert evidence["agreement"]["mean_difference"] < 0.02
    assert evidence["validation"].keys() == {"metric", "before", "calibrated", "trained"}
    assert evidence["fit"]["epochs"] == 2
    assert evidence["scales"]["weights"]["largest_change"] > 0
    assert evidence["size_bytes"][1] < evidence["size_bytes"][0]
    assert card.files.keys() == {"model.onnx"}
    with pytest.raises(ArtifactError, match="holds an ONNX file and no torch weights"):
        load_artifact(tmp_path / "run/3-qat").load_model()


def make(
    base: Path,
    folder: Path,
    progress: Progress = quiet,
    teacher: Path | None = None,
    **settings: Any,
) -> Artifact:
    """The stage alone, as runner and command line call it."""
    parent = load_artifact(base)
    context = Context(
        task=tiny.task(),
        data="tiny:task",
        model={},
        budget=BudgetConfig(),
        bench=BenchConfig(),
        seed=0,
        device="cpu",
        cache=folder.with_name("cache"),
        progress=progress,
    )
    config = QatConfig(**{"epochs": 3, "batch_size": 24, "samples": 32, **settings})
    taught = load_artifact(teacher) if teacher else None
    inputs = Inputs(parent=parent, baseline=parent, teacher_artifact=taught)
    stage = Stage("qat", "qat", None, config)
    return make_artifact(folder, stage, inputs, context, "k" * 64, {})


def test_labels_teach_without_a_teacher_and_an_int8_model_trains_on(
    base: Path, tmp_path: Path
) -> None:
    first = make(base, tmp_path / "labels", epochs=1, alpha=0)
    assert (first.card.evidence["method"], first.card.evidence["taught_by"]) == ("static", "labels")
    further = make(first.folder, tmp_path / "further", epochs=1, teacher=base)
    evidence = further.card.evidence
    assert (evidence["method"], evidence["taught_by"]) == ("as it came in", "train")
    assert evidence["operators"] == first.card.evidence["operators"]
    assert evidence["size_bytes"] == [first.onnx.stat().st_size] * 2


def test_training_that_was_stopped_goes_on_and_ends_as_unbroken(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "CHECKPOINT_EVERY", -1.0)
    whole = make(base, tmp_path / "whole")
    seen: list[int] = []

    def stop(label: str, done: int, total: int) -> None:
        if label == "quantization-aware training" and done > 2 * total // 3:
            raise KeyboardInterrupt

    def watch(label: str, done: int, total: int) -> None:
        if label == "quantization-aware training":
            seen.append(done)

    with pytest.raises(KeyboardInterrupt):
        make(base, tmp_path / "stopped", stop)
    resumed = make(base, tmp_path / "stopped", watch)
    assert seen[0] == 11  # two epochs of five steps were not done again
    assert resumed.onnx.read_bytes() == whole.onnx.read_bytes()


def uneven(model: nn.Module) -> nn.Module:
    """The same function, with a channel in each block that is 256 times as large as the others."""
    for block in (module for module in model.modules() if hasattr(module, "conv2")):
        block.norm1.weight.data[0] *= 256
        block.norm1.bias.data[0] *= 256
        block.conv2.weight.data[:, 0] /= 256
    return model


def test_it_wins_back_what_calibration_alone_loses(
    trained: nn.Module, tiny_task: Task, tmp_path: Path
) -> None:
    """With one scale a tensor a large channel leaves the others a few steps; training mends it."""
    path = tmp_path / "uneven.onnx"
    export(uneven(trained), tiny_task.validation.typical(8), path)
    words = ["per_channel=false", "epochs=12", "batch_size=24", "learning_rate=0.002"]
    result = invoke(
        *("qat", path, "--data", "tiny:task", "--out", tmp_path / "qat"),
        *(*words, "augment=false", "samples=64", "--json"),
    )
    assert result.exit_code == 0, result.output
    evidence = json.loads(result.stdout)["evidence"]
    before, calibrated, after = (
        evidence["validation"][key] for key in ("before", "calibrated", "trained")
    )
    assert before >= 0.95
    assert calibrated <= before - 0.5
    assert after >= before - 0.05
    assert evidence["kept"] == "trained"
    outputs = run_onnx(Session(tmp_path / "qat/model.onnx"), tiny_task.validation)
    right = (outputs.argmax(axis=1) == tiny_task.validation.targets.numpy()).mean()
    assert right == pytest.approx(after, abs=0.03)


def test_training_moves_integers_and_scales_of_the_file(base: Path, tmp_path: Path) -> None:
    result = invoke("qat", base, "epochs=2", "samples=64", "--out", tmp_path / "qat")
    assert result.exit_code == 0, result.output
    assert "accuracy on validation:" in result.stdout
    assert "equal answers" in result.stdout
    task = tiny.task()
    config = QatConfig(samples=64)
    graph, _ = start_graph(base / "model.onnx", TaskJudge(task).calibration(64, 0), config)
    before = [numpy_helper.to_array(t) for t in graph.proto.graph.initializer]
    model = onnx.load(tmp_path / "qat/model.onnx")
    after = [numpy_helper.to_array(t) for t in model.graph.initializer]
    pairs = list(zip(before, after, strict=True))
    moved = [(a != b).any() for a, b in pairs if a.dtype == np.int8 and a.ndim == 4]
    assert len(moved) == 6
    assert all(moved)
    assert any((a != b).any() for a, b in pairs if a.dtype == np.float32 and a.ndim == 0)


def test_of_two_models_the_better_one_stays(base: Path, tmp_path: Path) -> None:
    """A rate that wrecks the model leaves the calibrated one."""
    result = invoke(
        *("qat", base, "epochs=1", "learning_rate=3", "optimizer=sgd", "samples=64"),
        *("--out", tmp_path / "qat", "--json"),
    )
    assert result.exit_code == 0, result.output
    evidence = json.loads(result.stdout)["evidence"]
    assert evidence["kept"] == "calibrated"
    found = json.loads((tmp_path / "qat/card.json").read_text())["metrics"]["validation"]
    assert found["value"] == pytest.approx(evidence["validation"]["calibrated"], abs=0.03)


def plain() -> nn.Module:
    """A user's own model of plain layers, by reference: `test_quantization_aware:plain`."""
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, stride=2),
        nn.LeakyReLU(0.1),
        nn.Conv2d(8, 8, 3, padding=1, groups=2),
        nn.Hardswish(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(32, 4),
    )


def test_a_users_own_model_is_trained_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    words = ("--data", "tiny:task", "epochs=1", "batch_size=24", "precision=fp32")
    made = invoke("train", "test_quantization_aware:plain", *words, "--out", tmp_path / "own")
    assert made.exit_code == 0, made.output
    result = invoke("qat", tmp_path / "own", "epochs=1", "--out", tmp_path / "qat", "--json")
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["evidence"]["operators"] == {
        "Conv": {"int8 (static)": 2},
        "Gemm": {"int8 (static)": 1},
    }


def test_what_it_refuses_it_says_in_one_line(base: Path, tmp_path: Path) -> None:
    first = invoke("qat", base, "epochs=1", "samples=32", "--out", tmp_path / "qat")
    assert first.exit_code == 0
    orphan = invoke("qat", tmp_path / "qat/model.onnx", "--data", "tiny:task")
    assert isinstance(orphan.exception, InputError)
    assert "is int8 already, and nothing says which fp32 model it" in str(orphan.exception)
    odd = invoke("qat", base, "precision=bf16")
    assert isinstance(odd.exception, RecipeError)
    assert "precision: fp32: in bf16 values would be rounded twice" in str(odd.exception)
    with pytest.raises(RecipeError, match=r"qat: no setting 'epoch'.*Did you mean 'epochs'"):
        parse_recipe(recipe({"qat": {"epoch": 1}}))
    with pytest.raises(RecipeError, match=r"qat.teacher: no earlier stage 'trian'.*'train'"):
        parse_recipe(recipe({"qat": {"teacher": "trian"}}))


def test_a_recipe_says_all_of_its_settings(tmp_path: Path) -> None:
    resolved = parse_recipe(recipe({"qat": {}})).resolved()
    settings = yaml.safe_load(yaml.safe_dump(resolved))["stages"][1]["qat"]
    assert settings["from"] == "train"
    assert settings["teacher"] is None
    assert settings["method"] == "auto"
    assert (
        QatConfig.model_validate(
            {key: value for key, value in settings.items() if key not in ("name", "from")}
        )
        == QatConfig()
    )


def test_a_method_that_finds_nothing_is_no_success(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(144, 1), nn.ReLU(), nn.Linear(1, 4))
    path = tmp_path / "small.onnx"
    task = tiny.task()
    export(model, task.validation.typical(4), path)
    config = QatConfig(method="dynamic")
    with pytest.raises(NoEffect, match="no operator became int8 by method 'dynamic': it has Gemm"):
        start_graph(path, TaskJudge(task).calibration(32, 0), config)

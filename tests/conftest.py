"""What tests share: the tiny task, and one model trained on it and exported once a session."""

from __future__ import annotations

import copy
import os
import shutil
import sys
from pathlib import Path

import pytest

# Before torch starts its threads: beside other work, threads that spin while they wait make small
# steps ten times slower.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).parent))  # `tiny:task` is importable as a reference

import tiny

from compress.artifact import ONNX, Card, finish, writing
from compress.data.task import Task
from compress.export.torch_to_onnx import export
from compress.models.build import build
from compress.models.references import ModelSpec, resolve
from compress.training.batches import LabelledBatches
from compress.training.config import FitConfig
from compress.training.loop import fit


@pytest.fixture(scope="session")
def tiny_task() -> Task:
    """Four separable classes of 1 x 12 x 12 images; 120 / 40 / 60 samples."""
    return tiny.task()


@pytest.fixture(scope="session")
def tiny_spec(tiny_task: Task) -> ModelSpec:
    """A residual network of two stages, 8 and 16 channels wide, one block each."""
    return resolve("cnn", {"widths": [8, 16], "blocks": 1}, tiny_task.facts)


@pytest.fixture(scope="session")
def _trained(tiny_task: Task, tiny_spec: ModelSpec) -> nn.Module:
    torch.manual_seed(0)
    model = build(tiny_spec)
    config = FitConfig(epochs=8, batch_size=24, precision="fp32", augment=False)
    fit(model, LabelledBatches(tiny_task.train, config.batch_size), tiny.label_loss, config)
    return model


@pytest.fixture
def trained(_trained: nn.Module) -> nn.Module:
    """The model of `tiny_spec`, trained on the tiny task; a copy that a test may change."""
    return copy.deepcopy(_trained)


@pytest.fixture(scope="session")
def trained_onnx(
    _trained: nn.Module, tiny_task: Task, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """The trained model as an ONNX file; read only."""
    path = tmp_path_factory.mktemp("trained") / "model.onnx"
    export(copy.deepcopy(_trained), (tiny_task.validation.inputs[:3],), path)
    return path


@pytest.fixture
def base(trained: nn.Module, tiny_spec: ModelSpec, trained_onnx: Path, tmp_path: Path) -> Path:
    """The trained model of all tests as an artifact."""
    with writing(tmp_path / "base") as scratch:
        shutil.copyfile(trained_onnx, scratch / ONNX)
        card = Card(kind="train", name="train", task="tiny:task", key="base", model=tiny_spec)
        finish(scratch, card, trained)
    return tmp_path / "base"

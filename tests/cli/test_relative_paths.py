"""Relative paths, as people type them: some of what is called changes the current folder."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest
from torch import nn

from compress import cli
from compress.artifact import ONNX, Card, finish, load_artifact, writing
from compress.models.references import ModelSpec


@pytest.mark.parametrize("method", ["static", "dynamic", "weight-only"])
def test_quantize_below_the_current_folder(
    method: str,
    trained: nn.Module,
    tiny_spec: ModelSpec,
    trained_onnx: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.chdir(tmp_path)
    with writing(Path("base")) as scratch:
        shutil.copyfile(trained_onnx, scratch / ONNX)
        card = Card(kind="train", name="train", task="tiny:task", key="base", model=tiny_spec)
        finish(scratch, card, trained)
    command = ["quantize", "base", f"method={method}", "--minimise", "size", "--max-drop", "1"]
    command += ["benchmark.workers=1", "benchmark.rounds=2", "benchmark.batch=1"]
    monkeypatch.setattr(sys, "argv", ["compress", *command])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    assert stop.value.code == 0
    assert Path.cwd() == tmp_path
    assert load_artifact(Path("base-quantize")).card.evidence["chosen"] == method

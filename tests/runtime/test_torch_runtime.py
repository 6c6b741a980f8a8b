"""Torch as a runtime: what it answers is what the model answers, in each of its three ways."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from compress.artifact import ONNX
from compress.data.task import Task
from compress.errors import ArtifactError, DeviceUnavailable, ModelFileError, ShapeMismatch
from compress.runtime.interface import open_model
from compress.runtime.onnxruntime import Session


def test_eager_answers_as_the_model_does(base: Path, trained: nn.Module, tiny_task: Task):
    rows = tiny_task.test.inputs
    with torch.inference_mode():
        expected = trained.eval()(rows).numpy()
    model = open_model("torch", base, threads=torch.get_num_threads())
    np.testing.assert_allclose(model.run(rows.numpy(), batch_size=25), expected, atol=1e-5)
    (found,) = model.example(3)
    np.testing.assert_array_equal(found, *Session(base / ONNX).example(3))


def test_threads_are_set_before_a_block(base: Path):
    before = torch.get_num_threads()
    try:
        first, second = (open_model("torch", base, threads=count) for count in (1, 2))
        first.prepare()
        assert torch.get_num_threads() == 1
        second.prepare()
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_a_script_is_checked_against_eager(
    base: Path, tiny_task: Task, monkeypatch: pytest.MonkeyPatch
):
    rows = tiny_task.test.inputs.numpy()[:3]
    model = open_model("torchscript", base, threads=torch.get_num_threads())
    model.bind(rows)()
    monkeypatch.setattr(torch.jit, "freeze", lambda traced: lambda *given: traced(*given) + 1)
    with pytest.raises(ModelFileError, match=r"torchscript gives outputs that differ .* by 1\.$"):
        model.bind(rows)


def test_compiled_code_is_made_for_its_number_of_threads(
    base: Path, tiny_task: Task, monkeypatch: pytest.MonkeyPatch
):
    asked = []
    monkeypatch.setattr(torch, "compile", lambda model, **settings: asked.append(settings) or model)
    threads = torch.get_num_threads()
    open_model("compile", base, threads=threads).bind(tiny_task.test.inputs.numpy()[:3])()
    assert asked == [{"dynamic": False, "options": {"cpp.threads": threads}}]


def test_what_does_not_fit_is_one_line(base: Path, tmp_path: Path):
    model = open_model("torch", base, threads=torch.get_num_threads())
    wrong = np.zeros((2, 5, 12, 12), np.float32)
    with pytest.raises(ShapeMismatch, match=r"torch does not run it on \[2, 5, 12, 12\]: .*"):
        model.bind(wrong)
    with pytest.raises(ArtifactError, match="no artifact here"):
        open_model("torch", tmp_path)
    if not torch.cuda.is_available():
        with pytest.raises(DeviceUnavailable, match="finds none here"):
            open_model("torch", base, "cuda")

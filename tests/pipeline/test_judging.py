"""Whether samples can be put together, as the model runs them and not as its file declares it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from onnx import helper
from small_graphs import save, value, whole

from compress.errors import ModelFileError
from compress.pipeline.judging import judge_for

ROWS = [{"x": whole(1, 6, seed=seed)} for seed in range(12)]


def file(folder: Path, rows: int) -> Path:
    """A file that declares any batch size, and a Reshape inside to so many rows (-1: any)."""
    nodes = [
        helper.make_node("Reshape", ["x", "shape"], ["r"]),
        helper.make_node("MatMul", ["r", "w"], ["y"]),
    ]
    constants = {"shape": np.array([rows, 6]), "w": whole(6, 3)}
    given, made = [value("x", ["n", 6])], [value("y", ["n", 3])]
    return save(folder / "model.onnx", nodes, given, made, constants)


@pytest.mark.parametrize(("rows", "sizes"), [(1, (1,)), (-1, (1, 32))])
def test_a_file_that_takes_one_sample_is_given_one(tmp_path: Path, rows: int, sizes: tuple):
    judge = judge_for("mine", ROWS, file(tmp_path, rows))
    assert judge.sizes((1, 32)) == sizes
    assert len(judge.batch(32)[0]) == sizes[-1]
    told = "fails for two samples at once" in " ".join(judge.notes)
    assert told is (rows == 1)


def test_one_that_takes_none_of_them_says_so(tmp_path: Path):
    with pytest.raises(ModelFileError, match="the model fails on it"):
        judge_for("mine", ROWS, file(tmp_path, 2))


def recurrent(folder: Path) -> Path:
    """An LSTM along the first axis, (t, 6) → (t, 3): rows are steps."""
    nodes = [
        helper.make_node("Unsqueeze", ["x", "one"], ["s"]),
        helper.make_node("LSTM", ["s", "w", "r"], ["h"], hidden_size=3),
        helper.make_node("Reshape", ["h", "shape"], ["y"]),
    ]
    constants = {
        "one": np.array([1]),
        "shape": np.array([-1, 3]),
        "w": whole(1, 12, 6, most=1),
        "r": whole(1, 12, 3, seed=1, most=1),
    }
    given, made = [value("x", ["t", 6])], [value("y", ["t", 3])]
    return save(folder / "model.onnx", nodes, given, made, constants)


def test_steps_of_a_sequence_are_no_samples(tmp_path: Path):
    calls = [{"x": whole(9, 6, seed=seed, most=1)} for seed in range(12)]
    judge = judge_for("mine", calls, recurrent(tmp_path))
    assert judge.sizes((1, 32)) == (1,)
    assert judge.batch(1)[0].shape == (9, 6)
    assert "The first axis is no batch" in judge.notes[0]


def test_an_output_that_is_a_number_alone_says_nothing_of_rows(tmp_path: Path):
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["h"]),
        helper.make_node("ReduceSum", ["h"], ["sum"], keepdims=0),
    ]
    given, made = [value("x", ["n", 6])], [value("sum", [])]
    model = save(tmp_path / "model.onnx", nodes, given, made, {"w": whole(6, 3)})
    assert judge_for("mine", ROWS, model).sizes((1, 32)) == (1, 32)


def test_one_large_batch_is_of_samples_whatever_its_rows_answer(tmp_path: Path):
    rows = {"x": whole(40, 6, most=1)}
    assert judge_for("mine", rows, recurrent(tmp_path)).sizes((1, 32)) == (1, 32)

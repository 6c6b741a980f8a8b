"""Which runtime an arm's name means, and what all runtimes share."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from compress.errors import UnknownName
from compress.runtime.interface import fill, in_batches, split_runtime


def test_a_runtime_stands_behind_the_path():
    assert split_runtime("a/model.onnx") == ("a/model.onnx", "onnxruntime")
    assert split_runtime("a/model.onnx@openvino") == ("a/model.onnx", "openvino")
    assert split_runtime("runs/x@y/1-train@compile") == ("runs/x@y/1-train", "compile")
    with pytest.raises(UnknownName, match=r"No runtime named 'opnvino'.*Did you mean 'openvino'"):
        split_runtime("model.onnx@opnvino")


def test_a_path_with_an_at_is_a_path(tmp_path: Path):
    (tmp_path / "model@2").mkdir()
    name = str(tmp_path / "model@2")
    assert split_runtime(name) == (name, "onnxruntime")
    assert split_runtime(f"{name}@torch") == (name, "torch")


def test_batches_are_joined_and_the_last_is_filled():
    rows = np.arange(7)[:, None]
    sizes = []

    def call(part: tuple[np.ndarray, ...]) -> np.ndarray:
        sizes.append(len(part[0]))
        return part[0] * 2

    np.testing.assert_array_equal(in_batches(call, (rows,), 3), rows * 2)
    np.testing.assert_array_equal(in_batches(call, (rows,), 3, filled=True), rows * 2)
    assert sizes == [3, 3, 1, 3, 3, 3]
    np.testing.assert_array_equal(fill(rows[:2], 4)[:, 0], [0, 1, 1, 1])

"""Which runtime an arm's name means, and what all runtimes share."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from compress.errors import UnknownName
from compress.runtime.interface import example_feeds, fill, in_batches, split_runtime


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


def test_made_up_inputs_have_the_length_that_is_asked_for():
    declared = [
        ((None, None, 3), np.dtype(np.float32)),
        ((None, None), np.dtype(np.int64)),
        ((None,), np.dtype(np.int64)),
        ((None, 5), np.dtype(np.float16)),
    ]
    frames, tokens, lengths, fixed = example_feeds(declared, 2, length=7)
    assert (frames.shape, frames.dtype) == ((2, 7, 3), np.float32)
    assert (tokens.shape, tokens.dtype, set(tokens.ravel())) == ((2, 7), np.int64, {1})
    np.testing.assert_array_equal(lengths, [7, 7])
    assert (fixed.shape, fixed.dtype) == ((2, 5), np.float16)
    short = example_feeds(declared, 2)
    assert [feed.shape for feed in short] == [(2, 1, 3), (2, 1), (2,), (2, 5)]
    np.testing.assert_array_equal(short[2], [1, 1])


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

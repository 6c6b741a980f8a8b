"""Calls in another process, and what is left of one that dies."""

from __future__ import annotations

import math
import os
import signal

import numpy as np
import pytest

from compress.errors import ModelFileError, ShapeMismatch
from compress.export.loading import load_onnx
from compress.runtime.isolated import Crashed, Isolated, calls


@pytest.fixture
def process():
    made = Isolated()
    yield made
    made.stop()


def test_calls_come_back_from_one_other_process(process):
    number = process.call(os.getpid)
    assert number != os.getpid()
    assert process.call(os.getpid) == number
    np.testing.assert_array_equal(process.call(np.add, np.arange(3), 1), [1, 2, 3])


def test_what_is_written_there_stays_there(process, capfd):
    assert process.call(print, "noise") is None
    assert process.call(os.write, 1, b"noise") == 5
    assert process.call(math.sqrt, 4) == 2
    assert capfd.readouterr() == ("", "")


def test_a_crash_is_told_and_the_next_call_served(process):
    with pytest.raises(Crashed, match=r"^onnxruntime crashes \(SIGSEGV\)$"):
        process.call(signal.raise_signal, signal.SIGSEGV)
    with pytest.raises(Crashed, match=r"^onnxruntime ends its process \(exit code 7\)$"):
        process.call(os._exit, 7)
    assert process.call(math.sqrt, 9) == 3


def test_errors_come_back_as_what_they_are(process, tmp_path):
    with pytest.raises(ModelFileError, match=r"no\.onnx: no such file; expected an ONNX model\."):
        process.call(load_onnx, tmp_path / "no.onnx")
    with pytest.raises(RuntimeError, match="math domain error"):
        process.call(math.sqrt, -1)


def test_here_is_here():
    with calls(isolated=False) as call:
        assert call(os.getpid) == os.getpid()
        with pytest.raises(ShapeMismatch):
            call(_fail)


def _fail():
    raise ShapeMismatch("x")

"""A graph made ready for quantization: shapes inferred, constants and batch norms folded."""

from __future__ import annotations

import logging
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from onnxruntime.quantization.shape_inference import quant_pre_process

from compress.errors import ModelFileError


def preprocess(source: Path, target: Path) -> None:
    """Write a folded copy of an ONNX file that computes the same.

    Raises:
        ModelFileError: onnxruntime cannot preprocess the graph, not even without symbolic shapes.
    """
    source, target = source.absolute(), target.absolute()
    with inside_scratch_folder() as scratch:
        result = scratch / "preprocessed.onnx"
        try:
            quant_pre_process(str(source), str(result))
        except Exception:  # "incomplete symbolic shape inference": go on without it
            try:
                quant_pre_process(str(source), str(result), skip_symbolic_shape=True)
            except Exception as error:
                raise ModelFileError(f"{source}: cannot be prepared for int8: {error}") from error
        target.write_bytes(result.read_bytes())


@contextmanager
def inside_scratch_folder() -> Iterator[Path]:
    """A temporary current folder: onnxruntime's quantizers leave large files where they run."""
    here = Path.cwd()
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        level = logging.root.level
        logging.root.setLevel(logging.ERROR)  # they log to the root logger, as warnings
        try:
            yield Path(folder)
        finally:
            logging.root.setLevel(level)
            os.chdir(here)

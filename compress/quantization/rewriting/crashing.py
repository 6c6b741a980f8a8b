"""Files over which onnxruntime crashes as it loads them, and what it loads instead."""

from __future__ import annotations

from pathlib import Path

import onnx
import onnxruntime as ort

from compress.errors import ModelFileError
from compress.export.bodies import has_bodies
from compress.quantization.rewriting.branches import inline_known_branches
from compress.quantization.rewriting.constants import inline_functions, take_weights_off_inputs
from compress.quantization.rewriting.files import load, save
from compress.runtime.isolated import Crashed, calls
from compress.runtime.onnxruntime import Session


def loadable(source: Path, folder: Path) -> Path:
    """The file, or a copy with known branches in the place of their If where it makes a crash.

    Files without bodies of If, Loop or Scan are not tried, and what merely fails to load is for its
    user to tell.

    Args:
        folder: for the copy, which has the name of the file.

    Raises:
        ModelFileError: onnxruntime crashes over both.
    """
    if not _has_bodies(source):
        return source
    with calls(isolated=True) as call:
        try:
            call(_open, source)
            return source
        except Crashed as crash:
            reason = str(crash)
        except Exception:
            return source
        copy = folder / source.name
        _write_inlined(source, copy)
        try:
            call(_open, copy)
        except Exception:
            raise ModelFileError(
                f"{source}: {reason} as it loads the file; expected a graph that onnxruntime "
                f"{ort.__version__} runs, such as an export without If, Loop and Scan."
            ) from None
    return copy


def check_loads(file: Path) -> None:
    """Load a file, first in another process where it has bodies of If, Loop or Scan.

    Raises:
        ModelFileError: onnxruntime cannot load it.
        Crashed: onnxruntime crashes over it.
    """
    if _has_bodies(file):
        with calls(isolated=True) as call:
            call(_open, file)
    _open(file)


def _has_bodies(source: Path) -> bool:
    try:
        return has_bodies(onnx.load(source, load_external_data=False))
    except Exception:  # protobuf's errors share no base
        return False


def _open(file: Path) -> None:
    Session(file)


def _write_inlined(source: Path, target: Path) -> None:
    model = load(source)
    inline_functions(model)
    take_weights_off_inputs(model)
    inline_known_branches(model)
    save(model, target)

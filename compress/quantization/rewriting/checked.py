"""One change of an ONNX file, kept where real inputs give the same outputs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from onnx import ModelProto

from compress.quantization.rewriting.agreement import Disagreement, reference
from compress.quantization.rewriting.files import load, remove, save
from compress.quantization.rewriting.tidy import tidy
from compress.runtime.interface import Feeds


def write_changed(
    source: Path, target: Path, samples: Feeds, change: Callable[[ModelProto], int]
) -> bool:
    """Write a changed copy of a file.

    Args:
        samples: one array for each of the model's inputs, on which both files have to agree.
        change: works in place, and gives the number of places that it changed.

    Returns:
        Whether there was any place, and the outputs agree; if not, nothing is written.
    """
    model = load(source)
    if not change(model):
        return False
    tidy(model, model)
    save(model, target)
    del model  # its weights need not be held beside those of two sessions
    try:
        reference(source, samples).difference(target)
    except Disagreement:
        remove(target)
        return False
    return True

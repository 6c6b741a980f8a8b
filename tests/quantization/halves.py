"""Files in fp16 beside those that they were made from."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx

from compress.export.loading import load_onnx
from compress.quantization.fp16 import convert_fp16
from compress.runtime.onnxruntime import Session


def numbers(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def converted(path: Path, *feeds: np.ndarray) -> Path:
    """The file in fp16, checked; its inputs and outputs are those of the other one."""
    target = path.with_stem("half")
    convert_fp16(path, target, [feeds])
    before, after = Session(path), Session(target)
    for one, other in ((before.inputs, after.inputs), (before.outputs, after.outputs)):
        assert [(e.name, e.type) for e in one] == [(e.name, e.type) for e in other]
    load_onnx(target)
    return target


def difference(path: Path, target: Path, *feeds: np.ndarray) -> float:
    """The largest of any output, relative to its largest number."""
    pairs = zip(Session(path).outputs_of(feeds), Session(target).outputs_of(feeds), strict=True)
    return max(float(np.abs(a - b).max() / np.abs(a).max()) for a, b in pairs)


def counts(path: Path) -> dict[str, int]:
    kinds = [entry.op_type for entry in onnx.load(path).graph.node]
    return {kind: kinds.count(kind) for kind in set(kinds)}

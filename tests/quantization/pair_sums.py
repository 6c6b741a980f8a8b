"""The instruction that cuts sums of two products off, done by hand, and files to try it on."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper


def rows(count: int, *shape: int) -> np.ndarray:
    """Inputs that reach both ends of the activations' range."""
    return np.random.default_rng(0).uniform(-2, 3.1, (count, *shape)).astype(np.float32)


def saturated(x: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Σ over pairs of the sum of two products, cut to 16 bits; x (n, in), weights (out, in)."""
    total = np.zeros((len(x), len(weights)), np.int64)
    for at in range(0, x.shape[1], 2):
        pair = sum(x[:, k, None] * weights[None, :, k] for k in range(at, min(at + 2, x.shape[1])))
        total += np.clip(pair, -(2**15), 2**15 - 1)
    return total


def by_range(x: np.ndarray) -> tuple[np.ndarray, np.float32, int]:
    """A call's uint8, by ONNX's DynamicQuantizeLinear: scale and zero point from its own range."""
    low, high = np.minimum(x.min(), 0), np.maximum(x.max(), 0)
    scale = np.float32((high - low) / np.float32(255)) or np.float32(1)
    zero = int(np.clip(np.rint(-low / scale), 0, 255))
    return np.clip(np.rint(x / scale) + zero, 0, 255).astype(np.int64), scale, zero


def dynamic_product(x: np.ndarray, weights: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """x (n, in) · weights (out, in), with sums cut to 16 bits."""
    values, x_scale, zero = by_range(x)
    wide = weights.astype(np.int64)
    return (saturated(values, wide) - zero * wide.sum(axis=1)) * x_scale * scale


def saved(path: Path, nodes: list, inputs: list, outputs: list, constants: dict) -> Path:
    made = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs]
    tensors = [numpy_helper.from_array(np.asarray(v), name) for name, v in constants.items()]
    graph = helper.make_graph(nodes, "g", inputs, made, tensors)
    opset = [helper.make_opsetid("", 18), helper.make_opsetid("com.microsoft", 1)]
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=9), path)
    return path


def integers(*shape: int, most: int = 127, seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).integers(-most, most + 1, shape).astype(np.int8)

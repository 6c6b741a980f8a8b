"""Small ONNX files whose every value is a whole number, so that sums are exact in any order."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
from onnx import NodeProto, TensorProto, ValueInfoProto, helper, numpy_helper

FLOAT, INT64 = TensorProto.FLOAT, TensorProto.INT64


def save(
    path: Path,
    nodes: Sequence[NodeProto],
    inputs: Sequence[ValueInfoProto],
    outputs: Sequence[ValueInfoProto],
    constants: dict[str, np.ndarray] | None = None,
    opset: int = 18,
) -> Path:
    """Write a graph."""
    tensors = [numpy_helper.from_array(values, name) for name, values in (constants or {}).items()]
    graph = helper.make_graph(nodes, "g", inputs, outputs, tensors)
    opsets = [helper.make_opsetid("", opset)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=9), path)
    return path


def value(name: str, shape: Sequence[int | str], kind: int = FLOAT) -> ValueInfoProto:
    """An input or output."""
    return helper.make_tensor_value_info(name, kind, shape)


def whole(*shape: int, seed: int = 0, most: int = 3) -> np.ndarray:
    """Whole numbers from -most to most."""
    random = np.random.default_rng(seed)
    return random.integers(-most, most + 1, shape).astype(np.float32)


def convolutions(path: Path, batch: int | str = "n") -> Path:
    """Convolution, ReLU, pooling, a residual block, a linear layer; takes (batch, 2, 8, 8)."""
    node = helper.make_node
    nodes = [
        node("Conv", ["x", "w1", "b1"], ["c1"], "conv1", pads=[1, 1, 1, 1]),
        node("Relu", ["c1"], ["r1"], "relu1"),
        node("MaxPool", ["r1"], ["p"], "pool", kernel_shape=[2, 2], strides=[2, 2]),
        node("Conv", ["p", "w2"], ["c2"], "conv2", pads=[1, 1, 1, 1]),
        node("Add", ["c2", "p"], ["s"], "sum"),
        node("Relu", ["s"], ["r2"], "relu2"),
        node("Reshape", ["r2", "shape"], ["f"], "flat"),
        node("Gemm", ["f", "w3", "b3"], ["y"], "linear"),
    ]
    constants = {
        "w1": whole(4, 2, 3, 3, seed=1),
        "b1": whole(4, seed=2),
        "w2": whole(4, 4, 3, 3, seed=3, most=1),
        "shape": np.array([-1, 64]),
        "w3": whole(64, 3, seed=4, most=1),
        "b3": whole(3, seed=5),
    }
    return save(path, nodes, [value("x", [batch, 2, 8, 8])], [value("y", [batch, 3])], constants)


def attention(path: Path) -> Path:
    """Masked scores of a sequence with itself; x (n, time, 4), lengths (n,)."""
    node = helper.make_node
    nodes = [
        node("MatMul", ["x", "w"], ["q"], "query"),
        node("Transpose", ["x"], ["k"], "turn", perm=[0, 2, 1]),
        node("MatMul", ["q", "k"], ["scores"], "product"),
        node("Shape", ["x"], ["time"], "time", start=1, end=2),
        node("Squeeze", ["time"], ["steps"], "steps"),
        node("Range", ["zero", "steps", "one"], ["places"], "places"),
        node("Unsqueeze", ["lengths", "axes"], ["ends"], "ends"),
        node("GreaterOrEqual", ["places", "ends"], ["outside"], "outside"),
        node("Where", ["outside", "least", "scores"], ["masked"], "mask"),
        node("Softmax", ["masked"], ["shares"], "shares"),
        node("MatMul", ["shares", "x"], ["y"], "values"),
    ]
    constants = {
        "w": whole(4, 4, seed=1),
        "zero": np.array(0),
        "one": np.array(1),
        "axes": np.array([1, 2]),
        "least": np.array(-np.inf, np.float32),
    }
    inputs = [value("x", ["n", "time", 4]), value("lengths", ["n"], INT64)]
    return save(path, nodes, inputs, [value("y", ["n", "time", 4])], constants)

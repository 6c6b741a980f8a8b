"""Small ONNX files in fp16: weights, inputs, outputs, and all that is computed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from small_graphs import FLOAT, convolutions, save, value

FP16 = TensorProto.FLOAT16
node = helper.make_node


def halves(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float16)


def perceptron(path: Path, width: int = 64, *, beside: str = "") -> Path:
    """Two products with a ReLU in between, in fp16."""
    nodes = [
        node("MatMul", ["x", "w1"], ["a"], "first"),
        node("Add", ["a", "b1"], ["b"], "bias"),
        node("Relu", ["b"], ["r"], "bend"),
        node("Gemm", ["r", "w2", "b2"], ["y"], "second"),
    ]
    scale = np.float16(width**-0.5)
    constants = {
        "w1": halves(width, width, seed=1) * scale,
        "b1": halves(width, seed=2),
        "w2": halves(width, 8, seed=3) * scale,
        "b2": halves(8, seed=4),
    }
    save(path, nodes, [value("x", ["n", width], FP16)], [value("y", ["n", 8], FP16)], constants)
    if beside:
        onnx.save(
            onnx.load(path), path, save_as_external_data=True, location=beside, size_threshold=0
        )
    return path


def half_convolutions(path: Path) -> Path:
    """`small_graphs.convolutions` with all of it in fp16."""
    model = onnx.load(convolutions(path))
    for tensor in model.graph.initializer:
        if tensor.data_type == FLOAT:
            values = numpy_helper.to_array(tensor) / 4
            tensor.CopyFrom(numpy_helper.from_array(values.astype(np.float16), tensor.name))
    for entry in (*model.graph.input, *model.graph.output):
        entry.type.tensor_type.elem_type = FP16
    onnx.save(model, path)
    return path

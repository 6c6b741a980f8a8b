"""Weight-only int8: a quarter of the file, the speed of fp32.

A weight W becomes Cast(int8) · scale. Both nodes have constant inputs, so a runtime folds them when
it loads the model and then computes in fp32. DequantizeLinear would say the same, but onnxruntime
keeps it in the graph for its int8 kernels and pays for it in every call.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
from onnx import GraphProto, NodeProto, helper, numpy_helper

#: Position of the output channels in the weight of each operator.
_CHANNEL_AXIS = {"Conv": 0, "ConvTranspose": 1, "Gemm": 1, "MatMul": 1}
#: Smaller weights would not pay for the two nodes and the scales.
_LEAST_VALUES = 256


def quantize_weights(source: Path, target: Path) -> int:
    """Write a copy of an ONNX file whose large weights are stored as int8.

    Returns:
        How many weights were quantized.
    """
    model = onnx.load(source)
    graph = model.graph
    users: dict[str, list[NodeProto]] = {}
    for node in graph.node:
        for name in node.input:
            users.setdefault(name, []).append(node)
    dequantizers: list[NodeProto] = []
    for tensor in list(graph.initializer):
        axis = _axis(users.get(tensor.name, []), tensor.name)
        weight = numpy_helper.to_array(tensor)
        if axis is None or weight.dtype != np.float32 or weight.size < _LEAST_VALUES:
            continue
        graph.initializer.remove(tensor)
        dequantizers += _replace(graph, tensor.name, weight, axis)
    nodes = [*dequantizers, *graph.node]
    del graph.node[:]
    graph.node.extend(nodes)
    target.write_bytes(model.SerializeToString())
    return len(dequantizers) // 2


def _axis(users: list[NodeProto], name: str) -> int | None:
    """The output-channel axis if every use of the value is as a weight, and in the same way."""
    axes = set()
    for node in users:
        if node.op_type not in _CHANNEL_AXIS or list(node.input).index(name) != 1:
            return None
        transposed = any(a.name == "transB" and a.i for a in node.attribute)
        axes.add(0 if node.op_type == "Gemm" and transposed else _CHANNEL_AXIS[node.op_type])
    return axes.pop() if len(axes) == 1 else None


def _replace(
    graph: GraphProto, name: str, weight: npt.NDArray[np.float32], axis: int
) -> list[NodeProto]:
    values, scale = quantize_symmetric(weight, axis)
    graph.initializer.append(numpy_helper.from_array(values, f"{name}_int8"))
    graph.initializer.append(numpy_helper.from_array(scale, f"{name}_scale"))
    cast = helper.make_node("Cast", [f"{name}_int8"], [f"{name}_cast"], to=onnx.TensorProto.FLOAT)
    return [cast, helper.make_node("Mul", [f"{name}_cast", f"{name}_scale"], [name])]


def quantize_symmetric(
    weight: npt.NDArray[np.float32], axis: int
) -> tuple[npt.NDArray[np.int8], npt.NDArray[np.float32]]:
    """Symmetric per-channel int8: weight ≈ values · scale, |values| ≤ 127.

    Args:
        weight: any shape.
        axis: of the channels that get a scale each.

    Returns:
        The values in the weight's shape, and scales that broadcast against it.
    """
    others = tuple(i for i in range(weight.ndim) if i != axis)
    largest = np.abs(weight).max(axis=others, keepdims=True)
    scale = (largest / 127).astype(np.float32)
    scale = np.where(scale >= np.finfo(np.float32).tiny, scale, 1).astype(np.float32)
    return np.rint(weight / scale).clip(-127, 127).astype(np.int8), scale

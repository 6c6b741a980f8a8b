"""Scales and shifts by channel merged into the weights of the operator before them.

onnxruntime's optimizer does that for Conv, and for MatMul with a BatchNormalization. This is for
ConvTranspose and Gemm, and for products and sums with constants behind any of them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from onnx import ModelProto, NodeProto

from compress.quantization.editing import attributes
from compress.quantization.rewriting.graph import Graph, attribute, sides

_LINEAR = ("Conv", "ConvTranspose", "Gemm", "MatMul")
_Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class _Linear:
    """A node with constant weights.

    Attributes:
        weight: as stored.
        bias: (channels,).
        spread: a number for each channel as a factor of the weight.
        rank: of the result, at least.
    """

    node: NodeProto
    weight: _Floats
    bias: _Floats
    spread: Callable[[_Floats], _Floats]
    rank: int


def merge_affine(model: ModelProto) -> int:
    """Merge until nothing more can be; returns how many nodes were merged."""
    total = 0
    while count := _merge_once(model):
        total += count
    return total


def _merge_once(model: ModelProto) -> int:
    graph = Graph(model)
    for node in graph.nodes("BatchNormalization", "Mul", "Add", "Sub", "Div"):
        for name, other in sides(node) or [(node.input[0], node.input[1])]:
            maker = graph.maker(name, *_LINEAR) if graph.is_constant(other) else None
            linear = None if maker is None else _linear(graph, maker)
            if linear is None:
                continue
            affine = _affine(graph, node, name, linear)
            if affine is not None and _merge(graph, node, linear, *affine):
                break
    return graph.finish()


def _linear(graph: Graph, node: NodeProto) -> _Linear | None:
    weight = _floats(graph, node.input[1])
    if weight is None or weight.ndim < 2:
        return None
    found = attributes(node)
    group, turned = found.get("group", 1), bool(found.get("transB", 0))
    if node.op_type == "MatMul":
        if weight.ndim != 2 or graph.rank(node.input[0]) != 2:
            return None
        channels, axis = weight.shape[1], 1
    elif node.op_type == "Gemm":
        if found.get("alpha", 1.0) != 1.0 or found.get("beta", 1.0) != 1.0:
            return None
        channels, axis = weight.shape[0 if turned else 1], 0 if turned else 1
    elif node.op_type == "Conv":
        channels, axis = weight.shape[0], 0
    else:
        channels, axis = weight.shape[1] * group, 1
    bias = _bias(graph, node, channels)
    if bias is None:
        return None

    def spread(factor: _Floats) -> _Floats:
        shape = [1] * weight.ndim
        shape[axis] = -1
        if node.op_type != "ConvTranspose" or group == 1:
            return factor.reshape(shape)
        # Rows of the weight are input channels, by group; each group has outputs of its own.
        rows = np.repeat(factor.reshape(group, -1), weight.shape[0] // group, axis=0)
        return rows.reshape(*rows.shape, *[1] * (weight.ndim - 2))

    return _Linear(node, weight, bias, spread, 2 if axis_is_last(node) else weight.ndim)


def axis_is_last(node: NodeProto) -> bool:
    """Whether channels are the last axis of a result, and not the second."""
    return node.op_type in ("Gemm", "MatMul")


def _bias(graph: Graph, node: NodeProto, channels: int) -> _Floats | None:
    if node.op_type == "MatMul" or len(node.input) < 3 or not node.input[2]:
        return np.zeros(channels)
    values = _floats(graph, node.input[2])
    if values is None or values.size not in (1, channels) or values.shape[-1:] == (0,):
        return None
    if values.ndim > 1 and values.shape[-1] != values.size:
        return None  # another number for each row
    return np.broadcast_to(values.reshape(-1), (channels,))


def _floats(graph: Graph, name: str) -> _Floats | None:
    values = graph.constant(name)
    return values.astype(np.float64) if values is not None and values.dtype == np.float32 else None


def _affine(
    graph: Graph, node: NodeProto, name: str, linear: _Linear
) -> tuple[_Floats, _Floats] | None:
    """The factor and the shift of each channel that a node stands for."""
    if node.op_type == "BatchNormalization":
        return normalization(graph, node) if name == node.input[0] else None
    other = node.input[1] if node.input[0] == name else node.input[0]
    values = _floats(graph, other)
    numbers = None if values is None else _by_channel(values, linear)
    if numbers is None:
        return None
    ones, zeros = np.ones_like(numbers), np.zeros_like(numbers)
    first = node.input[0] == name
    if node.op_type == "Mul":
        return numbers, zeros
    if node.op_type == "Div":
        return (1 / numbers, zeros) if first and numbers.all() else None
    if node.op_type == "Add":
        return ones, numbers
    return (ones, -numbers) if first else (-ones, numbers)


def normalization(graph: Graph, node: NodeProto) -> tuple[_Floats, _Floats] | None:
    """The factor and the shift of each channel of a BatchNormalization; None where they vary."""
    parts = [_floats(graph, name) for name in node.input[1:5]]
    known = [part for part in parts if part is not None]
    training = attribute(node, "training_mode", 0)
    if len(known) < 4 or training or any(graph.is_read(name) for name in node.output[1:]):
        return None
    scale, shift, mean, variance = known
    factor = scale / np.sqrt(variance + attribute(node, "epsilon", 1e-5))
    return factor, shift - mean * factor


def _by_channel(values: _Floats, linear: _Linear) -> _Floats | None:
    """A constant as one number for each channel; None where it is another thing."""
    channels = len(linear.bias)
    if values.ndim > linear.rank:
        return None
    if values.size == 1:
        return np.full(channels, values.item())
    at = 1 if axis_is_last(linear.node) else linear.rank - 1  # axes from the end to the channels
    if values.ndim < at or values.size != channels or values.shape[-at] != channels:
        return None
    return values.reshape(-1)


def _merge(graph: Graph, node: NodeProto, linear: _Linear, factor: _Floats, shift: _Floats) -> bool:
    weight = (linear.weight * linear.spread(factor)).astype(np.float32)
    bias = (linear.bias * factor + shift).astype(np.float32)
    source = linear.node
    if not np.isfinite(weight).all() or not np.isfinite(bias).all():
        return False
    if source.op_type == "MatMul" and not bias.any():
        kind, names = "MatMul", [graph.add_constant(source.input[1], weight)]
    else:
        kind = "Gemm" if source.op_type == "MatMul" else source.op_type
        stored = graph.add_constant(source.input[1], weight)
        names = [stored, graph.add_constant(f"{source.name}_bias", bias)]
    new = graph.add_node(kind, [source.input[0], *names], node.output[0], **attributes(source))
    return graph.replace(node, {source.input[0]}, [new])

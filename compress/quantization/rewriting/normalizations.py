"""LayerNormalization that an exporter left in pieces (Ba, Kiros & Hinton, 2016, arXiv:1607.06450).

    (x - mean(x)) / sqrt(mean((x - mean(x))²) + epsilon) · scale + bias

in every form that exporters write: the square as Pow or as a product, the quotient as one or as a
product with the reciprocal of the root, scale and bias or neither, one axis or several last ones;
and TensorFlow's, which multiplies x and its mean one by one.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from onnx import ModelProto, NodeProto

from compress.quantization.editing import Array
from compress.quantization.rewriting.graph import Graph, sides
from compress.quantization.rewriting.moments import (
    Centred,
    centred_of,
    guarded,
    inverse_root,
    mean_of,
    rooted,
    variance_of,
)

#: The first opset that has the operator.
_OPSET = 17


@dataclass(frozen=True)
class _Normalized:
    """A normalization as far as it was followed.

    Attributes:
        last: the node that gives it.
        scale: (sizes of the axes); None for none, as for the bias.
    """

    centred: Centred
    epsilon: float
    last: NodeProto
    scale: Array | None = None
    bias: Array | None = None


def fuse_layer_normalization(model: ModelProto) -> int:
    """Returns how often."""
    graph = Graph(model)
    if graph.opset < _OPSET:
        return 0
    for node in graph.nodes("Div", "Mul", "Add"):
        found = _by_moments(graph, node) if node.op_type == "Add" else _normalized(graph, node)
        if found is None:
            continue
        for whole in (_with_scale_and_bias(graph, found), found):
            if whole is not None and _replace(graph, whole):
                break
    return graph.finish()


def _normalized(graph: Graph, node: NodeProto) -> _Normalized | None:
    for numerator, divisor in sides(node)[: 1 if node.op_type == "Div" else 2]:
        inner = rooted(graph, divisor) if node.op_type == "Div" else inverse_root(graph, divisor)
        found = None if inner is None else guarded(graph, inner)
        if found is None:
            continue
        variance, epsilon = found
        scaled, factor = _scaled(graph, numerator)
        centred = centred_of(graph, scaled)
        if centred is None or centred != variance_of(graph, variance):
            continue
        scale = None if factor is None else _spread(graph, centred, factor)
        if factor is None or scale is not None:
            return _Normalized(centred, epsilon, node, scale)
    return None


def _by_moments(graph: Graph, node: NodeProto) -> _Normalized | None:
    """x · s + (bias - mean · s) with s = scale / root, as TensorFlow writes it."""
    for product, shift in sides(node):
        weighted, rest = graph.maker(product, "Mul"), graph.maker(shift, "Sub")
        moved = None if rest is None else graph.maker(rest.input[1], "Mul")
        bias = None if rest is None else graph.constant(rest.input[0])
        if weighted is None or moved is None or bias is None:
            continue
        for x, factor in sides(weighted):
            other = [mean for mean, same in sides(moved) if same == factor]
            centred = mean_of(graph, other[0]) if other else None
            if centred is not None and centred.x == x:
                return _from_moments(graph, node, centred, factor, bias)
    return None


def _from_moments(
    graph: Graph, node: NodeProto, centred: Centred, factor: str, bias: Array
) -> _Normalized | None:
    inverse, scale = _scaled(graph, factor)
    inner = inverse_root(graph, inverse)
    found = None if inner is None else guarded(graph, inner)
    if found is None or variance_of(graph, found[0]) != centred:
        return None
    shift = _spread(graph, centred, bias)
    if scale is not None:
        scale = _spread(graph, centred, scale)
    unfit = shift is None or (scale is None and inverse != factor)
    return None if unfit else _Normalized(centred, found[1], node, scale, shift)


def _scaled(graph: Graph, name: str) -> tuple[str, Array | None]:
    """A value before it was multiplied by a constant, and that."""
    node = graph.maker(name, "Mul")
    for value, other in sides(node):
        factor = graph.constant(other)
        if factor is not None and factor.dtype == np.float32:
            return value, factor
    return name, None


def _with_scale_and_bias(graph: Graph, found: _Normalized) -> _Normalized | None:
    """The same with the products and sums with constants that follow; None where there are none."""
    if found.bias is not None:
        return None
    start, node = found, graph.only_reader(found.last.output[0])
    if found.scale is None and node is not None and node.op_type == "Mul":
        scale = _other(graph, found, node)
        if scale is None:
            return None
        found = _Normalized(found.centred, found.epsilon, node, scale)
        node = graph.only_reader(node.output[0])
    if node is not None and node.op_type == "Add":
        bias = _other(graph, found, node)
        if bias is not None:
            found = _Normalized(found.centred, found.epsilon, node, found.scale, bias)
    return found if found is not start else None


def _other(graph: Graph, found: _Normalized, node: NodeProto) -> Array | None:
    """The constant that a node combines a normalization with, one number for each place."""
    name = next((name for name in node.input if name != found.last.output[0]), "")
    values = graph.constant(name)
    return None if values is None else _spread(graph, found.centred, values)


def _spread(graph: Graph, centred: Centred, values: Array) -> Array | None:
    """A constant in the shape of the axes; None where it differs in others, or that is unknown."""
    if values.dtype != np.float32:
        return None
    count, rank = len(centred.axes), graph.rank(centred.x)
    extra = values.ndim - count
    if extra > 0:
        if any(size != 1 for size in values.shape[:extra]) or rank is None or values.ndim > rank:
            return None
        values = values.reshape(values.shape[extra:])
    sizes = _sizes(graph, centred)
    if sizes is None:
        return values if values.ndim == count and min(values.shape) > 1 else None
    try:
        return np.broadcast_to(values, sizes)
    except ValueError:  # it makes the result larger
        return None


def _sizes(graph: Graph, centred: Centred) -> tuple[int, ...] | None:
    shape = graph.shape(centred.x)
    sizes = None if shape is None else shape[-len(centred.axes) :]
    if sizes is None or len(sizes) < len(centred.axes):
        return None
    known = tuple(size for size in sizes if size is not None)
    return known if len(known) == len(sizes) else None


def _replace(graph: Graph, found: _Normalized) -> bool:
    scale, sizes = found.scale, _sizes(graph, found.centred)
    if scale is None:
        if sizes is None:
            return False
        scale = np.ones(sizes, np.float32)
    inputs = [found.centred.x, graph.add_constant("scale", scale)]
    if found.bias is not None:
        inputs.append(graph.add_constant("bias", found.bias))
    node = graph.add_node(
        "LayerNormalization",
        inputs,
        found.last.output[0],
        axis=-len(found.centred.axes),
        epsilon=found.epsilon,
    )
    return graph.replace(found.last, {found.centred.x}, [node])

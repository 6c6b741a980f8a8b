"""Convolutions along one axis, as matrix products over slices laid side by side.

This is im2col (Chellapilla, Puri & Simard, 2006, "High Performance Convolutional Neural Networks
for Document Processing") for kernels that are 1 along all axes but one. In fp32 nothing is gained.
But int8 rounds the inputs of a product row by row and leaves its sums in fp32, which onnxruntime's
int8 convolution cannot.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from onnx import ModelProto, NodeProto

from compress.quantization.editing import Array, attributes
from compress.quantization.rewriting.graph import Graph, attribute

#: The first opset in which Pad takes its widths, and Slice its ends, as inputs.
_OPSET = 11
#: Each tap is a copy of the input.
_MOST_TAPS = 16
#: Smaller products cost less than the copies do.
_LEAST_ROWS, _LEAST_COLUMNS = 64, 16
#: A slice that ends here ends where its axis does.
_END = np.iinfo(np.int64).max


@dataclass(frozen=True)
class _Along:
    """How a kernel moves along the one axis that it has an extent on.

    Attributes:
        axis: of the input with channels last, the first spatial one is 1.
        taps: size of the kernel.
        pads: zeros in front and behind.
    """

    axis: int
    taps: int
    stride: int
    dilation: int
    pads: tuple[int, int]


def as_products(model: ModelProto) -> int:
    """Put products in the place of convolutions along one axis; returns how many.

    Those without groups, of fp32 with constant weights, over inputs (N, C, T) or (N, C, T, W), with
    up to 16 taps that make a product of at least 64 x 16. Sizes of the input need not be known.
    Graphs of opsets before 11 stay as they are.
    """
    graph = Graph(model)
    if graph.opset < _OPSET:
        return 0
    for node in graph.nodes("Conv"):
        weight = _weight(graph, node)
        along = None if weight is None else _along(node, weight.shape[2:])
        if weight is not None and along is not None:
            graph.replace(node, {node.input[0]}, _product(graph, node, weight, along))
    return graph.finish()


def _weight(graph: Graph, node: NodeProto) -> Array | None:
    """The kernel, (C_out, C_in, k), (C_out, C_in, k, 1) or (C_out, C_in, 1, k).

    None where it does not fit, or anything but the input is not constant.
    """
    fixed = all(graph.is_constant(name) for name in node.input[1:] if name)
    if attribute(node, "group", 1) != 1 or not fixed:
        return None
    weight = graph.constant(node.input[1])
    if weight is None or weight.dtype != np.float32 or weight.ndim not in (3, 4):
        return None
    rows, taps = weight[0].size, weight[0, 0].size
    worth_it = rows >= _LEAST_ROWS and len(weight) >= _LEAST_COLUMNS and taps <= _MOST_TAPS
    return weight if worth_it and taps == max(weight.shape[2:]) else None


def _along(node: NodeProto, kernel: Sequence[int]) -> _Along | None:
    """None where a node moves along, or pads, any other axis, or pads as much as is needed."""
    found, ones = attributes(node), [1] * len(kernel)
    if found.get("auto_pad", b"NOTSET") not in (b"NOTSET", b"VALID"):
        return None
    strides, dilations = found.get("strides", ones), found.get("dilations", ones)
    pads = found.get("pads", [0, 0] * len(kernel))
    axis = int(np.argmax(kernel))
    before, after = pads[: len(kernel)], pads[len(kernel) :]
    others = [place for place in range(len(kernel)) if place != axis]
    if any((strides[place], before[place], after[place]) != (1, 0, 0) for place in others):
        return None
    pair = before[axis], after[axis]
    return _Along(axis + 1, kernel[axis], strides[axis], dilations[axis], pair)


def _product(graph: Graph, node: NodeProto, weight: Array, along: _Along) -> list[NodeProto]:
    rank = weight.ndim
    nodes, rows = _channels_last(graph, node.input[0], rank)
    if any(along.pads):
        nodes.append(graph.add_node("Pad", [rows, _widths(graph, rank, along)]))
        rows = nodes[-1].output[0]
    nodes += _side_by_side(graph, rows, along)
    rows = nodes[-1].output[0] if nodes else rows
    # Tap by tap, as the slices lie.
    matrix = weight.reshape(*weight.shape[:2], -1).transpose(2, 1, 0).reshape(-1, len(weight))
    product = graph.add_node("MatMul", [rows, graph.add_constant(node.input[1], matrix)])
    product.name = node.name or product.name  # which users are told
    nodes.append(product)
    if len(node.input) > 2 and node.input[2]:
        nodes.append(graph.add_node("Add", [product.output[0], node.input[2]]))
    back = [0, rank - 1, *range(1, rank - 1)]
    last = graph.add_node("Transpose", [nodes[-1].output[0]], node.output[0], perm=back)
    return [*nodes, last]


def _channels_last(graph: Graph, name: str, rank: int) -> tuple[list[NodeProto], str]:
    """What transposes an input, and the result; nothing where it was transposed from that."""
    order = [0, *range(2, rank), 1]
    front = graph.maker(name, "Transpose")
    if front is not None:
        before = attribute(front, "perm", [*reversed(range(rank))])
        if [before[place] for place in order] == [*range(rank)]:
            return [], front.input[0]
    node = graph.add_node("Transpose", [name], perm=order)
    return [node], node.output[0]


def _widths(graph: Graph, rank: int, along: _Along) -> str:
    widths = np.zeros((2, rank), np.int64)
    widths[:, along.axis] = along.pads
    return graph.add_constant("pads", widths.ravel())


def _side_by_side(graph: Graph, rows: str, along: _Along) -> list[NodeProto]:
    """What every tap reads, along the last axis; nothing where one tap reads all."""
    if along.taps == along.stride == 1:
        return []
    slices = [_tap(graph, rows, along, place) for place in range(along.taps)]
    if len(slices) == 1:
        return slices
    return [*slices, graph.add_node("Concat", [node.output[0] for node in slices], axis=-1)]


def _tap(graph: Graph, rows: str, along: _Along, place: int) -> NodeProto:
    start, behind = place * along.dilation, (along.taps - 1 - place) * along.dilation
    # Ends are counted from the end of the axis, whose length may vary.
    numbers = {"start": start, "end": -behind or _END, "axis": along.axis, "step": along.stride}
    bounds = [graph.add_constant(name, np.array([numbers[name]], np.int64)) for name in numbers]
    return graph.add_node("Slice", [rows, *bounds])

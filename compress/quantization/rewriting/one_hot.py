"""Embeddings that an exporter wrote as a product of one-hot vectors with a table.

The product reads the whole table for each token; Gather reads one row of it. Numbers that are no
row of the table make a vector of zeros, and so they still do: unless they are known to be none,
the table gets a row of zeros, and they get its number.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from onnx import ModelProto, NodeProto, TensorProto

from compress.quantization.editing import Array, attributes
from compress.quantization.rewriting.graph import Graph, attribute, sides

#: The first opset in which Clip takes whole numbers is 12, Where and Less are older.
_OPSET = 13
_WHOLE = (TensorProto.INT64, TensorProto.INT32)


@dataclass(frozen=True)
class _OneHot:
    """Vectors that are 1 in one place.

    Attributes:
        tokens: name of the whole numbers that say where.
        depth: length of a vector.
        from_end: whether -1 is the last place, as for Gather; else it is none.
        is_column: whether the whole numbers have an axis of size 1 more, the last.
    """

    tokens: str
    depth: int
    from_end: bool
    is_column: bool = False


def fuse_one_hot(model: ModelProto) -> int:
    """Returns how often."""
    graph = Graph(model)
    if graph.opset < _OPSET:
        return 0
    for node in graph.nodes("MatMul", "Gemm"):
        found = _one_hot(graph, node.input[0])
        table = None if found is None else _table(graph, node)
        if found is None or table is None or found.depth != len(table[0]):
            continue
        if graph.data_type(found.tokens) in _WHOLE:
            # Only the product: several may share the vectors, which stay while they are read.
            graph.replace(node, {node.input[0]}, _gathered(graph, found, *table, node))
    return graph.finish()


def _table(graph: Graph, node: NodeProto) -> tuple[Array, Array] | None:
    """The rows that a product picks, (depth, width), and what it adds to each, (width,)."""
    weight, found = graph.constant(node.input[1]), attributes(node)
    if weight is None or weight.ndim != 2 or weight.dtype != np.float32:
        return None
    if node.op_type == "MatMul":
        return weight, np.zeros(weight.shape[1], np.float32)
    if found.get("transA", 0) or found.get("alpha", 1.0) != 1 or found.get("beta", 1.0) != 1:
        return None
    rows = weight.T if found.get("transB", 0) else weight
    if len(node.input) < 3 or not node.input[2]:
        return rows, np.zeros(rows.shape[1], np.float32)
    bias = graph.constant(node.input[2])
    fits = bias is not None and bias.shape in ((rows.shape[1],), (1, rows.shape[1]))
    return (rows, bias.ravel()) if bias is not None and fits else None


def _one_hot(graph: Graph, name: str) -> _OneHot | None:
    node = graph.maker(name, "OneHot", "Cast", "Equal", "Where")
    if node is None:
        return None
    if node.op_type == "OneHot":
        return _by_operator(graph, node)
    if node.op_type == "Equal":
        return _by_comparison(graph, node)
    if node.op_type == "Where":
        numbers = [graph.number(part) for part in node.input[1:]]
        return _one_hot(graph, node.input[0]) if numbers == [1.0, 0.0] else None
    return _one_hot(graph, node.input[0]) if attribute(node, "to", 0) != TensorProto.BOOL else None


def _by_operator(graph: Graph, node: NodeProto) -> _OneHot | None:
    tokens, depth, values = node.input
    length, pair = graph.number(depth), graph.constant(values)
    last = attribute(node, "axis", -1)
    rank = graph.rank(tokens)
    if last != -1 and (rank is None or last != rank):
        return None
    if length is None or length != int(length) or pair is None or pair.tolist() != [0, 1]:
        return None
    return _OneHot(tokens, int(length), from_end=True)


def _by_comparison(graph: Graph, node: NodeProto) -> _OneHot | None:
    """tokens[..., None] == [0, 1, 2, ...], on either side."""
    for name, other in sides(node):
        places = graph.constant(other)
        if places is None or places.dtype.kind != "i" or places.shape[-1:] != (places.size,):
            continue
        if not np.array_equal(places.ravel(), np.arange(places.size)):
            continue
        shape = graph.shape(name)
        if shape is not None and shape[-1:] == (1,) and places.ndim <= len(shape):
            return _OneHot(name, places.size, from_end=False, is_column=True)
    return None


def _gathered(
    graph: Graph, found: _OneHot, rows: Array, bias: Array, node: NodeProto
) -> list[NodeProto]:
    nodes, tokens = list[NodeProto](), found.tokens
    if found.is_column:
        last = graph.add_constant("last", np.array([-1]))
        nodes = [graph.add_node("Squeeze", [tokens, last])]
        tokens = nodes[0].output[0]
    if not _within(graph, found):
        rows = np.concatenate([rows, np.zeros_like(rows[:1])])
        nodes += _bounded(graph, found, tokens)
        tokens = nodes[-1].output[0]
    stored = graph.add_constant(node.input[1], rows + bias)
    nodes.append(graph.add_node("Gather", [stored, tokens], node.output[0], axis=0))
    return nodes


def _within(graph: Graph, found: _OneHot) -> bool:
    """Whether all tokens are known to be rows: they are what was clipped to that."""
    node = graph.maker(found.tokens, "Clip")
    if node is None:
        return False
    low, high = (graph.number(name) for name in [*node.input, "", ""][1:3])
    least = -found.depth if found.from_end else 0
    return low is not None and high is not None and least <= low and high < found.depth


def _bounded(graph: Graph, found: _OneHot, tokens: str) -> list[NodeProto]:
    """The number of the row of zeros, which is the last, in place of all that are no row."""
    kind = np.dtype(np.int64 if graph.data_type(found.tokens) == TensorProto.INT64 else np.int32)

    def number(value: int) -> str:
        return graph.add_constant(f"number_{value}", np.array(value, kind))

    nodes = list[NodeProto]()
    if found.from_end:
        negative = graph.add_node("Less", [tokens, number(0)])
        turned = graph.add_node("Add", [tokens, number(found.depth)])
        chosen = [negative.output[0], turned.output[0], tokens]
        nodes = [negative, turned, graph.add_node("Where", chosen)]
        tokens = nodes[-1].output[0]
    # -1 is the last row.
    return [*nodes, graph.add_node("Clip", [tokens, number(-1), number(found.depth)])]

"""An embedding with a small vocabulary, folded into the input weights of the recurrent node behind.

With fewer tokens than features the rows of `table @ W.T` are narrower input weights by themselves:
the node reads one-hot vectors, as long as the vocabulary, in place of the embeddings. Its input
products shrink by as much, and int8 holds vectors of zeros and ones exactly.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from onnx import ModelProto, NodeProto

from compress.export.graph import RECURRENT
from compress.quantization.editing import Array
from compress.quantization.rewriting.files import keep_only
from compress.quantization.rewriting.graph import Graph, attribute

#: Of what a recurrent node reads: (time, batch, features), or (batch, time, features).
_RANK = 3


@dataclass(frozen=True)
class _Embedding:
    """Where the input of a recurrent node comes from.

    Attributes:
        gather: takes rows of a constant.
        values: names of all that lies between it and the node, its result among them.
    """

    gather: NodeProto
    values: tuple[str, ...]


def fold_vocabularies(model: ModelProto) -> int:
    """Put one-hot vectors in the place of embeddings that a recurrent node alone reads.

    Returns:
        For how many nodes.
    """
    graph, changed = Graph(model), set[str]()
    for node in graph.nodes(*RECURRENT):
        found = _embedding(graph, node)
        weight = None if found is None else _folded(graph, found.gather, node)
        if found is None or weight is None:
            continue
        table, tokens = found.gather.input
        vectors = graph.add_constant(table, np.eye(weight.shape[2], dtype=np.float32))
        new = graph.add_node("Gather", [vectors, tokens], found.gather.output[0], axis=0)
        if graph.replace(found.gather, {tokens}, [new]):
            # Not by `replace`, which is for nodes of one result: this one has up to three.
            node.input[1] = graph.add_constant(node.input[1], weight)
            changed.update(found.values)
    # What is noted of their shapes is wrong now.
    keep_only(model.graph.value_info, lambda value: value.name not in changed)
    return graph.finish()


def _folded(graph: Graph, gather: NodeProto, node: NodeProto) -> Array | None:
    """Input weights (directions, gates · hidden, vocabulary); None where they are not narrower."""
    table, weight = graph.constant(gather.input[0]), graph.constant(node.input[1])
    if table is None or weight is None or table.ndim != 2 or weight.ndim != 3:
        return None
    if table.dtype != np.float32 or weight.dtype != np.float32:
        return None
    size, width = table.shape
    if not 0 < size < width or weight.shape[2] != width:
        return None
    with np.errstate(over="ignore", invalid="ignore"):
        folded = (weight.astype(np.float64) @ table.T.astype(np.float64)).astype(np.float32)
    # A number that is not finite would reach every token: it times zero is no zero.
    return folded if np.isfinite(folded).all() else None


def _embedding(graph: Graph, node: NodeProto) -> _Embedding | None:
    """What gives a recurrent node its input, where all that lies between has one reader."""
    name, values, rank = node.input[0], list[str](), _RANK
    if name in node.input[1:]:
        return None  # a state, too
    while graph.only_reader(name) is not None:
        values.append(name)
        gather = graph.maker(name, "Gather")
        if gather is not None:
            # -2 is the first axis of a table.
            rows = attribute(gather, "axis", 0) in (0, -2)
            return _Embedding(gather, tuple(values)) if rows else None
        maker = graph.maker(name, "Transpose", "Squeeze", "Unsqueeze")
        before = None if maker is None else _rank_before(graph, maker, rank)
        if maker is None or before is None:
            return None
        name, rank = maker.input[0], before
    return None


def _rank_before(graph: Graph, node: NodeProto, rank: int) -> int | None:
    """The rank of what a node reads; None where its last axis is not the last of the result.

    Args:
        rank: of the result.
    """
    if node.op_type == "Transpose":
        return rank if attribute(node, "perm", [0])[-1] == rank - 1 else None
    axes = _axes(graph, node)
    if not axes:  # a Squeeze without would take the features of a vocabulary of one, too
        return None
    before = rank + (len(axes) if node.op_type == "Squeeze" else -len(axes))
    return None if max(rank, before) - 1 in axes or -1 in axes else before


def _axes(graph: Graph, node: NodeProto) -> list[int]:
    """Axes of a Squeeze or an Unsqueeze; none where they are not known."""
    if len(node.input) < 2:
        found: list[int] = attribute(node, "axes", [])
        return found
    values = graph.constant(node.input[1])
    return [] if values is None else values.ravel().tolist()

"""Einsum of two operands as MatMul, which quantizers know, where it is one.

Dense layers and attention of Keras and of vision models in JAX are written so. Letters are batch
(in both operands and the result), contracted (in both alone), left and right (in one operand and
the result):

    x (left…, batch…, left, contracted) · y (batch…, contracted, right)

Beside constant weights without batch letters there may be several of all the others: they become
one axis of the weights, once and for all.
"""

from __future__ import annotations

import string
from collections.abc import Sequence

import numpy as np
from onnx import ModelProto, NodeProto

from compress.quantization.rewriting.graph import Graph, attribute


def multiply_einsums(model: ModelProto) -> int:
    """Returns how many became products."""
    graph = Graph(model)
    for node in graph.nodes("Einsum"):
        parts = _letters(graph, node)
        if parts is None:
            continue
        nodes = _by_weights(graph, node, *parts) or _by_computed(graph, node, *parts)
        if nodes:
            graph.replace(node, set(node.input), nodes)
    return graph.finish()


def _letters(graph: Graph, node: NodeProto) -> tuple[str, str, str] | None:
    """The letters of both operands and the result, a dot-free form; None for other equations."""
    equation = attribute(node, "equation", b"").decode().replace(" ", "")
    left, arrow, result = equation.partition("->")
    operands = left.split(",")
    if not arrow or len(operands) != 2:
        return None
    if "..." in equation:
        expanded = _without_dots(graph, node, operands, result)
        if expanded is None:
            return None
        operands, result = expanded
    words = (operands[0], operands[1], result)
    once = all(len(set(word)) == len(word) for word in words)
    # A letter of one operand alone that the result has not is summed over.
    kept = set(result) == (set(words[0]) ^ set(words[1])) | (set(words[0]) & set(result))
    return words if once and kept else None


def _without_dots(
    graph: Graph, node: NodeProto, operands: Sequence[str], result: str
) -> tuple[list[str], str] | None:
    """The same with letters in place of the dots, where one operand has them."""
    dotted = [place for place, word in enumerate(operands) if "..." in word]
    if len(dotted) != 1 or "..." not in result:
        return None
    word, rank = operands[dotted[0]], graph.rank(node.input[dotted[0]])
    unused = [one for one in string.ascii_letters if one not in "".join(operands)]
    if rank is None or not 0 <= rank - (len(word) - 3) <= len(unused):
        return None
    letters = "".join(unused[: rank - (len(word) - 3)])
    return [one.replace("...", letters) for one in operands], result.replace("...", letters)


def _by_weights(graph: Graph, node: NodeProto, x: str, y: str, result: str) -> list[NodeProto]:
    """A product with a constant matrix, that of two axes; nothing where it is none."""
    names = list(node.input)
    if graph.is_constant(names[0]):
        names, (x, y) = names[::-1], (y, x)
    weight = graph.constant(names[1])
    contracted = "".join(one for one in y if one not in result)
    left, right = (
        "".join(one for one in result if one not in other and one in word)
        for word, other in ((x, y), (y, x))
    )
    if weight is None or weight.dtype != np.float32 or weight.ndim != len(y):
        return []
    if not (left and contracted) or len(left + contracted) != len(x):
        return []
    sizes = dict(zip(y, weight.shape, strict=True))
    matrix = weight.transpose([y.index(one) for one in contracted + right])
    matrix = matrix.reshape(int(np.prod([sizes[one] for one in contracted])), -1)
    nodes = _turned(graph, names[0], x, left + contracted)
    if len(contracted) > 1:
        nodes += _reshaped(graph, _last(nodes, names[0]), len(left), matrix.shape[:1])
    stored = graph.add_constant(f"{names[1]}_matrix", matrix)
    nodes.append(_product(graph, node, _last(nodes, names[0]), stored))
    if len(right) != 1:
        nodes += _reshaped(graph, _last(nodes), len(left), [sizes[one] for one in right])
    nodes += _turned(graph, _last(nodes), left + right, result)
    return _giving(node, nodes)


def _by_computed(graph: Graph, node: NodeProto, x: str, y: str, result: str) -> list[NodeProto]:
    """A product of matrices for each place along the batch; the left side may have more axes."""
    batch = "".join(one for one in x if one in y and one in result)
    contracted = "".join(one for one in x if one in y and one not in result)
    left, right = (
        "".join(one for one in word if one not in other) for word, other in ((x, y), (y, x))
    )
    if not left or not len(right) == len(contracted) == 1:
        return []
    first, last = left[:-1] + batch, left[-1]
    nodes = _turned(graph, node.input[0], x, first + last + contracted)
    sides = [_last(nodes, node.input[0]), node.input[1]]
    wanted, weight = batch + contracted + right, graph.constant(sides[1])
    if weight is None or weight.ndim != len(y):
        nodes += (turned := _turned(graph, sides[1], y, wanted))
        sides[1] = _last(turned, sides[1])
    elif wanted != y:
        turned_weight = weight.transpose([y.index(one) for one in wanted])
        sides[1] = graph.add_constant(f"{sides[1]}_turned", turned_weight)
    nodes.append(_product(graph, node, *sides))
    nodes += _turned(graph, _last(nodes), first + last + right, result)
    return _giving(node, nodes)


def _product(graph: Graph, node: NodeProto, x: str, y: str) -> NodeProto:
    made = graph.add_node("MatMul", [x, y])
    made.name = node.name or made.name  # what is told of the layer goes by its name
    return made


def _turned(graph: Graph, name: str, now: str, wanted: str) -> list[NodeProto]:
    if now == wanted:
        return []
    return [graph.add_node("Transpose", [name], perm=[now.index(one) for one in wanted])]


def _reshaped(graph: Graph, name: str, kept: int, sizes: Sequence[int]) -> list[NodeProto]:
    """The axes behind the first ones in other sizes; 0 is what the axis is."""
    shape = graph.add_constant("sizes", np.array([0] * kept + list(sizes), np.int64))
    return [graph.add_node("Reshape", [name, shape])]


def _last(nodes: Sequence[NodeProto], name: str = "") -> str:
    return nodes[-1].output[0] if nodes else name


def _giving(node: NodeProto, nodes: list[NodeProto]) -> list[NodeProto]:
    nodes[-1].output[0] = node.output[0]
    return nodes

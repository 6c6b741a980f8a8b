"""Means, variances and the roots of them, as graphs compute them by ReduceMean."""

from __future__ import annotations

from dataclasses import dataclass

from compress.quantization.rewriting.graph import Graph, attribute, sides

#: A larger number that is added to a variance is no guard against division by zero.
_LARGEST_EPSILON = 0.1


@dataclass(frozen=True)
class Centred:
    """x - mean(x), the mean taken over some axes."""

    x: str
    axes: tuple[int, ...]


def rooted(graph: Graph, name: str) -> str | None:
    """What a value is the square root of."""
    node = graph.maker(name, "Sqrt", "Pow")
    if node is None or (node.op_type == "Pow" and graph.number(node.input[1]) != 0.5):
        return None
    return str(node.input[0])


def inverse_root(graph: Graph, name: str) -> str | None:
    """What a value is the reciprocal of the square root of."""
    node = graph.maker(name, "Reciprocal", "Div", "Pow")
    if node is None:
        return None
    if node.op_type == "Pow":
        return node.input[0] if graph.number(node.input[1]) == -0.5 else None
    if node.op_type == "Div" and graph.number(node.input[0]) != 1.0:
        return None
    return rooted(graph, node.input[-1])


def guarded(graph: Graph, name: str) -> tuple[str, float] | None:
    """A value and the small number that was added to it."""
    node = graph.maker(name, "Add")
    for value, other in sides(node):
        epsilon = graph.scalar(other)
        if epsilon is not None and 0 < epsilon <= _LARGEST_EPSILON:
            return value, epsilon
    return None


def centred_of(graph: Graph, name: str) -> Centred | None:
    """What a value is, less its mean."""
    node = graph.maker(name, "Sub")
    if node is None:
        return None
    x, mean = node.input
    found = mean_of(graph, mean)
    return found if found is not None and found.x == x else None


def variance_of(graph: Graph, name: str) -> Centred | None:
    """What a value is the variance of, about its own mean."""
    mean = mean_of(graph, name)
    node = None if mean is None else graph.maker(mean.x, "Mul", "Pow")
    if mean is None or node is None:
        return None
    left, right = (centred_of(graph, part) for part in node.input)
    if node.op_type == "Pow":
        right = left if graph.number(node.input[1]) == 2.0 else None
    return left if left is not None and left == right and left.axes == mean.axes else None


def mean_of(graph: Graph, name: str) -> Centred | None:
    """What a value is the mean of, and over which last axes; always as negative numbers."""
    node = graph.maker(name, "ReduceMean")
    if node is None or attribute(node, "keepdims", 1) != 1:
        return None
    axes = attribute(node, "axes", None)
    if axes is None and len(node.input) > 1 and node.input[1]:
        values = graph.constant(node.input[1])
        axes = None if values is None else values.tolist()
    if not axes:
        return None
    if any(axis >= 0 for axis in axes):
        rank = graph.rank(node.input[0])
        if rank is None:
            return None
        axes = [axis if axis < 0 else axis - rank for axis in axes]
    ordered = tuple(sorted(axes))
    return Centred(node.input[0], ordered) if ordered == tuple(range(-len(axes), 0)) else None

"""Activations that an exporter left in pieces, as ONNX's one operator for each.

Forms as in Hendrycks & Gimpel, 2016 (arXiv:1606.08415) for GELU, and Howard et al., 2019
(arXiv:1905.02244) for HardSwish.

On onnxruntime HardSwish and HardSigmoid then take about half the time. GELU takes the same, as it
merges the usual forms itself when it loads a file; but a quantizer takes the pieces one by one.
SiLU (x · sigmoid(x)) is left as it is: onnxruntime merges it, too, and ONNX has it from opset 24.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import partial

from onnx import ModelProto, NodeProto

from compress.quantization.editing import MICROSOFT
from compress.quantization.rewriting.formula import Polynomial, bases, result, same, term
from compress.quantization.rewriting.graph import Graph, attribute, sides

#: The first opset that has the operator.
_GELU_OPSET, _HARD_SWISH_OPSET = 20, 14
_CUBE = 0.044715
#: Slopes of HardSigmoid, whose value at 0 is always 0.5: torch's and Keras's.
_SLOPES = (1 / 6, 0.2)


def fuse_gelu(model: ModelProto) -> int:
    """x · Φ(x) by the error function, or its approximation by tanh; returns how often."""
    graph = Graph(model)
    for node in graph.nodes("Erf", "Tanh"):
        exact, bent = node.op_type == "Erf", node.output[0]
        for x in bases(graph, node.input[0], _within_erf if exact else _within_tanh):
            last = result(graph, bent, {x, bent}, {term(x): 0.5, term(x, bent): 0.5})
            if last is not None and graph.replace(last, {x}, [_gelu(graph, x, last, exact=exact)]):
                break
    return graph.finish()


def _within_erf(x: str) -> Polynomial:
    return {term(x): math.sqrt(0.5)}


def _within_tanh(x: str) -> Polynomial:
    factor = math.sqrt(2 / math.pi)
    return {term(x): factor, term(x, x, x): factor * _CUBE}


def _gelu(graph: Graph, x: str, last: NodeProto, *, exact: bool) -> NodeProto:
    if graph.opset >= _GELU_OPSET:
        kind = "none" if exact else "tanh"
        return graph.add_node("Gelu", [x], last.output[0], approximate=kind)
    return graph.add_node("Gelu" if exact else "FastGelu", [x], last.output[0], MICROSOFT)


def fuse_hard_swish(model: ModelProto) -> int:
    """x · clip(x + 3, 0, 6) / 6, also with a HardSigmoid in it; returns how often."""
    graph = Graph(model)
    if graph.opset < _HARD_SWISH_OPSET:
        return 0
    for bent, top, found in _hard_sigmoids(graph):
        for x in found:
            last = result(graph, bent, {x, bent}, {term(x, bent): 1 / top})
            if last is None:
                continue
            if graph.replace(last, {x}, [graph.add_node("HardSwish", [x], last.output[0])]):
                break
    return graph.finish()


def _hard_sigmoids(graph: Graph) -> Iterator[tuple[str, float, list[str]]]:
    """Values that are HardSigmoid(x) with torch's slope, times a number, and each such x."""
    for bent, inner, top in _clipped(graph):
        yield bent, top, list(bases(graph, inner, partial(_line, top, _SLOPES[0])))
    for node in graph.nodes("HardSigmoid"):
        slope, middle = attribute(node, "alpha", 0.2), attribute(node, "beta", 0.5)
        if same({("x",): slope, (): middle}, _line(1.0, _SLOPES[0], "x")):
            yield node.output[0], 1.0, [node.input[0]]


def _line(top: float, slope: float, x: str) -> Polynomial:
    return {term(x): slope * top, (): 0.5 * top}


def fuse_hard_sigmoid(model: ModelProto) -> int:
    """clip(x + 3, 0, 6) / 6 and clip(0.2 x + 0.5, 0, 1); returns how often."""
    graph = Graph(model)
    for bent, inner, top in _clipped(graph):
        for slope in _SLOPES:
            x = next(bases(graph, inner, partial(_line, top, slope)), None)
            if x is None or x == inner:
                continue
            last = result(graph, bent, {bent}, {term(bent): 1 / top})
            if last is None and same({(): top}, {(): 1.0}):
                last = graph.maker(bent, "Clip", "Min", "Max")
            if last is None:
                continue
            name = last.output[0]
            node = graph.add_node("HardSigmoid", [x], name, alpha=slope, beta=0.5)
            if graph.replace(last, {x}, [node]):
                break
    return graph.finish()


def _clipped(graph: Graph) -> Iterator[tuple[str, str, float]]:
    """Values that are clip(y, 0, top): their names, y and top."""
    for node in graph.nodes("Clip", "Min", "Max"):
        found = _limits(graph, node)
        if found is not None and found[1] == 0.0 and found[2] > 0:
            yield node.output[0], found[0], found[2]


def _limits(graph: Graph, node: NodeProto) -> tuple[str, float, float] | None:
    """What a node clips, and to what; also where a Min of a Max or a Relu says it."""
    if node.op_type == "Clip":
        low, high = ([*node.input, "", ""])[1:3]
        bounds = graph.scalar(low), graph.scalar(high)
        return None if None in bounds else (node.input[0], bounds[0] or 0.0, bounds[1] or 0.0)
    outer = _bound(graph, node)
    if outer is None:
        return None
    inner = graph.maker(outer[0], "Relu", "Max" if node.op_type == "Min" else "Min")
    if inner is None:
        return None
    if inner.op_type == "Relu":
        return (inner.input[0], 0.0, outer[1]) if node.op_type == "Min" else None
    bound = _bound(graph, inner)
    if bound is None:
        return None
    return bound[0], *((bound[1], outer[1]) if node.op_type == "Min" else (outer[1], bound[1]))


def _bound(graph: Graph, node: NodeProto) -> tuple[str, float] | None:
    """What a Min or Max of two compares with which number."""
    for name, other in sides(node):
        number = graph.scalar(other)
        if number is not None:
            return name, number
    return None

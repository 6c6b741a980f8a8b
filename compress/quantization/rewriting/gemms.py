"""A Gemm as x · weight + bias and nothing else: the one form that every quantizer takes."""

from __future__ import annotations

from typing import Any

import numpy as np
from onnx import ModelProto, NodeProto

from compress.quantization.editing import Array
from compress.quantization.rewriting.graph import Graph, attribute


def plain_gemms(model: ModelProto) -> int:
    """Factors of a Gemm into its constants, one bias for all rows as a list; returns how many.

    What is multiplied the other way round is transposed before, and a bias that differs between
    rows is added behind. Of a product of two computed values nothing changes.
    """
    graph = Graph(model)
    for node in graph.nodes("Gemm"):
        weight = graph.constant(node.input[1])
        if weight is not None and weight.dtype == np.float32:
            nodes = _plain(graph, node, weight)
            if nodes:
                graph.replace(node, set(node.input), nodes)
    return graph.finish()


def _plain(graph: Graph, node: NodeProto, weight: Array) -> list[NodeProto]:
    """What takes the place of a Gemm; empty where it is plain, or cannot be made so."""
    x, name, bias = [*node.input, ""][:3]
    alpha, beta = (float(attribute(node, key, 1.0)) for key in ("alpha", "beta"))
    added = graph.constant(bias) if bias else None
    if bias and added is None and beta != 1:
        return []
    if alpha != 1:
        name = graph.add_constant(f"{name}_scaled", (weight * alpha).astype(np.float32))
    nodes = list[NodeProto]()
    if attribute(node, "transA", 0):
        nodes.append(graph.add_node("Transpose", [x], perm=[1, 0]))
        x = nodes[0].output[0]
    outputs = weight.shape[0] if attribute(node, "transB", 0) else weight.shape[1]
    behind = ""
    if added is not None:
        bias, behind = _bias(graph, bias, added, beta, outputs)
    if beta == 1 and [x, name, bias] == [*node.input, ""][:3]:
        return []
    inputs = [x, name, bias] if bias else [x, name]
    result = node.output[0] if not behind else ""
    settings: dict[str, Any] = {"transB": 1} if attribute(node, "transB", 0) else {}
    product = graph.add_node("Gemm", inputs, result, **settings)
    product.name = node.name or product.name
    nodes.append(product)
    if behind:
        nodes.append(graph.add_node("Add", [product.output[0], behind], node.output[0]))
    return nodes


def _bias(graph: Graph, name: str, values: Array, beta: float, outputs: int) -> tuple[str, str]:
    """A constant as the bias of all rows, and what is added behind; one of the two is empty."""
    scaled = (values * beta).astype(values.dtype) if beta != 1 else values
    flat = scaled.ndim == 1 and scaled.size == outputs
    if flat and beta == 1:
        return name, ""
    if flat or scaled.ndim < 2 or len(scaled) == 1:
        spread = np.broadcast_to(scaled.ravel(), (outputs,))
        return graph.add_constant(name, spread), ""
    return "", name if beta == 1 else graph.add_constant(f"{name}_scaled", scaled)

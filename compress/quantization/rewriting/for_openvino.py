"""What OpenVINO computes slowly, in operators that it merges into the layers in front.

OpenVINO (2026.4) runs a HardSigmoid node by a reference implementation in fp32, with a Reorder
before and after it. A product, a sum and a Clip it merges into the convolution in front: in its
profile of PP-OCR's classifier, 9 HardSigmoid nodes and 19 of 30 Reorders go.
"""

from __future__ import annotations

import numpy as np
from onnx import ModelProto, NodeProto, TensorProto

from compress.quantization.rewriting.graph import Graph, attribute

#: The first opset in which Clip takes its bounds as inputs.
_OPSET = 11


def for_openvino(model: ModelProto) -> int:
    """Put Mul, Add and Clip in the place of HardSigmoid of fp32; returns how many.

    Graphs of opsets before 11 stay as they are.
    """
    graph = Graph(model)
    if graph.opset < _OPSET:
        return 0
    for node in graph.nodes("HardSigmoid"):
        x = node.input[0]
        if graph.data_type(x) == TensorProto.FLOAT:
            graph.replace(node, {x}, _in_pieces(graph, node))
    return graph.finish()


def _in_pieces(graph: Graph, node: NodeProto) -> list[NodeProto]:
    """clip(alpha x + beta, 0, 1)."""

    def number(name: str, value: float) -> str:
        return graph.add_constant(name, np.array(value, np.float32))

    slope = number("alpha", attribute(node, "alpha", 0.2))
    middle = number("beta", attribute(node, "beta", 0.5))
    scaled = graph.add_node("Mul", [node.input[0], slope])
    moved = graph.add_node("Add", [scaled.output[0], middle])
    bounds = [number("low", 0.0), number("high", 1.0)]
    return [scaled, moved, graph.add_node("Clip", [moved.output[0], *bounds], node.output[0])]

"""Rows of a constant that an exporter picked by GatherND, which quantizers do not know.

torch writes `weight[index]` so: rows of a table, or the weights of one expert of several.
"""

from __future__ import annotations

import numpy as np
from onnx import ModelProto

from compress.quantization.rewriting.graph import Graph, attribute


def gather_rows(model: ModelProto) -> int:
    """Replace GatherND by Gather where each index is one number; returns how often."""
    graph = Graph(model)
    for node in graph.nodes("GatherND"):
        table, indices = node.input
        shape = graph.shape(indices) or ()
        if attribute(node, "batch_dims", 0) or not graph.is_constant(table) or shape[-1:] != (1,):
            continue
        nodes, index = [], _before_last_axis(graph, indices, len(shape))
        if not index:
            nodes = [graph.add_node("Squeeze", [indices, _last(graph)])]
            index = nodes[0].output[0]
        nodes.append(graph.add_node("Gather", [table, index], node.output[0], axis=0))
        nodes[-1].name = node.name or nodes[-1].name
        graph.replace(node, set(node.input), nodes)
    return graph.finish()


def _before_last_axis(graph: Graph, name: str, rank: int) -> str:
    """What an Unsqueeze gave the last axis of a value to; empty where none did."""
    maker = graph.maker(name, "Unsqueeze")
    axis = graph.number(maker.input[1]) if maker is not None and len(maker.input) > 1 else None
    return maker.input[0] if maker is not None and axis in (-1, rank - 1) else ""


def _last(graph: Graph) -> str:
    return graph.add_constant("last", np.array([-1]))

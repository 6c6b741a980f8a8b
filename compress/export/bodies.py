"""The bodies of If, Loop and Scan."""

from __future__ import annotations

from collections.abc import Iterator

from onnx import GraphProto, ModelProto, NodeProto


def bodies(node: NodeProto) -> Iterator[tuple[str, GraphProto]]:
    """The bodies of If, Loop and Scan by the names of their attributes; nothing of other nodes."""
    for attribute in node.attribute:
        for body in (attribute.g, *attribute.graphs):
            if body.node or body.output:
                yield attribute.name, body


def graphs(graph: GraphProto) -> Iterator[GraphProto]:
    """A graph, and the bodies of its If, Loop and Scan, theirs too."""
    yield graph
    for node in graph.node:
        for _, body in bodies(node):
            yield from graphs(body)


def nodes_everywhere(graph: GraphProto) -> list[NodeProto]:
    """The nodes of a graph, then those of its bodies."""
    return [node for inner in graphs(graph) for node in inner.node]


def has_bodies(model: ModelProto) -> bool:
    """Whether any node is an If, Loop or Scan, those of functions included."""
    nodes = [*model.graph.node, *(node for function in model.functions for node in function.node)]
    return any(True for node in nodes for _ in bodies(node))

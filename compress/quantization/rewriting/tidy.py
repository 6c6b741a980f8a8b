"""What holds of a graph after every rewrite: its interface, and nothing in it that is unused."""

from __future__ import annotations

from onnx import GraphProto, ModelProto

from compress.export.bodies import bodies, nodes_everywhere
from compress.quantization.rewriting.files import keep_only
from compress.quantization.rewriting.graph import copied
from compress.quantization.scopes import captured, names_read


def tidy(model: ModelProto, original: ModelProto) -> None:
    """Declare inputs and outputs as the original does, and drop what nothing uses, in place."""
    for field in ("input", "output"):
        declared = {value.name: value for value in getattr(original.graph, field)}
        for value in getattr(model.graph, field):
            if value.name in declared:
                value.CopyFrom(declared[value.name])
    model.graph.name, model.graph.doc_string = original.graph.name, original.graph.doc_string
    _drop_unused(model.graph)
    made = {name for node in model.graph.node for name in node.output}
    made -= {value.name for value in model.graph.output}
    keep_only(model.graph.value_info, lambda value: value.name in made)
    _drop_unused_domains(model)


def _drop_unused(graph: GraphProto) -> None:
    """Nodes and constants whose values nobody reads, those in bodies first."""
    for node in graph.node:
        for _, body in bodies(node):
            _drop_unused(body)
    _drop_dead_nodes(graph)
    used = {value.name for value in graph.output} | names_read(graph)
    keep_only(graph.initializer, lambda tensor: tensor.name in used)


def _drop_dead_nodes(graph: GraphProto) -> None:
    used, kept = {value.name for value in graph.output}, []
    for node in reversed(graph.node):
        if used.intersection(node.output) or not any(node.output):
            kept.append(copied(node))
            used.update(node.input)
            for _, body in bodies(node):
                used |= captured(body)
    if len(kept) < len(graph.node):
        del graph.node[:]
        graph.node.extend(reversed(kept))


def _drop_unused_domains(model: ModelProto) -> None:
    """onnxruntime's optimizer declares all domains that it knows."""
    used = {node.domain for node in nodes_everywhere(model.graph)}
    used |= {"", "ai.onnx"}
    used |= {node.domain for function in model.functions for node in function.node}
    used |= {function.domain for function in model.functions}
    keep_only(model.opset_import, lambda entry: entry.domain in used)

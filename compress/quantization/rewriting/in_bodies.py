"""Rewrites of a graph, carried out in the bodies of its If, Loop and Scan as well."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from onnx import GraphProto, ModelProto, TensorProto, ValueInfoProto

from compress.export.bodies import bodies, has_bodies
from compress.quantization.rewriting.files import keep_only
from compress.quantization.scopes import captured, unique_names

#: Changes a model in place and says in how many places.
Change = Callable[[ModelProto], int]


def in_bodies(change: Change) -> Change:
    """A change that is made to the outer graph, then to each body as if that were a model.

    What a body captures are its inputs, and constants where they are constant outside.
    """

    def everywhere(model: ModelProto) -> int:
        count = change(model)
        if not has_bodies(model):
            return count
        unique_names(model)
        inner = sum(
            _change_body(model, body, outer, change)
            for body, outer in list(_bodies(model.graph, _Outer({}, {})))
        )
        if inner:
            unique_names(model)  # a new name can be another body's
        return count + inner

    return everywhere


class _Outer:
    """What a body can capture: constants, and what is known of other values, by their names."""

    def __init__(self, tensors: dict[str, TensorProto], values: dict[str, ValueInfoProto]) -> None:
        self.tensors, self.values = tensors, values

    def within(self, graph: GraphProto) -> _Outer:
        inputs = {value.name for value in graph.input}
        tensors = {entry.name: entry for entry in graph.initializer if entry.name not in inputs}
        values = {value.name: value for value in (*graph.value_info, *graph.input)}
        return _Outer(self.tensors | tensors, self.values | values)


def _bodies(graph: GraphProto, outer: _Outer) -> Iterator[tuple[GraphProto, _Outer]]:
    """All bodies, inner ones first, so that changing one leaves the others to be changed."""
    known = outer.within(graph)
    for node in graph.node:
        for _, body in bodies(node):
            yield from _bodies(body, known)
            yield body, known


def _change_body(model: ModelProto, body: GraphProto, outer: _Outer, change: Change) -> int:
    alone = ModelProto(ir_version=model.ir_version, opset_import=model.opset_import)
    alone.graph.CopyFrom(body)
    names = captured(body)
    constants = {name: outer.tensors[name] for name in sorted(names & outer.tensors.keys())}
    alone.graph.initializer.extend(constants.values())
    for name in sorted(names - constants.keys()):
        alone.graph.input.append(outer.values.get(name, ValueInfoProto(name=name)))
    count = change(alone)
    if not count:
        return 0
    keep_only(alone.graph.input, lambda value: value.name not in names)
    keep_only(alone.graph.initializer, lambda tensor: constants.get(tensor.name) != tensor)
    body.CopyFrom(alone.graph)
    known = {entry.domain for entry in model.opset_import}
    model.opset_import.extend(e for e in alone.opset_import if e.domain not in known)
    return count

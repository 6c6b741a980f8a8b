"""Names of values in a graph and in the bodies of its If, Loop and Scan."""

from __future__ import annotations

from onnx import GraphProto, ModelProto, NodeProto

from compress.export.bodies import bodies, graphs, has_bodies


def unique_names(model: ModelProto) -> int:
    """Give values in bodies other names where any other graph of the model has theirs, in place.

    Bodies may use a name again that a body beside them has, and some files hide an outer value by
    an inner one. Behind this a name says which value is meant, wherever it stands. The outer
    graph's values keep theirs.

    Returns:
        How many values were renamed.
    """
    if not has_bodies(model):
        return 0
    names = _Names(all_names(model))
    names.make_unique(model.graph, {})
    return names.count


def all_names(model: ModelProto) -> set[str]:
    """Names of all values and nodes, those inside of bodies, too."""
    found: set[str] = set()
    for graph in graphs(model.graph):
        found |= defined_names(graph) | {value.name for value in graph.output}
        for node in graph.node:
            found |= {node.name, *node.input}
    return found


def fresh_name(name: str, taken: set[str]) -> str:
    """This name, or with the first number that none has yet; it is taken from then on."""
    found, number = name, 1
    while found in taken:
        found, number = f"{name}_{number}", number + 1
    taken.add(found)
    return found


def defined_names(graph: GraphProto) -> set[str]:
    """Names of the values that a graph has itself: inputs, constants, what its nodes make."""
    found = {value.name for value in graph.input} | {tensor.name for tensor in graph.initializer}
    found |= {tensor.values.name for tensor in graph.sparse_initializer}
    return (found | {name for node in graph.node for name in node.output}) - {""}


def names_read(graph: GraphProto) -> set[str]:
    """Names that nodes read, and the outer ones that bodies read or give back."""
    found = {name for node in graph.node for name in node.input}
    for node in graph.node:
        for _, body in bodies(node):
            found |= captured(body)
    return found


def captured(body: GraphProto) -> set[str]:
    """Names of outer values that a body reads or gives back."""
    return (names_read(body) | {value.name for value in body.output}) - defined_names(body) - {""}


def rename(graph: GraphProto, names: dict[str, str]) -> None:
    """Rename values wherever a graph or its bodies name them, in place; names are to be unique."""
    if not names:
        return
    for inner in graphs(graph):
        _rename_one(inner, names)


def _rename_one(graph: GraphProto, names: dict[str, str]) -> None:
    for node in graph.node:
        node.input[:] = [names.get(name, name) for name in node.input]
        node.output[:] = [names.get(name, name) for name in node.output]
    for value in (*graph.input, *graph.output, *graph.value_info):
        value.name = names.get(value.name, value.name)
    for tensor in graph.initializer:
        tensor.name = names.get(tensor.name, tensor.name)
    for sparse in graph.sparse_initializer:
        sparse.values.name = names.get(sparse.values.name, sparse.values.name)


def sort_nodes(graph: GraphProto) -> None:
    """Put every node behind what makes the values that it and its bodies read, in place.

    onnxruntime's quantizers sort by the nodes' own inputs alone. The order is kept where it holds.
    """
    waiting, nodes = list(graph.node), list[NodeProto]()
    missing = {name for node in waiting for name in node.output} - {""}
    while waiting:
        held = list[NodeProto]()
        for node in waiting:
            if missing.isdisjoint(_needed(node)):
                missing.difference_update(node.output)
                nodes.append(node)
            else:
                held.append(node)
        if len(held) == len(waiting):
            return  # a circle, which a checker tells of
        waiting = held
    del graph.node[:]
    graph.node.extend(nodes)


def _needed(node: NodeProto) -> set[str]:
    return {*node.input}.union(*(captured(body) for _, body in bodies(node)))


class _Names:
    """All names of a model, and which of them a graph has defined already."""

    def __init__(self, every: set[str]) -> None:
        self.count, self._every, self._defined = 0, every, set[str]()

    def make_unique(self, graph: GraphProto, outer: dict[str, str]) -> None:
        """Rename what a graph defines, and what it reads as the graphs around it renamed it."""
        names = dict(outer)
        for name in sorted(defined_names(graph)):
            names[name] = fresh_name(name, self._every) if name in self._defined else name
            self.count += names[name] != name
            self._defined.add(names[name])
        _rename_one(graph, names)
        for node in graph.node:
            for _, body in bodies(node):
                self.make_unique(body, names)

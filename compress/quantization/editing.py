"""Replacing nodes of an ONNX graph by others, which is what a quantizer does."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import numpy.typing as npt
from onnx import GraphProto, ModelProto, NodeProto, helper, numpy_helper

from compress.export.bodies import bodies, graphs
from compress.quantization.rewriting.files import keep_only
from compress.quantization.scopes import all_names, defined_names, names_read, unique_names

#: Operators that onnxruntime adds to ONNX's own.
MICROSOFT = "com.microsoft"
_ONNX = ("", "ai.onnx")

Array = npt.NDArray[Any]


class Edit:
    """What a converter sees of a model, and the nodes that it puts in the place of one.

    Bodies of If, Loop and Scan are seen, too; no two values of a model have the same name. New
    constants stand in the outer graph, which every body sees.

    Attributes:
        opset: of ONNX's own operators.
        nodes: what stands in the place of the node at hand.
        first: nodes that the outer graph begins with.
    """

    def __init__(self, model: ModelProto) -> None:
        unique_names(model)
        self.opset = next((o.version for o in model.opset_import if o.domain in ("", "ai.onnx")), 0)
        self.nodes: list[NodeProto] = []
        self.first: list[NodeProto] = []
        self._graph, every = model.graph, list(graphs(model.graph))
        self._tensors = {tensor.name: tensor for graph in every for tensor in graph.initializer}
        self._made: dict[str, str] = {}
        self._names = all_names(model)
        self._users: dict[str, list[tuple[int, NodeProto]]] = {}
        self._home: dict[str, int] = {}
        for place, graph in enumerate(every):
            self._home |= dict.fromkeys(defined_names(graph), place)
            for node in graph.node:
                for name in set(node.input):
                    self._users.setdefault(name, []).append((place, node))
        self._results = {value.name for graph in every for value in graph.output}

    def values(self, name: str) -> Array | None:
        """The values of a constant; None for what is none."""
        tensor = self._tensors.get(name)
        return None if tensor is None else numpy_helper.to_array(tensor)

    def weight(self, name: str) -> npt.NDArray[np.float32] | None:
        """The same, where it is in fp32."""
        values = self.values(name)
        return values if values is not None and values.dtype == np.float32 else None

    def users(self, name: str) -> list[NodeProto]:
        """The nodes that use a value, each once."""
        return [node for _, node in self._users.get(name, [])]

    def only_user(self, name: str) -> NodeProto | None:
        """The node beside its maker that uses a value, where it alone does and it is no output."""
        users = self._users.get(name, [])
        if len(users) != 1 or name in self._results or users[0][0] != self._home.get(name):
            return None
        return users[0][1]

    def is_used(self, name: str) -> bool:
        return bool(name) and (name in self._users or name in self._results)

    def constant(self, name: str, values: Array) -> str:
        """A new constant, or the one that was added under this name before."""
        if name not in self._made:
            found = self._made[name] = self.fresh(name)
            tensor = numpy_helper.from_array(np.ascontiguousarray(values), found)
            self._graph.initializer.append(tensor)
        return self._made[name]

    def add(
        self,
        kind: str,
        inputs: Sequence[str],
        output: str | Sequence[str] | None = None,
        **attributes: Any,
    ) -> str:
        """A new node; returns its first output, which gets a name where `output` gives none."""
        names = [output] if isinstance(output, str) else output
        names = names or [self.fresh(f"{kind.lower()}_{len(self._names)}")]
        self.nodes.append(helper.make_node(kind, inputs, names, **attributes))
        return names[0]

    def add_changed(self, node: NodeProto, names: Mapping[str, str]) -> None:
        """A copy of a node that reads other values, by the names of its own."""
        changed = NodeProto()
        changed.CopyFrom(node)
        changed.input[:] = [names.get(name, name) for name in node.input]
        self.nodes.append(changed)

    @contextmanager
    def body(self) -> Iterator[list[NodeProto]]:
        """Add nodes to the body of a loop instead; constants still go to the graph around it."""
        outer, self.nodes = self.nodes, []
        try:
            yield self.nodes
        finally:
            self.nodes = outer

    @contextmanager
    def ahead(self) -> Iterator[None]:
        """Add nodes to the beginning of the outer graph instead, for what bodies share."""
        outer, self.nodes = self.nodes, self.first
        try:
            yield
        finally:
            self.nodes = outer

    def fresh(self, name: str) -> str:
        """This name, or the next one that is not used yet."""
        while name in self._names:
            name += "_"
        self._names.add(name)
        return name


#: Adds nodes in place of one; False to leave it as it is.
Converter = Callable[[Edit, NodeProto], bool]


def rewrite(
    model: ModelProto, converters: Mapping[str, Converter], domains: Sequence[str] = _ONNX
) -> int:
    """Replace nodes in place, by operator, and drop constants that are not used any more.

    Nodes in the bodies of If, Loop and Scan are replaced as well.

    Args:
        domains: of the operators; ONNX's own if left out.

    Returns:
        How many nodes were replaced.
    """
    edit = Edit(model)
    count = _replace(edit, model.graph, converters, domains)
    if not count:
        return 0
    nodes = list(model.graph.node)
    del model.graph.node[:]
    model.graph.node.extend([*edit.first, *nodes])
    for graph in graphs(model.graph):
        drop_unused(graph)
    if MICROSOFT not in {entry.domain for entry in model.opset_import}:
        model.opset_import.append(helper.make_opsetid(MICROSOFT, 1))
    return count


def _replace(
    edit: Edit, graph: GraphProto, converters: Mapping[str, Converter], domains: Sequence[str]
) -> int:
    nodes, count = list[NodeProto](), 0
    for node in graph.node:
        count += sum(_replace(edit, body, converters, domains) for _, body in bodies(node))
        convert = converters.get(node.op_type)
        edit.nodes = []
        if convert is not None and node.domain in domains and convert(edit, node):
            nodes += edit.nodes
            count += 1
        else:
            nodes.append(node)
    if count:
        del graph.node[:]
        graph.node.extend(nodes)
    return count


def drop_unused(graph: GraphProto) -> None:
    """Drop constants of a graph that neither its nodes nor their bodies read, in place."""
    used = {value.name for value in graph.output} | names_read(graph)
    keep_only(graph.initializer, lambda tensor: tensor.name in used)


def attributes(node: NodeProto) -> dict[str, Any]:
    """A node's attributes as plain values."""
    return {entry.name: helper.get_attribute_value(entry) for entry in node.attribute}

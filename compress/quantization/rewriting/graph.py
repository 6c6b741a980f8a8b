"""A graph as the rewrites read it: what made each value, who reads it, which ones are constant."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from compress.export.bodies import graphs, nodes_everywhere
from compress.quantization.editing import MICROSOFT, Array, attributes
from compress.quantization.scopes import all_names, fresh_name, names_read

_ONNX = ("", "ai.onnx")


class Graph:
    """The outer graph of a model, and the places in it that are to be replaced.

    Nodes of other domains than ONNX's own are never what a value is said to be made by, so that
    nothing is assumed of them. What bodies of If, Loop and Scan read counts as read.

    Attributes:
        opset: of ONNX's own operators.
    """

    def __init__(self, model: ModelProto) -> None:
        self.opset = opset(model)
        self._model, self._nodes = model, list(model.graph.node)
        self._made = {name: node for node in self._nodes for name in node.output if name}
        inputs = {value.name for value in model.graph.input}
        tensors = model.graph.initializer
        self._tensors = {tensor.name: tensor for tensor in tensors if tensor.name not in inputs}
        known = (*model.graph.value_info, *model.graph.input)
        self._values = {value.name: value for value in known}
        self._readers: dict[str, list[NodeProto]] = {}
        for node in self._nodes:
            for name in set(node.input):
                self._readers.setdefault(name, []).append(node)
        self._held = {value.name for value in model.graph.output} | names_in_bodies(model)
        self._names = all_names(model)
        self._replaced: dict[int, list[NodeProto]] = {}  # by the identity of the last node
        self._gone: set[int] = set()

    def nodes(self, *kinds: str) -> Iterator[NodeProto]:
        """Nodes of ONNX's own operators of these kinds that no replacement has taken yet."""
        for node in self._nodes:
            if node.op_type in kinds and node.domain in _ONNX and id(node) not in self._gone:
                yield node

    def maker(self, name: str, *kinds: str) -> NodeProto | None:
        """The node that made a value, where it is of one of these kinds of ONNX's own."""
        node = self._made.get(name)
        fits = node is not None and node.op_type in kinds and node.domain in _ONNX
        return node if fits else None

    def constant(self, name: str) -> Array | None:
        """The values of a constant; None where it is none, or one that callers may replace."""
        tensor = self._tensors.get(name)
        return None if tensor is None else numpy_helper.to_array(tensor)

    def is_constant(self, name: str) -> bool:
        return name in self._tensors

    def number(self, name: str, rank: int = 1) -> float | None:
        """A constant that is one number and gives nothing of this rank another shape."""
        tensor = self._tensors.get(name)
        if tensor is None or len(tensor.dims) > rank or any(size != 1 for size in tensor.dims):
            return None
        values = numpy_helper.to_array(tensor)
        return float(values.item()) if values.dtype.kind in "fiu" else None

    def scalar(self, name: str, rank: int = 1) -> float | None:
        """The same of fp32; whatever it is multiplied with or added to then is fp32, too."""
        tensor = self._tensors.get(name)
        if tensor is None or tensor.data_type != TensorProto.FLOAT:
            return None
        return self.number(name, rank)

    def only_reader(self, name: str) -> NodeProto | None:
        """The node that reads a value, where it alone does."""
        readers = self._readers.get(name, [])
        return readers[0] if len(readers) == 1 and name not in self._held else None

    def is_read(self, name: str) -> bool:
        return name in self._readers or name in self._held

    def shape(self, name: str) -> tuple[int | None, ...] | None:
        """What is known of a value's shape; sizes that vary are None."""
        tensor, value = self._tensors.get(name), self._values.get(name)
        if tensor is not None:
            return tuple(tensor.dims)
        if value is None or not value.type.tensor_type.HasField("shape"):
            return None
        sizes = value.type.tensor_type.shape.dim
        return tuple(size.dim_value if size.HasField("dim_value") else None for size in sizes)

    def rank(self, name: str) -> int | None:
        shape = self.shape(name)
        return None if shape is None else len(shape)

    def data_type(self, name: str) -> int:
        """As in TensorProto; UNDEFINED where it is not known."""
        tensor, value = self._tensors.get(name), self._values.get(name)
        kind: int = TensorProto.UNDEFINED
        if tensor is not None:
            kind = tensor.data_type
        elif value is not None:
            kind = value.type.tensor_type.elem_type
        return kind

    def add_constant(self, name: str, values: Array) -> str:
        """A new constant; returns its name."""
        found = fresh_name(name, self._names)
        tensor = numpy_helper.from_array(np.array(values, order="C"), found)
        self._model.graph.initializer.append(tensor)
        return found

    def add_node(
        self, kind: str, inputs: Sequence[str], output: str = "", domain: str = "", **values: Any
    ) -> NodeProto:
        """A new node, for `replace`; its output gets a name where there is none."""
        output = output or fresh_name(kind.lower(), self._names)
        name = fresh_name(kind, self._names)
        return helper.make_node(kind, inputs, [output], name=name, domain=domain, **values)

    def replace(self, last: NodeProto, leaves: set[str], nodes: Sequence[NodeProto]) -> bool:
        """Put nodes in the place of all that lies between some values and a node's result.

        Args:
            last: its first output is what the last of `nodes` gives.
            leaves: what the result is made from, besides constants.

        Returns:
            Whether that was possible: nobody else may read what lies in between.
        """
        between = self._between(last, leaves)
        if between is None:
            return False
        self._gone |= {id(node) for node in between}
        self._replaced[id(last)] = list(nodes)
        return True

    def _between(self, last: NodeProto, leaves: set[str]) -> list[NodeProto] | None:
        found, names = {id(last): last}, list(last.input)
        while names:
            name = names.pop()
            if not name or name in leaves or name in self._tensors:
                continue
            node = self._made.get(name)
            if node is None or id(node) in self._gone:
                return None
            if id(node) not in found:
                found[id(node)] = node
                names += node.input
        inner = [name for node in found.values() if node is not last for name in node.output]
        for name in (*inner, *last.output[1:]):
            readers = self._readers.get(name, [])
            if name in self._held or any(id(node) not in found for node in readers):
                return None
        return list(found.values())

    def finish(self) -> int:
        """Carry out all replacements; returns how many there were."""
        nodes = list[NodeProto]()
        for node in self._nodes:
            nodes += self._replaced.get(id(node), [] if id(node) in self._gone else [node])
        if self._replaced:
            kept = [copied(node) for node in nodes]
            del self._model.graph.node[:]
            self._model.graph.node.extend(kept)
            _declare_domains(self._model)
        return len(self._replaced)


def copied(node: NodeProto) -> NodeProto:
    """A copy, which stays what it is when the graph's own nodes are deleted."""
    found = NodeProto()
    found.CopyFrom(node)
    return found


def opset(model: ModelProto) -> int:
    """Version of ONNX's own operators; 0 where a file declares none."""
    return max((entry.version for entry in model.opset_import if entry.domain in _ONNX), default=0)


def _declare_domains(model: ModelProto) -> None:
    used = {node.domain for node in nodes_everywhere(model.graph)}
    if MICROSOFT in used and MICROSOFT not in {entry.domain for entry in model.opset_import}:
        model.opset_import.append(helper.make_opsetid(MICROSOFT, 1))


def names_in_bodies(model: ModelProto) -> set[str]:
    """Names of values that bodies of If, Loop and Scan read or give back."""
    found: set[str] = set()
    for graph in list(graphs(model.graph))[1:]:
        found |= names_read(graph) | {value.name for value in graph.output}
    return found


def sides(node: NodeProto | None) -> list[tuple[str, str]]:
    """The two inputs of a node, either one first; nothing where there are not two, or no node."""
    if node is None or len(node.input) != 2:
        return []
    left, right = node.input
    return [(left, right), (right, left)]


def attribute(node: NodeProto, name: str, default: Any) -> Any:
    """One attribute of a node as a plain value."""
    return attributes(node).get(name, default)

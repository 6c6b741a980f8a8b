"""An fp32 graph turned into fp16 node by node, with casts where the one meets the other.

Which operators take no fp16, and how numbers are rounded, is what onnxruntime's converter knows.
Its way of changing a graph is not used: a value that two fp32 nodes read gets two casts of one
name, casts stand behind their readers, those for a node in a body stand outside of it, and between
two fp32 nodes every value still goes through fp16.
"""

from __future__ import annotations

from collections.abc import Collection

from onnx import GraphProto, ModelProto, NodeProto, TensorProto, helper
from onnxruntime.transformers.float16 import (
    ALWAYS_FLOAT_INPUTS,
    DEFAULT_OP_BLOCK_LIST,
    convert_tensor_float_to_float16,
)

from compress.export.bodies import bodies, graphs
from compress.quantization.rewriting.graph import copied
from compress.quantization.rewriting.tidy import tidy
from compress.quantization.scopes import captured, fresh_name

_FP32, _FP16 = TensorProto.FLOAT, TensorProto.FLOAT16
#: Operators that stay fp32: of the converter's list, and those whose result's type is an attribute.
_FP32_ONLY = {
    *DEFAULT_OP_BLOCK_LIST,
    *("RandomNormal", "RandomNormalLike", "RandomUniform", "Multinomial", "Bernoulli", "EyeLike"),
    *("QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear"),
}


def halve(model: ModelProto, floats: Collection[str], exact: Collection[str]) -> None:
    """Turn all nodes to fp16, in place, but for those in `exact`; inputs and outputs stay fp32.

    Nodes with a body are turned with all that is in it.

    Args:
        floats: names of the fp32 values that the nodes of the main graph take and make.
        exact: names of nodes.
    """
    original = ModelProto()
    original.CopyFrom(model)
    graph = _Graph(model.graph, floats)
    for node in original.graph.node:
        graph.add(copied(node), exact)
    del model.graph.node[:]
    model.graph.node.extend(graph.nodes)
    tidy(model, original)
    for each in graphs(model.graph):
        each.ClearField("value_info")


class _Graph:
    """The main graph while its nodes are added again, one by one."""

    def __init__(self, graph: GraphProto, floats: Collection[str]) -> None:
        self.nodes: list[NodeProto] = []
        self._graph, self._floats = graph, set(floats)
        self._results = {value.name for value in graph.output}
        inputs = {value.name: value.type.tensor_type.elem_type for value in graph.input}
        self._floats |= {name for name, kind in inputs.items() if kind == _FP32}
        self._weights = {
            tensor.name: tensor
            for tensor in graph.initializer
            if tensor.data_type == _FP32 and tensor.name not in inputs
        }
        self._taken = {name for node in graph.node for name in (*node.input, *node.output)}
        #: By name and whether in fp16, the value that is it.
        self._found: dict[tuple[str, bool], str] = {
            (name, False): name for name in (*self._floats, *self._weights)
        }

    def add(self, node: NodeProto, exact: Collection[str]) -> None:
        """Add a node in its precision, and the casts that it needs."""
        inside = [body for _, body in bodies(node)]
        half = bool(inside) or (node.name not in exact and node.op_type not in _FP32_ONLY)
        fixed = ALWAYS_FLOAT_INPUTS.get(node.op_type, [])
        node.input[:] = [
            self._value(name, half=half and place not in fixed)
            for place, name in enumerate(node.input)
        ]
        if half:
            _halve_attributes(node)
            self._add_half(node, inside)
        else:
            self.nodes.append(node)

    def _add_half(self, node: NodeProto, inside: list[GraphProto]) -> None:
        for body in inside:
            free = sorted(captured(body) & self._found_names())
            _rename(body, {name: self._value(name, half=True) for name in free})
            for graph in graphs(body):
                _halve_body(graph)
        self.nodes.append(node)
        for place, name in enumerate(node.output):
            if name not in self._floats:
                continue
            del self._found[name, False]
            self._found[name, True] = name
            if name in self._results:
                made = fresh_name(f"{name}_fp16", self._taken)
                node.output[place] = self._found[name, True] = made
                self._value(name, half=False, output=name)

    def _found_names(self) -> set[str]:
        return {name for name, _ in self._found}

    def _value(self, name: str, *, half: bool, output: str = "") -> str:
        """The value in this precision, which is made where it is not there yet."""
        other = self._found.get((name, not half))
        if (name, half) in self._found or other is None:
            return self._found.get((name, half), name)
        made = output or fresh_name(f"{name}_{'fp16' if half else 'fp32'}", self._taken)
        if name in self._weights:
            tensor = self._graph.initializer.add()
            tensor.CopyFrom(self._weights[name])
            convert_tensor_float_to_float16(tensor)
            tensor.name = made
        else:
            kind = _FP16 if half else _FP32
            self.nodes.append(helper.make_node("Cast", [other], [made], f"{made}_cast", to=kind))
        self._found[name, half] = made
        return made


def _halve_attributes(node: NodeProto) -> None:
    """Types and constants that stand in a node."""
    if node.op_type == "ConstantOfShape" and not node.attribute:
        node.attribute.append(
            helper.make_attribute("value", helper.make_tensor("", _FP16, [1], [0]))
        )
    for attribute in node.attribute:
        if node.op_type == "Cast" and attribute.name == "to" and attribute.i == _FP32:
            attribute.i = _FP16
        for tensor in (attribute.t, *attribute.tensors):
            convert_tensor_float_to_float16(tensor)


def _halve_body(body: GraphProto) -> None:
    for tensor in body.initializer:
        convert_tensor_float_to_float16(tensor)
    for value in (*body.input, *body.output, *body.value_info):
        for kind in (value.type.tensor_type, value.type.sequence_type.elem_type.tensor_type):
            if kind.elem_type == _FP32:
                kind.elem_type = _FP16
    for node in body.node:
        _halve_attributes(node)


def _rename(body: GraphProto, names: dict[str, str]) -> None:
    """Read other values instead of those from outside, also in bodies inside."""
    names = {name: names[name] for name in captured(body) & names.keys()}
    for node in body.node:
        for _, inner in bodies(node):
            _rename(inner, names)
        node.input[:] = [names.get(name, name) for name in node.input]
    for value in body.output:
        value.name = names.get(value.name, value.name)

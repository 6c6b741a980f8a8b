"""One graph that holds every layer in fp32 and in int8, and an input that switches between them.

A file for each layer to try would cost a quantizer's run and a load a layer. Here each layer stands
in an `If`: its int8 branch has the node, scales and zero points that a quantizer wrote for the
whole model, its fp32 branch the node as it was. One load, and each call says what is int8.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator

from onnx import GraphProto, ModelProto, NodeProto, TensorProto, helper

from compress.export.bodies import graphs, nodes_everywhere
from compress.quantization.layers import weights_of
from compress.quantization.rewriting.graph import copied
from compress.quantization.scopes import all_names, defined_names

_QUANTIZE, _RESTORE = "QuantizeLinear", "DequantizeLinear"


def with_switches(
    source: ModelProto, quantized: ModelProto, names: Collection[str]
) -> tuple[ModelProto, list[str]] | None:
    """A copy of the fp32 model with a further input, (layers,) bool: which layers are int8.

    Args:
        source: the fp32 model; each node named has a name of its own.
        quantized: the same in QDQ, with these nodes in int8.
        names: nodes to switch.

    Returns:
        The model and the nodes in the input's order; None where a node was not quantized by
        QuantizeLinear and DequantizeLinear around it, as in dynamic int8.
    """
    switch = _fresh(source, "switches")
    branches = int8_branches(source, quantized, names, f"{switch}_")
    if branches is None:
        return None
    model = ModelProto()
    model.CopyFrom(source)
    order = list(branches)
    for graph in reversed(list(graphs(model.graph))):  # inner ones first
        nodes = list[NodeProto]()
        for node in graph.node:
            if node.name in branches:
                place = order.index(node.name)
                nodes += _switched(node, branches[node.name], switch, place, model.graph)
            else:
                nodes.append(copied(node))
        del graph.node[:]
        graph.node.extend(nodes)
    shape = [len(order)]
    model.graph.input.append(helper.make_tensor_value_info(switch, TensorProto.BOOL, shape))
    _import_domains(model, quantized)
    return model, order


def int8_branches(
    source: ModelProto, quantized: ModelProto, names: Collection[str], prefix: str
) -> dict[str, GraphProto] | None:
    """Each node in its int8 form, as a graph that reads what the node reads and has one output.

    Args:
        source, quantized, names: see `with_switches`.
        prefix: of all names in these graphs.
    """
    if _opset(source) != _opset(quantized):
        return None
    reader, found = _Reader(quantized.graph), dict[str, GraphProto]()
    for node in nodes_everywhere(source.graph):
        if node.name in names:
            branch = reader.branch(node, f"{prefix}{len(found)}_")
            if branch is None:
                return None
            found[node.name] = branch
    return found


def _opset(model: ModelProto) -> int:
    return next((o.version for o in model.opset_import if o.domain in ("", "ai.onnx")), 0)


def _import_domains(model: ModelProto, quantized: ModelProto) -> None:
    """Those of the quantizer's nodes, too."""
    known = {entry.domain for entry in model.opset_import}
    model.opset_import.extend(o for o in quantized.opset_import if o.domain not in known)


def _fresh(model: ModelProto, name: str) -> str:
    """A name that nothing in the model begins with."""
    taken = all_names(model)
    while any(other.startswith(name) for other in taken):
        name += "_"
    return name


def _switched(
    node: NodeProto, int8: GraphProto, switch: str, place: int, graph: GraphProto
) -> Iterator[NodeProto]:
    """The node as an If on its place among the switches."""
    index = helper.make_tensor(f"{switch}_{place}_place", TensorProto.INT64, [], [place])
    graph.initializer.append(index)
    condition = f"{switch}_{place}_on"
    yield helper.make_node("Gather", [switch, index.name], [condition])
    fp32 = NodeProto()
    fp32.CopyFrom(node)
    result = f"{switch}_{place}_fp32"
    fp32.output[:] = [result]
    values = [
        helper.make_tensor_value_info(result, int8.output[0].type.tensor_type.elem_type, None)
    ]
    otherwise = helper.make_graph([fp32], "fp32", [], values)
    yield helper.make_node(
        "If", [condition], node.output, node.name, then_branch=int8, else_branch=otherwise
    )


class _Reader:
    """What a quantizer wrote around each node."""

    def __init__(self, graph: GraphProto) -> None:
        every = nodes_everywhere(graph)
        self._nodes = {node.name: node for node in every}
        #: What rounds a value where it is made; bodies that read it may round it for themselves.
        self._stored = {
            node.input[0]: node
            for inner, own in ((inner, defined_names(inner)) for inner in graphs(graph))
            for node in inner.node
            if node.op_type == _QUANTIZE and node.input[0] in own
        }
        self._made_by = {output: node for node in every for output in node.output}
        self._tensors = {tensor.name: tensor for g in graphs(graph) for tensor in g.initializer}
        self._restored = {node.input[0]: node for node in every if node.op_type == _RESTORE}

    def branch(self, source: NodeProto, prefix: str) -> GraphProto | None:
        """The int8 form of a node as a graph without inputs; it reads what the node read.

        Args:
            prefix: of all names in it.
        """
        found = self._nodes.get(source.name)
        if found is None or found.op_type != source.op_type or len(found.output) != 1:
            return None
        if not all(self._is_restored(weight) for weight in weights_of(found)):
            return None
        edit = _Branch(prefix)
        inputs = [
            self._copy_input(edit, outer, name)
            for outer, name in zip(source.input, found.input, strict=True)
        ]
        result = edit.copy(found, inputs)
        stored = self._stored.get(found.output[0])
        if stored is not None:
            restored = self._restored.get(stored.output[0])
            if restored is None:
                return None
            result = self._copy_pair(edit, result, stored, restored)
        return self._graph(edit, result, found)

    def _is_restored(self, name: str) -> bool:
        node = self._made_by.get(name)
        return node is not None and node.op_type == _RESTORE

    def _copy_input(self, edit: _Branch, outer: str, name: str) -> str:
        """An input as int8 has it: quantized and back, or a constant made fp32 again."""
        restored = self._made_by.get(name)
        if restored is None or restored.op_type != _RESTORE:
            return outer
        stored = self._made_by.get(restored.input[0])
        if stored is not None:
            return self._copy_pair(edit, outer, stored, restored)
        return edit.copy(restored, [edit.constant(part) for part in restored.input])

    def _copy_pair(self, edit: _Branch, name: str, stored: NodeProto, restored: NodeProto) -> str:
        integers = edit.copy(stored, [name, *map(edit.constant, stored.input[1:])])
        return edit.copy(restored, [integers, *map(edit.constant, restored.input[1:])])

    def _graph(self, edit: _Branch, result: str, node: NodeProto) -> GraphProto | None:
        """The branch, where all its constants are stored as such."""
        if not edit.constants <= self._tensors.keys():
            return None
        kind = self._kind(node)
        tensors = []
        for name in sorted(edit.constants):
            tensor = TensorProto()
            tensor.CopyFrom(self._tensors[name])
            tensor.name = edit.constant(name)
            tensors.append(tensor)
        values = [helper.make_tensor_value_info(result, kind, None)]
        return helper.make_graph(edit.nodes, "int8", [], values, tensors)

    def _kind(self, node: NodeProto) -> int:
        """The type that the node computes in: that of its weight's scale."""
        scale = self._made_by[weights_of(node)[0]].input[1]
        return self._tensors[scale].data_type if scale in self._tensors else TensorProto.FLOAT


class _Branch:
    """The nodes of an int8 branch as they come together, and the constants that they need.

    Attributes:
        constants: by their names in the quantized file.
    """

    def __init__(self, prefix: str) -> None:
        self.nodes: list[NodeProto] = []
        self.constants: set[str] = set()
        self._prefix = prefix

    def constant(self, name: str) -> str:
        """The name of a constant in here; an input left out stays so."""
        if not name:
            return ""
        self.constants.add(name)
        return f"{self._prefix}constant_{name}"

    def copy(self, node: NodeProto, inputs: Iterable[str]) -> str:
        """A copy of a node with one output; returns the output's name."""
        copied = NodeProto()
        copied.CopyFrom(node)
        copied.input[:] = inputs
        result = f"{self._prefix}{len(self.nodes)}"
        copied.output[:], copied.name = [result], result
        self.nodes.append(copied)
        return result

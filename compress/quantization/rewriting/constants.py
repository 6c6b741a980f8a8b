"""Constants where quantizers look for them, names for all nodes, and none that do nothing."""

from __future__ import annotations

from collections import Counter

import numpy as np
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, numpy_helper
from onnx.inliner import inline_local_functions

from compress.export.bodies import graphs, nodes_everywhere
from compress.quantization.editing import attributes
from compress.quantization.rewriting.files import without_weights
from compress.quantization.rewriting.graph import Graph, copied

#: The first version of the file format in which an input can have a default value.
_DEFAULTS_VERSION = 4
#: Weights below count as zero, beside others that are so much larger than fp32 tells apart.
_TINY, _NOT_TINY = np.float32(2.0**-100), np.float32(2.0**-60)
_NUMBERS = {
    "value_float": np.float32,
    "value_floats": np.float32,
    "value_int": np.int64,
    "value_ints": np.int64,
}


def inline_functions(model: ModelProto) -> int:
    """Put the bodies of functions where they are called; returns how many functions there were."""
    count = len(model.functions)
    if count:
        without_weights(model, inline_local_functions)
    return count


def take_weights_off_inputs(model: ModelProto) -> int:
    """Weights that are listed as inputs, too, as old exporters did, become constants.

    Files of before version 4 had to list them. Later ones may mean a default that callers replace:
    those are taken for weights only where every single one is listed.
    """
    graph = model.graph
    weights, inputs = (
        {record.name for record in part} for part in (graph.initializer, graph.input)
    )
    listed = weights & inputs
    if not listed or (model.ir_version >= _DEFAULTS_VERSION and listed != weights):
        return 0
    kept = [value for value in graph.input if value.name not in listed]
    del graph.input[:]
    graph.input.extend(kept)
    # Without a list of them there is no constant before this version.
    model.ir_version = max(model.ir_version, _DEFAULTS_VERSION)
    return len(listed)


def lift_constants(model: ModelProto) -> int:
    """Values of `Constant` nodes become initializers, those in bodies of their bodies."""
    return sum(_lift(graph) for graph in graphs(model.graph))


def _lift(graph: GraphProto) -> int:
    results, kept, count = {value.name for value in graph.output}, list[NodeProto](), 0
    for node in graph.node:
        is_constant = node.op_type == "Constant" and node.domain in ("", "ai.onnx")
        tensor = _value(node) if is_constant and node.output[0] not in results else None
        if tensor is None:
            kept.append(copied(node))
        else:
            graph.initializer.append(tensor)
            count += 1
    if count:
        del graph.node[:]
        graph.node.extend(kept)
    return count


def _value(node: NodeProto) -> TensorProto | None:
    """A constant's value under the name of its output; None for a sparse one or text."""
    (name, value), *_ = attributes(node).items() or [("", None)]
    tensor = TensorProto()
    if name == "value":
        tensor.CopyFrom(value)
    elif name in _NUMBERS:
        tensor.CopyFrom(numpy_helper.from_array(np.array(value, _NUMBERS[name])))
    else:
        return None
    tensor.name = node.output[0]
    return tensor


def flush_tiny_weights(model: ModelProto) -> int:
    """Weights that are next to nothing become zero; returns in how many tensors.

    Weight decay leaves them where a channel is dead. Processors take many times as long for
    products with numbers below 2^-126, and a scale of int8 cannot be found for those alone.
    """
    count = 0
    for tensor in [tensor for graph in graphs(model.graph) for tensor in graph.initializer]:
        if tensor.data_type != TensorProto.FLOAT:
            continue
        values = numpy_helper.to_array(tensor)
        tiny = (np.abs(values) < _TINY) & (values != 0)
        if tiny.any() and np.abs(values).max() >= _NOT_TINY:
            tensor.CopyFrom(numpy_helper.from_array(np.where(tiny, 0, values), tensor.name))
            count += 1
    return count


def name_nodes(model: ModelProto) -> int:
    """Give nodes a name that have none or another one's; returns how many."""
    taken, numbers, count = set[str](), Counter[str](), 0
    every = nodes_everywhere(model.graph)
    names = {node.name for node in every}
    for node in every:
        if not node.name or node.name in taken:
            while (name := f"{node.op_type}_{numbers[node.op_type]}") in names:
                numbers[node.op_type] += 1
            node.name = name
            names.add(name)
            count += 1
        taken.add(node.name)
    return count


def drop_passing(model: ModelProto) -> int:
    """Remove Identity, Dropout outside of training, and Cast to the type that a value has.

    They stay where their result is an output, and a Cast where that type is not known.
    """
    graph, nodes = Graph(model), model.graph.node
    results = {value.name for value in model.graph.output}
    inner = {name for body in list(graphs(model.graph))[1:] for name in _defined(body)}
    renamed: dict[str, str] = {}
    kept = list[NodeProto]()
    for node in nodes:
        fixed = {*node.output} & results or {*node.output, *node.input} & inner
        if _passes(graph, node) and not fixed:
            renamed[node.output[0]] = renamed.get(node.input[0], node.input[0])
        else:
            kept.append(copied(node))
    if renamed:
        del nodes[:]
        nodes.extend(kept)
        for body in graphs(model.graph):
            _rename(body, renamed)
    return len(renamed)


def _defined(graph: GraphProto) -> set[str]:
    names = {record.name for record in (*graph.input, *graph.initializer)}
    return names | {name for node in graph.node for name in node.output}


def _passes(graph: Graph, node: NodeProto) -> bool:
    if node.domain not in ("", "ai.onnx") or node.op_type not in ("Identity", "Dropout", "Cast"):
        return False
    if node.op_type == "Identity":
        return True
    if node.op_type == "Cast":
        return graph.data_type(node.input[0]) == int(attributes(node)["to"])
    if len(node.output) > 1 and node.output[1] and graph.is_read(node.output[1]):
        return False
    mode = node.input[2] if len(node.input) > 2 else ""
    training = graph.constant(mode)
    return not mode or (training is not None and not training.any())


def _rename(graph: GraphProto, names: dict[str, str]) -> None:
    for node in graph.node:
        node.input[:] = [names.get(name, name) for name in node.input]
    for value in graph.output:
        value.name = names.get(value.name, value.name)

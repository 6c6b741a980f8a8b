"""A graph of fp16 numbers as one of fp32, which CPUs multiply faster and quantizers can read.

onnxruntime has hardly any fp16 kernel for the CPU: each node computes in fp32 between two casts.
Its quantizers find no weight in fp16, and `DynamicQuantizeLinear` takes no such activations.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np
from onnx import (
    AttributeProto,
    GraphProto,
    ModelProto,
    NodeProto,
    TensorProto,
    TypeProto,
    ValueInfoProto,
    helper,
    numpy_helper,
)

from compress.export.bodies import graphs
from compress.quantization.editing import Array
from compress.quantization.scopes import all_names, fresh_name, rename, unique_names

_FP16, _FP32 = TensorProto.FLOAT16, TensorProto.FLOAT
#: Attributes that name the type of a result, or one to compute in.
_TYPES = {"to", "dtype", "output_dtype", "output_datatype", "stash_type"}
_TYPES |= {"precision", "softmax_precision"}
#: Numbers that GELU, HardSwish and HardSigmoid in pieces are known by, and fp16 has none of.
_MEANT = (math.sqrt(2), math.sqrt(0.5), math.sqrt(2 / math.pi), 0.044715, 1 / 6, 0.2)


def computes_in_fp16(model: ModelProto) -> bool:
    """Whether anything but the edge of a graph is fp16; see `widen`."""
    return _Halves(model.graph).count > 0


def widen(model: ModelProto) -> int:
    """Let a graph compute in fp32 what it computes in fp16, in place.

    Inputs and outputs keep their types: a Cast stands behind such an input and in front of such an
    output, also where an input is a weight that callers may replace. Casts inside that have nothing
    left to do are for `drop_passing`, which needs the types of all values. bf16 stays.

    Returns:
        How many tensors, types that nodes name, inputs and outputs were fp16. Those at the edge of
        a graph that computes in fp32 do not count.
    """
    halves = _Halves(model.graph)
    if not halves.count:
        return 0
    for tensor in halves.tensors:
        values = _meant(numpy_helper.to_array(tensor)).astype(np.float32)
        tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
    for entry in halves.types:
        entry.i = _FP32
    for graph in graphs(model.graph):
        graph.ClearField("value_info")
        if graph is not model.graph:
            for value in (*graph.input, *graph.output):
                _widen_type(value.type)
    unique_names(model)
    _cast(model, halves.inputs, halves.outputs)
    return halves.count


def _meant(values: Array) -> Array:
    """A number alone as what it was before it was rounded to fp16, where that is a known one."""
    known = [number for number in _MEANT if values.size == 1 and np.float16(number) == values]
    return np.full_like(values, known[0], np.float32) if known else values


def _cast(model: ModelProto, inputs: list[str], outputs: list[str]) -> None:
    """Put a Cast between the graph and each of these inputs and outputs."""
    graph, taken = model.graph, all_names(model)
    names = {name: fresh_name(f"{name}_fp32", taken) for name in (*inputs, *outputs)}
    rename(graph, names)
    declared = {names[name]: name for name in names}
    defaults = {names[name]: name for name in inputs}
    for value in (*graph.input, *graph.output):
        value.name = declared.get(value.name, value.name)
    for tensor in graph.initializer:
        tensor.name = defaults.get(tensor.name, tensor.name)
    for place, name in enumerate(inputs):
        graph.node.insert(place, helper.make_node("Cast", [name], [names[name]], to=_FP32))
    graph.node.extend(helper.make_node("Cast", [names[name]], [name], to=_FP16) for name in outputs)


class _Halves:
    """What of a graph and its bodies is fp16.

    Attributes:
        tensors: constants, but for the default values of inputs.
        types: attributes that name it; not those of a cast to an output that nothing else reads.
        inputs: names of those that more than casts read.
        outputs: names of those that such a cast does not make; no input passed on.
        count: of all these.
    """

    def __init__(self, graph: GraphProto) -> None:
        inner = list(graphs(graph))[1:]
        nodes = [node for each in (graph, *inner) for node in each.node]
        returned = {value.name for body in inner for value in body.output}
        read = {name for node in nodes for name in node.input} | returned
        computed = {name for node in nodes if not _is_cast(node) for name in node.input} | returned
        given = {value.name for value in graph.input}
        casts = {node.output[0] for node in graph.node if _is_cast(node)}
        edges = {value.name for value in graph.output} & casts - read
        changed = [node for node in graph.node if edges.isdisjoint(node.output)]
        changed += [node for body in inner for node in body.node]
        entries = [entry for node in changed for entry in node.attribute]
        constants = [tensor for tensor in graph.initializer if tensor.name not in given]
        constants += [tensor for body in inner for tensor in body.initializer]
        constants += [entry.values for each in (graph, *inner) for entry in each.sparse_initializer]
        constants += [tensor for entry in entries for tensor in _values(entry)]
        self.tensors = [tensor for tensor in constants if tensor.data_type == _FP16]
        self.types = [entry for entry in entries if _names_fp16(entry)]
        self.inputs = [name for name in _fp16_names(graph.input) if name in computed]
        self.outputs = [name for name in _fp16_names(graph.output) if name not in edges | given]
        self.count = sum(map(len, (self.tensors, self.types, self.inputs, self.outputs)))


def _values(entry: AttributeProto) -> tuple[TensorProto, ...]:
    return entry.t, *entry.tensors, entry.sparse_tensor.values


def _names_fp16(entry: AttributeProto) -> bool:
    return entry.name in _TYPES and entry.type == AttributeProto.INT and entry.i == _FP16


def _is_cast(node: NodeProto) -> bool:
    return node.op_type == "Cast" and node.domain in ("", "ai.onnx")


def _fp16_names(values: Iterable[ValueInfoProto]) -> list[str]:
    return [value.name for value in values if value.type.tensor_type.elem_type == _FP16]


def _widen_type(kind: TypeProto) -> None:
    """The type of a value of a body."""
    parts = (kind, kind.sequence_type.elem_type, kind.optional_type.elem_type)
    for tensor in (part.tensor_type for part in parts):
        if tensor.elem_type == _FP16:
            tensor.elem_type = _FP32

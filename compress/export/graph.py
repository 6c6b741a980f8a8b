"""What an ONNX graph consists of, and how it is kept small."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from onnx import GraphProto, ModelProto, NodeProto, TensorProto

from compress.export.bodies import bodies, graphs
from compress.export.float_types import FLOATS, float_types

RECURRENT = {"LSTM", "GRU", "RNN"}
#: Operators that do the work; the rest moves, scales or bends values.
COMPUTING = {"Conv", "ConvTranspose", "Gemm", "MatMul"} | RECURRENT
#: All that `operators` may count: attention stays in fp32, and an embedding is stored in integers.
OPERATOR_TYPES = COMPUTING | {"Attention", "Einsum", "Gather"}
_INTEGERS = (TensorProto.INT8, TensorProto.UINT8)
_DYNAMIC = {
    "ConvInteger": "Conv",
    "MatMulInteger": "MatMul",
    "DynamicQuantizeMatMul": "MatMul",
    "MatMulIntegerToFloat": "MatMul",
    "DynamicQuantizeLSTM": "LSTM",
}
#: In blocks of 4 bits; the activations become int8 in each call.
_BLOCKS = {"MatMulNBits": "MatMul", "GatherBlockQuantized": "Gather"}
#: What reads parts of a table.
_READING = ("Gather", "GatherND")
#: The inputs that can be weights; the second and third where left out.
_WEIGHTS = {"MatMul": (0, 1), "Einsum": (0, 1), "Gather": (0,), "GatherND": (0,)}
#: What makes fp32 of integers keeps their shape.
_RESTORING = ("DequantizeLinear", "Cast", "Mul")


def operators(model: ModelProto) -> dict[str, dict[str, int]]:
    """For each type of computing operator, how many nodes run in which precision.

    A node is "int8 (static)" where its inputs come out of DequantizeLinear (QDQ, which runtimes
    fuse), "int8 (dynamic)" where it is an integer operator, and "fp32, int8 weights" where only its
    weights are stored as integers; so is a Gather from an embedding, which counts only then. What
    stands in the body of a loop counts once.
    """
    found: dict[str, Counter[str]] = defaultdict(Counter)
    for entry in computing_nodes(model):
        found[entry.kind][entry.precision] += 1
    return {kind: dict(counts) for kind, counts in sorted(found.items())}


@dataclass(frozen=True)
class Computing:
    """A node that computes.

    Attributes:
        kind: the operator that it stands for.
        precision: see `operators`.
        path: of the bodies that it stands in, such as "If_0/then_branch/"; empty outside of any.
        weights: shape of each of its weights, also where they are stored as integers.
        on_left: whether it is a product whose weights are its first operand.
    """

    node: NodeProto
    kind: str
    precision: str
    path: str = ""
    weights: tuple[tuple[int, ...], ...] = ()
    on_left: bool = False


def computing_nodes(model: ModelProto, *, tables: bool = False) -> list[Computing]:
    """Every computing node in the graph's order, those in bodies where these stand.

    Args:
        tables: also what reads parts of a constant in fp32; it computes nothing.
    """
    every = _computing(model.graph, _Scope({}, {}, {}), "", float_types(model))
    return [entry for entry in every if tables or not _is_fp32_table(entry)]


def _is_fp32_table(entry: Computing) -> bool:
    return entry.kind in _READING and "int" not in entry.precision


@dataclass(frozen=True)
class _Scope:
    """What is known of the values that a graph sees, by name; a body's own hide outer ones."""

    made_by: dict[str, NodeProto]
    types: dict[str, int]
    shapes: dict[str, tuple[int, ...]]

    def within(self, graph: GraphProto) -> _Scope:
        """The scope of a graph that stands in this one."""
        own = {value.name for value in graph.input}
        own |= {name for node in graph.node for name in node.output}
        scope = _Scope(*({k: v for k, v in part.items() if k not in own} for part in self._parts()))
        scope.made_by.update({name: node for node in graph.node for name in node.output})
        for name, tensor in _constants(graph):
            scope.made_by.pop(name, None)
            scope.types[name] = tensor.data_type
            scope.shapes[name] = tuple(tensor.dims)
        for node in graph.node:
            constant = all(name in scope.shapes for name in node.input if name)
            if node.op_type in _RESTORING and constant:
                scope.shapes[node.output[0]] = scope.shapes[node.input[0]]
        return scope

    def _parts(self) -> tuple[dict[str, Any], ...]:
        return self.made_by, self.types, self.shapes


def _constants(graph: GraphProto) -> Iterator[tuple[str, TensorProto]]:
    for tensor in graph.initializer:
        yield tensor.name, tensor
    for node in graph.node:
        if node.op_type == "Constant" and node.attribute and node.attribute[0].name == "value":
            yield node.output[0], node.attribute[0].t


def _computing(
    graph: GraphProto, outer: _Scope, path: str, floats: Mapping[str, str]
) -> Iterator[Computing]:
    scope = outer.within(graph)
    for node in graph.node:
        kind, found = _kind(node, scope)
        found = floats.get(node.input[0], found) if found == "fp32" else found
        if kind:
            places = _WEIGHTS.get(kind, (1, 2))
            names = [node.input[place] for place in places if place < len(node.input)]
            weights = [scope.shapes[name] for name in names if name in scope.shapes]
            on_left = kind == "MatMul" and names[0] in scope.shapes
            yield Computing(node, kind, found, path, tuple(weights), on_left)
        for name, body in bodies(node):
            inner = f"{path}{node.name or node.output[0]}/{name}/"
            yield from _computing(body, scope, inner, floats)


def _kind(node: NodeProto, scope: _Scope) -> tuple[str, str]:
    """The operator that a node stands for and its precision; empty for what does not compute."""
    if node.op_type in _DYNAMIC:
        return _DYNAMIC[node.op_type], "int8 (dynamic)"
    if node.op_type.startswith("QLinear") and node.op_type[7:] in COMPUTING:
        return node.op_type[7:], "int8 (static)"
    if node.op_type in COMPUTING:
        return node.op_type, _precision(node, scope.made_by, scope.types)
    if node.op_type in _BLOCKS:
        return _BLOCKS[node.op_type], "int4 weights"
    if node.op_type in _READING:
        return _table(node, scope)
    # The inputs of attention may come from int8; it computes in fp32. So does an Einsum.
    found = "fp32" if node.op_type in ("Attention", "Einsum") else ""
    return (node.op_type if found else ""), found


def _table(node: NodeProto, scope: _Scope) -> tuple[str, str]:
    """The same for what reads parts of a constant."""
    stored = scope.types.get(node.input[0])
    if stored in _INTEGERS:
        return ("Gather", "fp32, int8 weights") if node.op_type == "Gather" else ("", "")
    return (node.op_type, "fp32") if stored == TensorProto.FLOAT else ("", "")


def _precision(node: NodeProto, made_by: dict[str, NodeProto], types: dict[str, int]) -> str:
    origins = [made_by.get(name) for name in node.input[:2]]
    kinds = [origin.op_type if origin else "" for origin in origins]
    if kinds == ["DequantizeLinear", "DequantizeLinear"] and node.op_type not in RECURRENT:
        return "int8 (static)"
    if kinds[1:] == ["DequantizeLinear"]:
        return "fp32, int8 weights"
    # A recurrent node has two weights; that of the input can be too small to be int8.
    weights = node.input[1:3] if node.op_type in RECURRENT else node.input[1:2]
    if any(_is_stored_int8(made_by.get(name), made_by, types) for name in weights):
        return "fp32, int8 weights"
    return FLOATS.get(types.get(node.input[1], TensorProto.FLOAT), "fp32")


def _is_stored_int8(
    node: NodeProto | None, made_by: dict[str, NodeProto], types: dict[str, int]
) -> bool:
    """Whether a node is Cast(int8 constant) · scale; attention scales by Mul as well."""
    if node is None or node.op_type != "Mul":
        return False
    cast = made_by.get(node.input[0])
    if cast is None or cast.op_type != "Cast":
        return False
    return types.get(cast.input[0]) in _INTEGERS


def precision(counts: dict[str, dict[str, int]]) -> str:
    """Precision of most of the computing operators; "fp32" for a graph without any.

    Static and dynamic int8 in one graph are both named, and beside fp32 where that is in most: the
    one LSTM may be the work. An embedding has a say only where there is nothing else.
    """
    total: Counter[str] = Counter()
    for kind, by_precision in counts.items():
        if kind != "Gather" or len(counts) == 1:
            total.update(by_precision)
    kinds = [kind for kind in ("static", "dynamic") if total[f"int8 ({kind})"]]
    int8 = f"int8 ({', '.join(kinds)})"
    most = total.most_common(1)[0][0] if total else "fp32"
    if most == "fp32" and kinds:
        return f"{int8}, fp32"
    return int8 if len(kinds) == 2 else most


def strip(model: ModelProto) -> ModelProto:
    """Remove what only a debugger reads: doc strings, source positions, inferred shapes; in place.

    In a small model they are a fifth of the file.
    """
    for graph in graphs(model.graph):
        for record in (graph, *graph.node, *graph.initializer, *graph.input, *graph.output):
            record.ClearField("doc_string")
            record.ClearField("metadata_props")
        graph.ClearField("value_info")
    model.ClearField("doc_string")
    model.ClearField("metadata_props")
    return model


def shorten_names(model: ModelProto) -> ModelProto:
    """Give inner values short names, in place; inputs, outputs and nodes keep theirs.

    A quantized graph has four named values a layer: in a small model half of the file is names.
    """
    graph = model.graph
    kept = {value.name for value in (*graph.input, *graph.output)} | {""}
    names: dict[str, str] = {}

    def short(name: str) -> str:
        if name in kept:
            return name
        if name not in names:
            fresh = _letters(len(names))
            while fresh in kept:
                fresh += "_"
            names[name] = fresh
        return names[name]

    for inner in graphs(graph):  # the same names everywhere, as bodies read outer values
        for node in inner.node:
            node.input[:] = [short(name) for name in node.input]
            node.output[:] = [short(name) for name in node.output]
        for record in (*inner.input, *inner.output, *inner.initializer):
            record.name = short(record.name)
        for sparse in inner.sparse_initializer:
            sparse.values.name = short(sparse.values.name)
        inner.ClearField("value_info")
    return model


def _letters(number: int) -> str:
    digits = "abcdefghijklmnopqrstuvwxyz"
    text = digits[number % 26]
    while number := number // 26:
        text += digits[number % 26]
    return text


def open_dimensions(model: ModelProto) -> list[str]:
    """The dimensions behind the batch that the inputs leave open, such as "time of tokens"."""
    weights = {entry.name for entry in model.graph.initializer}
    return [
        f"{size.dim_param or place} of {given.name}"
        for given in model.graph.input
        if given.name not in weights
        for place, size in enumerate(given.type.tensor_type.shape.dim)
        if place > 0 and not size.HasField("dim_value")
    ]

"""What an ONNX graph consists of, and how it is kept small."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path

import onnx
from onnx import GraphProto, ModelProto, NodeProto, TensorProto

from compress.errors import ModelFileError, first_line

RECURRENT = {"LSTM", "GRU", "RNN"}
#: Operators that do the work; the rest moves, scales or bends values.
COMPUTING = {"Conv", "ConvTranspose", "Gemm", "MatMul"} | RECURRENT
#: All that `operators` may count: attention stays in fp32, and an embedding is stored in integers.
OPERATOR_TYPES = COMPUTING | {"Attention", "Gather"}
_INTEGERS = (TensorProto.INT8, TensorProto.UINT8)
_DYNAMIC = {
    "ConvInteger": "Conv",
    "MatMulInteger": "MatMul",
    "DynamicQuantizeMatMul": "MatMul",
    "MatMulIntegerToFloat": "MatMul",
    "DynamicQuantizeLSTM": "LSTM",
}
#: What makes no floating-point number of one.
_TELLING = {"Shape", "Size", "ArgMax", "ArgMin", "NonZero", "Equal", "Less", "Greater", "IsNaN"}
_TELLING |= {"LessOrEqual", "GreaterOrEqual", "IsInf", "QuantizeLinear", "DynamicQuantizeLinear"}
#: In blocks of 4 bits; the activations become int8 in each call.
_BLOCKS = {"MatMulNBits": "MatMul", "GatherBlockQuantized": "Gather"}
_FLOATS: dict[int, str] = {
    TensorProto.FLOAT: "fp32",
    TensorProto.FLOAT16: "fp16",
    TensorProto.BFLOAT16: "bf16",
}


def load_onnx(path: Path) -> ModelProto:
    """Read and check an ONNX file.

    Raises:
        ModelFileError: it is missing, damaged, or not a valid model.
    """
    try:
        model = onnx.load(path)
        onnx.checker.check_model(model)
    except FileNotFoundError:
        raise ModelFileError(f"{path}: no such file; expected an ONNX model.") from None
    except Exception as error:  # protobuf's and onnx's errors share no base
        raise ModelFileError(f"{path}: not a valid ONNX model: {first_line(error)}") from None
    if not model.graph.node:
        raise ModelFileError(f"{path}: the graph has no nodes; expected a trained model.")
    return model


def operators(model: ModelProto) -> dict[str, dict[str, int]]:
    """For each type of computing operator, how many nodes run in which precision.

    A node is "int8 (static)" where its inputs come out of DequantizeLinear (QDQ, which runtimes
    fuse), "int8 (dynamic)" where it is an integer operator, and "fp32, int8 weights" where only its
    weights are stored as integers; so is a Gather from an embedding, which counts only then. What
    stands in the body of a loop counts once.
    """
    found: dict[str, Counter[str]] = defaultdict(Counter)
    for _, kind, precision in computing_nodes(model):
        found[kind][precision] += 1
    return {kind: dict(counts) for kind, counts in sorted(found.items())}


def computing_nodes(model: ModelProto) -> Iterator[tuple[NodeProto, str, str]]:
    """Every computing node, the operator that it stands for, and its precision, see `operators`."""
    nodes = list(_nodes(model.graph))
    made_by = {output: node for node in nodes for output in node.output}
    types = {tensor.name: tensor.data_type for tensor in model.graph.initializer}
    floats = _float_types(model)
    for node in nodes:
        if node.op_type in _DYNAMIC:
            yield node, _DYNAMIC[node.op_type], "int8 (dynamic)"
        elif node.op_type.startswith("QLinear") and node.op_type[7:] in COMPUTING:
            yield node, node.op_type[7:], "int8 (static)"
        elif node.op_type in COMPUTING:
            found = _precision(node, made_by, types)
            yield node, node.op_type, floats.get(node.input[0], found) if found == "fp32" else found
        elif node.op_type in _BLOCKS:
            yield node, _BLOCKS[node.op_type], "int4 weights"
        elif node.op_type == "Attention":  # its inputs may come from int8; it computes in floats
            yield node, "Attention", floats.get(node.input[0], "fp32")
        elif node.op_type == "Gather" and types.get(node.input[0]) in _INTEGERS:
            yield node, "Gather", "fp32, int8 weights"


def _float_types(model: ModelProto) -> dict[str, str]:
    """The values that are fp16 or bf16; what a node makes is of the type of what it takes."""
    found = dict[str, str | None]()
    for graph in _graphs(model.graph):
        for tensor in graph.initializer:
            found[tensor.name] = _FLOATS.get(tensor.data_type)
        for value in graph.input:
            found[value.name] = _FLOATS.get(value.type.tensor_type.elem_type)
    for node in _nodes(model.graph):
        if node.op_type in ("Cast", "ConstantOfShape", "Constant"):
            kinds = [_FLOATS.get(entry.i or entry.t.data_type) for entry in node.attribute]
        else:
            kinds = [found.get(name) for name in node.input]
        kind = next(filter(None, kinds), None)
        if kind is not None and node.op_type not in _TELLING:
            found |= dict.fromkeys(node.output, kind)
    return {name: kind for name, kind in found.items() if kind and kind != "fp32"}


def _nodes(graph: GraphProto) -> Iterator[NodeProto]:
    """All nodes, those inside of If, Loop and Scan, too."""
    for each in _graphs(graph):
        yield from each.node


def _graphs(graph: GraphProto) -> Iterator[GraphProto]:
    """A graph, and the bodies inside of it."""
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            for body in (attribute.g, *attribute.graphs):
                yield from _graphs(body)


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
    return _FLOATS.get(types.get(node.input[1], TensorProto.FLOAT), "fp32")


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
    graph = model.graph
    for record in (model, graph, *graph.node, *graph.initializer, *graph.input, *graph.output):
        record.ClearField("doc_string")
        record.ClearField("metadata_props")
    graph.ClearField("value_info")
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

    if any(attribute.g.node or attribute.graphs for n in graph.node for attribute in n.attribute):
        return model  # the bodies of If and Loop see outer names
    for node in graph.node:
        node.input[:] = [short(name) for name in node.input]
        node.output[:] = [short(name) for name in node.output]
    for tensor in graph.initializer:
        tensor.name = short(tensor.name)
    graph.ClearField("value_info")
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

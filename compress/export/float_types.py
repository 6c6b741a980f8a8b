"""Which values of a graph are fp16 or bf16."""

from __future__ import annotations

from onnx import ModelProto, TensorProto

from compress.export.bodies import graphs, nodes_everywhere

#: Types of floating-point numbers by what they are called.
FLOATS: dict[int, str] = {
    TensorProto.FLOAT: "fp32",
    TensorProto.FLOAT16: "fp16",
    TensorProto.BFLOAT16: "bf16",
}
#: What makes no floating-point number of one.
_TELLING = {"Shape", "Size", "ArgMax", "ArgMin", "NonZero", "Equal", "Less", "Greater", "IsNaN"}
_TELLING |= {"LessOrEqual", "GreaterOrEqual", "IsInf", "QuantizeLinear", "DynamicQuantizeLinear"}


def float_types(model: ModelProto) -> dict[str, str]:
    """The values that are fp16 or bf16; what a node makes is of the type of what it takes."""
    found = dict[str, str | None]()
    for graph in graphs(model.graph):
        for tensor in graph.initializer:
            found[tensor.name] = FLOATS.get(tensor.data_type)
        for value in graph.input:
            found[value.name] = FLOATS.get(value.type.tensor_type.elem_type)
    for node in nodes_everywhere(model.graph):
        if node.op_type in ("Cast", "ConstantOfShape", "Constant"):
            kinds = [FLOATS.get(entry.i or entry.t.data_type) for entry in node.attribute]
        else:
            kinds = [found.get(name) for name in node.input]
        kind = next(filter(None, kinds), None)
        if kind is not None and node.op_type not in _TELLING:
            found |= dict.fromkeys(node.output, kind)
    return {name: kind for name, kind in found.items() if kind and kind != "fp32"}

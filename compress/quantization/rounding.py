"""Which nodes read a value as a quantizer rounded it, and which as it was before."""

from __future__ import annotations

from collections.abc import Mapping

from onnx import GraphProto, ModelProto, NodeProto
from onnxruntime.quantization.registry import QLinearOpsRegistry

from compress.export.bodies import bodies
from compress.quantization.scopes import captured, rename, sort_nodes

#: Operators whose sums onnxruntime gives in fp32 as fast as in int8. What reads them, such as a
#: normalization, is as a rule fp32 itself; what is not rounds them as its own input.
UNROUNDED = ("Gemm", "MatMul")
#: Operators that have an int8 kernel of their own, whose results are rounded.
_CAN_BE_INT8 = frozenset(QLinearOpsRegistry) - frozenset(UNROUNDED)
_ROUNDING = ("QuantizeLinear", "DequantizeLinear")


def read_unrounded(model: ModelProto, kinds: frozenset[str], kept: frozenset[str]) -> None:
    """Let nodes that stay fp32 read what a node in fp32 gives, as it was before it was rounded.

    onnxruntime's quantizer rounds a value for all that read it: the residual beside a product, too.
    What could be int8 itself stays rounded for all: a fp32 reader would keep it from that.
    """
    made = {name: node for node in model.graph.node for name in node.output}
    for node in model.graph.node:
        if node.op_type in (*kinds, *_ROUNDING) and node.name not in kept:
            continue
        for place, name in enumerate(node.input):
            source = _before_rounding(made, name)
            maker = made.get(source)
            if source and (maker is None or maker.op_type not in _CAN_BE_INT8):
                node.input[place] = source


def read_rounded(graph: GraphProto) -> None:
    """Let bodies read what an int8 node of the graph around them gives as it was rounded.

    Read as it was before, it would keep that node in fp32.
    """
    made = {name: node for node in graph.node for name in node.output}
    rounded = {_before_rounding(made, name): name for name in made}
    rounded = {
        source: name
        for source, name in rounded.items()
        if source in made and made[source].op_type in _CAN_BE_INT8
    }
    for node in graph.node:
        for _, body in bodies(node):
            rename(body, {name: rounded[name] for name in captured(body) & rounded.keys()})
    sort_nodes(graph)


def _before_rounding(made: Mapping[str, NodeProto], name: str) -> str:
    """What QuantizeLinear and DequantizeLinear made a value from; empty where they did not."""
    for kind in reversed(_ROUNDING):
        node = made.get(name)
        if node is None or node.op_type != kind:
            return ""
        name = node.input[0]
    return name

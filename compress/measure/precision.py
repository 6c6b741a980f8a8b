"""What a node computes in, from its type and its tensors, as the runtime's profiler tells them.

The runtime rewrites a graph before it runs it, so these are its operators and not those of the
file; `compress.export.graph.operators` tells the same of a file.
"""

from __future__ import annotations

from collections.abc import Sequence

from compress.report.profile_schema import CONVERSION

#: Type and sizes of a tensor.
Tensor = tuple[str, Sequence[int]]

_FLOATS = {"float": "fp32", "float16": "fp16", "bfloat16": "bf16", "double": "fp64"}
_INT8 = {"int8", "uint8"}
_STATIC = {"QGemm", "QAttention", "QEmbedLayerNormalization"}
_DYNAMIC = {
    "ConvInteger",
    "MatMulInteger",
    "MatMulInteger16",
    "MatMulIntegerToFloat",
    "DynamicQuantizeMatMul",
    "DynamicQuantizeLSTM",
}
_BLOCKS = {"MatMulNBits", "GatherBlockQuantized"}
_CONVERSIONS = {"QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear"}
_CONTROL = {"Loop", "If", "Scan"}


def node_precision(operator: str, inputs: Sequence[Tensor], outputs: Sequence[Tensor]) -> str:
    """The precision of one node, see `compress.report.profile_schema.ProfiledNode`."""
    fixed = {
        **dict.fromkeys(_STATIC, "int8 (static)"),
        **dict.fromkeys(_DYNAMIC, "int8 (dynamic)"),
        **dict.fromkeys(_BLOCKS, "int4 weights"),
        **dict.fromkeys(_CONVERSIONS, CONVERSION),
        **dict.fromkeys(_CONTROL, "control flow"),
    }
    if operator in fixed:
        return fixed[operator]
    if operator.startswith("QLinear"):
        return "int8 (static)"
    kinds_in, kinds_out = [kind for kind, _ in inputs], [kind for kind, _ in outputs]
    if operator == "Cast" and bool(_INT8 & {*kinds_in}) != bool(_INT8 & {*kinds_out}):
        return CONVERSION
    # A shape that is read off a float tensor, or a comparison, is no float arithmetic.
    moved = [kind for kind in kinds_out if kind in _FLOATS or kind in _INT8]
    if moved:
        return _FLOATS.get(moved[0], "int8")
    return "integers"


def tensor_text(kind: str, sizes: Sequence[int]) -> str:
    """A tensor's type and shape, such as `fp32 2×8×192`; a scalar has no sizes."""
    shape = "×".join(map(str, sizes))
    return f"{_FLOATS.get(kind, kind)} {shape or 'scalar'}"

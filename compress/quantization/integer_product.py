"""A product with a constant matrix in int8, whose other side each call quantizes by its range."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from onnx import NodeProto

from compress.quantization.editing import MICROSOFT, Converter, Edit, attributes
from compress.quantization.weight_only import quantize_symmetric

#: Values of a weight below which int8 costs a product more than it saves: 128 × 64 of them lose a
#: little with one row and gain with 32, half as many lose with both.
LEAST_PRODUCT = 8192


def add_product(
    edit: Edit,
    x: str,
    name: str,
    weight: npt.NDArray[np.float32],
    bias: str = "",
    output: str | None = None,
    *,
    per_channel: bool = True,
) -> str:
    """Add x · weight + bias with int8 weights; returns the name of the result.

    Args:
        x: (…, in), fp32.
        name: of the weight, under which its int8 values are stored once.
        weight: (in, out).
        bias: name of a constant (out,); empty for none.
        per_channel: a scale for each column of the weight instead of one for all.
    """
    values, scale = quantize_symmetric(weight, 1 if per_channel else ())
    stored = edit.constant(f"{name}_int8", values)
    scales = edit.constant(f"{name}_scale", scale.ravel() if per_channel else scale.max())
    inputs = [x, stored, scales, "", bias] if bias else [x, stored, scales]
    return edit.add("DynamicQuantizeMatMul", inputs, output, domain=MICROSOFT)


def product_converters(least: int, *, per_channel: bool) -> dict[str, Converter]:
    """Converters of MatMul and Gemm with a constant of so many values or more, and their bias."""
    absorbed: set[str] = set()

    def convert(edit: Edit, node: NodeProto) -> bool:
        weight = _matrix(edit, node)
        if weight is None or weight.size < least:
            return False
        name, output = node.input[1], node.output[0]
        if node.op_type == "Gemm":
            name += "_transposed" if attributes(node).get("transB", 0) else ""
            bias = node.input[2] if len(node.input) > 2 else ""
        else:
            bias, output = _added(edit, node, weight.shape[1])
            absorbed.add(output)
        add_product(edit, node.input[0], name, weight, bias, output, per_channel=per_channel)
        return True

    def skip(edit: Edit, node: NodeProto) -> bool:
        return node.output[0] in absorbed

    return {"MatMul": convert, "Gemm": convert, "Add": skip}


def _matrix(edit: Edit, node: NodeProto) -> npt.NDArray[np.float32] | None:
    """The constant right side of a product as (in, out); None where the product is another one."""
    weight, found = edit.weight(node.input[1]), attributes(node)
    if weight is None or weight.ndim != 2:
        return None
    if node.op_type == "MatMul":
        return weight
    bias = edit.weight(node.input[2]) if len(node.input) > 2 and node.input[2] else None
    if found.get("transB", 0):
        weight = weight.T
    plain = not found.get("transA", 0) and found.get("alpha", 1) == found.get("beta", 1) == 1
    without = len(node.input) < 3 or not node.input[2]
    fits = without or (bias is not None and bias.shape == (weight.shape[1],))
    return weight if plain and fits else None


def _added(edit: Edit, node: NodeProto, width: int) -> tuple[str, str]:
    """The bias that is added to a product alone, and where the sum goes; else ("", its output)."""
    user = edit.only_user(node.output[0])
    if user is not None and user.op_type == "Add":
        other = user.input[1] if user.input[0] == node.output[0] else user.input[0]
        bias = edit.weight(other)
        if bias is not None and bias.shape == (width,):
            return other, user.output[0]
    return "", node.output[0]

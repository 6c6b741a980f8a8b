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
        weight: (…, in, out); several matrices are multiplied as by MatMul.
        bias: name of a constant (out,); empty for none.
        per_channel: a scale for each column of each matrix instead of one for all.
    """
    columns = tuple(axis for axis in range(weight.ndim) if axis != weight.ndim - 2)
    values, scale = quantize_symmetric(weight, columns if per_channel else ())
    if not per_channel or weight.ndim == 2:
        scale = scale.ravel() if per_channel else scale.max()
    stored = edit.constant(f"{name}_int8", values)
    scales = edit.constant(f"{name}_scale", scale)
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
        computed = ""
        if node.op_type == "Gemm":
            name += "_transposed" if attributes(node).get("transB", 0) else ""
            bias = node.input[2] if len(node.input) > 2 else ""
            if edit.weight(bias) is None:
                bias, computed = "", bias
        else:
            bias, output = _added(edit, node, weight.shape[-1])
            absorbed.add(output)
        result = None if computed else output
        product = add_product(
            edit, node.input[0], name, weight, bias, result, per_channel=per_channel
        )
        edit.nodes[-1].name = node.name
        if computed:
            edit.add("Add", [product, computed], output)
        return True

    def skip(edit: Edit, node: NodeProto) -> bool:
        return node.output[0] in absorbed

    return {"MatMul": convert, "Gemm": convert, "Add": skip}


def _matrix(edit: Edit, node: NodeProto) -> npt.NDArray[np.float32] | None:
    """The constant right side of a product, (…, in, out); None where the product is another one.

    A Gemm has to be plain, as `rewriting.gemms` makes it.
    """
    weight, found = edit.weight(node.input[1]), attributes(node)
    if weight is None or weight.ndim < 2:
        return None
    if node.op_type == "MatMul":
        return weight
    bias = edit.weight(node.input[2]) if len(node.input) > 2 and node.input[2] else None
    if found.get("transB", 0):
        weight = weight.T
    plain = not found.get("transA", 0) and found.get("alpha", 1) == found.get("beta", 1) == 1
    fits = bias is None or bias.shape == (weight.shape[1],)
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

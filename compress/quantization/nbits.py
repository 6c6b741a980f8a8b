"""Weights of 4 bits in blocks, by onnxruntime's MatMulNBits and GatherBlockQuantized.

The smallest file there is: with its share of a scale a weight takes 5 bits. Every 32 of a column
share one, and a call quantizes activations to int8 in such blocks, too. It is slower than dynamic
int8 (`benchmarks/transformer_int8.py`); 8 bits in blocks were, too, in a file of int8's size.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
from onnx import NodeProto

from compress.quantization.editing import MICROSOFT, Edit, rewrite
from compress.quantization.rewriting.files import save
from compress.quantization.weight_only import is_table

#: Values that share a scale.
BLOCK = 32
#: Activations are quantized to int8, so that a product is one of integers.
_INT8_ACTIVATIONS = 4
#: Smaller matrices, such as that of two classes, stay fp32.
_LEAST_VALUES = 2048


def quantize_4bit(source: Path, target: Path) -> int:
    """Write a copy of an ONNX file whose products and embeddings have 4 bits; needs no data.

    Returns:
        How many products and embeddings were quantized.
    """
    model = onnx.load(source)
    count = rewrite(model, {"MatMul": _convert_product, "Gather": _convert_table})
    save(model, target)
    return count


def _convert_product(edit: Edit, node: NodeProto) -> bool:
    x, name = node.input
    weight = edit.weight(name)
    if weight is None or weight.ndim != 2 or weight.size < _LEAST_VALUES:
        return False
    packed, scale = pack_blocks(weight.T)
    stored = edit.constant(f"{name}_int4", packed.reshape(*scale.shape, BLOCK // 2))
    scales = edit.constant(f"{name}_int4_scale", scale)
    numbers = {"K": weight.shape[0], "N": weight.shape[1], "bits": 4, "block_size": BLOCK}
    edit.add(
        "MatMulNBits",
        [x, stored, scales],
        node.output[0],
        domain=MICROSOFT,
        accuracy_level=_INT8_ACTIVATIONS,
        **numbers,
    )
    return True


def _convert_table(edit: Edit, node: NodeProto) -> bool:
    name = node.input[0]
    table = edit.weight(name)
    if table is None or table.ndim != 2 or not is_table(edit, node) or table.shape[1] % 2:
        return False
    packed, scale = pack_blocks(table)
    stored = edit.constant(f"{name}_rows_int4", packed[:, : table.shape[1] // 2])
    scales = edit.constant(f"{name}_rows_int4_scale", scale)
    numbers = {"gather_axis": 0, "quantize_axis": 1, "bits": 4, "block_size": BLOCK}
    inputs = [stored, node.input[1], scales]
    edit.add("GatherBlockQuantized", inputs, node.output[0], domain=MICROSOFT, **numbers)
    return True


def pack_blocks(
    rows: npt.NDArray[np.float32],
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.float32]]:
    """Rows in blocks of 4 bits: value ≈ (integer - 8) · scale.

    What is furthest from zero in a block becomes 0, as there are 8 integers below the zero and 7
    above it.

    Args:
        rows: (count, width).

    Returns:
        Two integers a byte, the first one in its lower half, with zeros behind the width
        (count, ⌈width / 32⌉ · 16); and scales (count, ⌈width / 32⌉), of either sign.
    """
    count, width = rows.shape
    padded = np.pad(rows, ((0, 0), (0, -width % BLOCK)))
    parts = padded.reshape(count, -1, BLOCK)
    furthest = np.take_along_axis(parts, np.abs(parts).argmax(axis=2, keepdims=True), axis=2)
    scale = np.where(furthest == 0, 1, furthest / -8).astype(np.float32)
    scale = np.where(np.abs(scale) >= np.finfo(np.float32).tiny, scale, 1).astype(np.float32)
    values = (np.rint(parts / scale) + 8).clip(0, 15).astype(np.uint8).reshape(count, -1)
    return values[:, 0::2] | values[:, 1::2] << 4, scale[:, :, 0]

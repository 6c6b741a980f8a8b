"""Weight-only int8: a quarter of the file, the speed of fp32.

A weight W becomes Cast(int8) · scale. Both nodes have constant inputs, so a runtime folds them when
it loads the model and then computes in fp32. DequantizeLinear would say the same, but onnxruntime
keeps it in the graph for its int8 kernels and pays for it in every call.

The table of an embedding stays int8 in memory, too: only the rows that a call reads become fp32.
"""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
from onnx import NodeProto, TensorProto

from compress.quantization.editing import Edit, attributes, rewrite
from compress.quantization.rewriting.files import save

#: The inputs of each operator that are weights.
_WEIGHTS = {
    "Conv": (1,),
    "ConvTranspose": (1,),
    "Gemm": (1,),
    "MatMul": (1,),
    "LSTM": (1, 2),
    "GRU": (1, 2),
    "RNN": (1, 2),
    "Gather": (0,),
}
#: Smaller weights would not pay for the two nodes and the scales.
LEAST_VALUES = 256
#: Smaller tables would not pay for the three nodes that run in every call.
LEAST_TABLE = 4096
#: In a narrower table a scale for each row would take as much room as the row.
_LEAST_WIDTH = 16


def quantize_weights(source: Path, target: Path) -> int:
    """Write a copy of an ONNX file whose large weights are stored as int8.

    Returns:
        How many weights were quantized.
    """
    model = onnx.load(source)
    stored: dict[str, str] = {}  # by name, what the users of a weight read instead

    def convert(edit: Edit, node: NodeProto) -> bool:
        return _store_weights(edit, node, stored)

    rewrite(model, dict.fromkeys(_WEIGHTS, convert))
    save(model, target)
    return len(stored)


def _store_weights(edit: Edit, node: NodeProto, stored: dict[str, str]) -> bool:
    names = [node.input[place] for place in _WEIGHTS[node.op_type]]
    axes = {name: found for name in names if (found := _axes(edit, name)) is not None}
    if node.op_type == "Gather" and axes:
        stored.setdefault(names[0], "")
        add_rows(edit, node)
    elif axes:
        for name, channels in axes.items():
            stored[name] = stored.get(name) or _add_whole(edit, name, channels)
        edit.add_changed(node, stored)
    return bool(axes)


def quantize_transposed(file: Path, keep_fp32: Collection[str] = ()) -> int:
    """Store the weights of transposed convolutions as int8, in place.

    Args:
        keep_fp32: names of nodes to leave as they are.

    Returns:
        How many weights were quantized.
    """
    model, stored = onnx.load(file), dict[str, str]()

    def convert(edit: Edit, node: NodeProto) -> bool:
        return node.name not in keep_fp32 and _store_weights(edit, node, stored)

    if rewrite(model, {"ConvTranspose": convert}):
        save(model, file)
    return len(stored)


def quantize_tables(file: Path) -> int:
    """Store the embeddings of an ONNX file as int8, in place, a scale for each row.

    Returns:
        How many were quantized.
    """
    model, done = onnx.load(file), set[str]()

    def convert(edit: Edit, node: NodeProto) -> bool:
        if _axes(edit, node.input[0]) is None:
            return False
        done.add(node.input[0])
        add_rows(edit, node)
        return True

    if rewrite(model, {"Gather": convert}):
        save(model, file)
    return len(done)


def _axes(edit: Edit, name: str) -> tuple[int, ...] | None:
    """The axes of the channels with a scale each; None for what is no large weight in every use."""
    weight, found = edit.weight(name), set()
    if weight is None or weight.size < LEAST_VALUES:
        return None
    for node in edit.users(name):
        places = [place for place, used in enumerate(node.input) if used == name]
        if len(places) != 1 or places[0] not in _WEIGHTS.get(node.op_type, ()):
            return None
        if node.op_type == "Gather" and not is_table(edit, node):
            return None
        found.add(_channels(node, weight.shape))
    return found.pop() if len(found) == 1 else None


def _channels(node: NodeProto, shape: tuple[int, ...]) -> tuple[int, ...]:
    """Output channels, the rows of each direction's gates, or what `_table_channels` says."""
    if node.op_type == "Gather":
        return _table_channels(shape)
    if node.op_type in ("LSTM", "GRU", "RNN"):
        return (0, 1)
    if node.op_type == "MatMul":  # with a vector, one matrix, or many
        return tuple(axis for axis in range(len(shape)) if axis != max(0, len(shape) - 2))
    return (0,) if node.op_type == "Conv" or attributes(node).get("transB", 0) else (1,)


def _table_channels(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Rows, or columns where a row is so short that its scale would be as large.

    Of matrices, such as those of experts, the columns of each where these are long enough.
    """
    if len(shape) > 2:
        return (0, len(shape) - 1) if shape[-2] >= _LEAST_WIDTH else (0,)
    return (0,) if shape[1] >= _LEAST_WIDTH else (1,)


def _add_whole(edit: Edit, name: str, axes: tuple[int, ...]) -> str:
    """Add the nodes that make a weight fp32 again; returns the name of the result."""
    stored, scale = store(edit, name, axes)
    with edit.ahead():  # the weight may be used in several bodies
        return edit.add("Mul", [edit.add("Cast", [stored], to=TensorProto.FLOAT), scale])


def is_table(edit: Edit, node: NodeProto) -> bool:
    """Whether a Gather reads rows of an embedding, or matrices, that is large enough for int8."""
    table = edit.weight(node.input[0])
    rows = attributes(node).get("axis", 0) == 0
    return table is not None and table.ndim >= 2 and table.size >= LEAST_TABLE and rows


def add_rows(edit: Edit, node: NodeProto) -> None:
    """Add the nodes that read rows of an int8 table and dequantize only them, in place of one."""
    table = edit.weight(node.input[0])
    assert table is not None
    axes = _table_channels(table.shape)
    stored, scale = store(edit, node.input[0], axes)
    rows = edit.add("Cast", [edit.add("Gather", [stored, node.input[1]])], to=TensorProto.FLOAT)
    if 0 in axes:
        scale = edit.add("Gather", [scale, node.input[1]])
    edit.add("Mul", [rows, scale], node.output[0])


def store(edit: Edit, name: str, axes: tuple[int, ...]) -> tuple[str, str]:
    """Store a weight as int8, once; returns the names of the values and of their scales."""
    weight = edit.weight(name)
    assert weight is not None
    values, scale = quantize_symmetric(weight, axes)
    return edit.constant(f"{name}_int8", values), edit.constant(f"{name}_scale", scale)


def quantize_symmetric(
    weight: npt.NDArray[np.float32], axis: int | tuple[int, ...]
) -> tuple[npt.NDArray[np.int8], npt.NDArray[np.float32]]:
    """Symmetric per-channel int8: weight ≈ values · scale, |values| ≤ 127.

    Args:
        weight: any shape.
        axis: of the channels that get a scale each; several where each pair, triple … gets one.

    Returns:
        The values in the weight's shape, and scales that broadcast against it.
    """
    kept = (axis,) if isinstance(axis, int) else axis
    others = tuple(i for i in range(weight.ndim) if i not in kept)
    largest = np.abs(weight).max(axis=others, keepdims=True)
    scale = (largest / 127).astype(np.float32)
    scale = np.where(scale >= np.finfo(np.float32).tiny, scale, 1).astype(np.float32)
    return np.rint(weight / scale).clip(-127, 127).astype(np.int8), scale

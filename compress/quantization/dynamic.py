"""Dynamic int8: int8 weights, and activations that each call quantizes by their own range.

onnxruntime's `quantize_dynamic` is left to convolutions. It has one setting for a whole graph,
while products want signed weights (faster than the unsigned ones that convolutions need), small
products none at all, and an embedding a scale for each of its rows.

`per_channel` makes the error of a trained LSTM smaller and costs a little time with one sample, so
that `best` measures an LSTM both ways. Without it, one scale serves all, as by onnxruntime.
"""

from __future__ import annotations

from collections.abc import Collection
from functools import partial
from pathlib import Path

import numpy as np
import onnx
from onnx import NodeProto
from onnxruntime.quantization import QuantType, quantize_dynamic

from compress.quantization.by_step import convert_by_step
from compress.quantization.editing import MICROSOFT, Converter, Edit, attributes, rewrite
from compress.quantization.integer_product import LEAST_PRODUCT, product_converters
from compress.quantization.rewriting.files import copy, save
from compress.quantization.scratch import inside_scratch_folder
from compress.quantization.weight_only import add_rows, is_table, quantize_symmetric

#: Where a model has no product of that size, the small ones are all that can be quantized.
_LEAST_AT_ALL = 256


def quantize_dynamic_int8(
    source: Path,
    target: Path,
    *,
    per_channel: bool = True,
    by_step: bool = False,
    keep_fp32: Collection[str] = (),
) -> None:
    """Write a dynamically quantized copy of a preprocessed ONNX file; needs no data.

    LSTM, MatMul, Gemm and embeddings become int8. Convolutions do so only in a model that has
    nothing else: they got slower wherever that was measured.

    Args:
        per_channel: a scale for each output of a product, row of an LSTM's gates and row of an
            embedding instead of one for all.
        by_step: also compute GRU and RNN in int8, see `compress.quantization.by_step`.
        keep_fp32: names of nodes to leave as they are.
    """
    for least in (LEAST_PRODUCT, _LEAST_AT_ALL):
        model = onnx.load(source)
        converters = _converters(least, per_channel=per_channel, by_step=by_step)
        if rewrite(model, {kind: _unless(keep_fp32, one) for kind, one in converters.items()}):
            save(model, target)
            return
        weights = {tensor.name for tensor in model.graph.initializer}
        if any(node.op_type == "Conv" and node.input[1] in weights for node in model.graph.node):
            _quantize_convolutions(source.absolute(), target.absolute())
            return
    copy(source, target)


def _converters(least: int, *, per_channel: bool, by_step: bool) -> dict[str, Converter]:
    found = product_converters(least, per_channel=per_channel)
    found["LSTM"] = partial(_convert_lstm, per_channel=per_channel)
    found["Gather"] = partial(_convert_gather, per_channel=per_channel)
    if by_step:
        found["GRU"] = found["RNN"] = partial(convert_by_step, per_channel=per_channel)
    return found


def _unless(keep_fp32: Collection[str], convert: Converter) -> Converter:
    def convert_one(edit: Edit, node: NodeProto) -> bool:
        done = node.name not in keep_fp32 and convert(edit, node)
        # What is told of the layer later goes by its name.
        if done and edit.nodes and node.name not in {new.name for new in edit.nodes}:
            edit.nodes[-1].name = node.name
        return done

    return convert_one


def _convert_lstm(edit: Edit, node: NodeProto, *, per_channel: bool) -> bool:
    """onnxruntime's own int8 LSTM, with a scale for each direction or each row of its gates."""
    inputs, found = [*node.input, *[""] * 8][:8], attributes(node)
    weights = [edit.weight(name) for name in inputs[1:3]]
    if any(weight is None for weight in weights) or found.pop("layout", 0):
        return False
    axes, scales = (0, 1) if per_channel else (0,), []
    for place, weight in enumerate(weights, 1):
        assert weight is not None
        name, (values, scale) = inputs[place], quantize_symmetric(weight, axes)
        scale = scale.reshape(scale.shape[: len(axes)])
        inputs[place] = edit.constant(f"{name}_int8", values.transpose(0, 2, 1))
        scales.append(edit.constant(f"{name}_scale", scale))
        scales.append(edit.constant(f"{name}_zero_point", np.zeros(scale.shape, np.int8)))
    edit.add("DynamicQuantizeLSTM", inputs + scales, node.output, domain=MICROSOFT, **found)
    return True


def _convert_gather(edit: Edit, node: NodeProto, *, per_channel: bool) -> bool:
    """An int8 embedding, of which only the rows that are read become fp32."""
    name = node.input[0]
    table = edit.weight(name)
    shared = any(user.op_type != "Gather" for user in edit.users(name))
    if table is None or shared or not is_table(edit, node):
        return False
    if per_channel:
        add_rows(edit, node)
        return True
    values, scale = quantize_symmetric(table, ())
    rows = edit.add("Gather", [edit.constant(f"{name}_int8", values), node.input[1]])
    one = edit.constant(f"{name}_scale", scale.reshape(()))
    # Without a zero point onnxruntime 1.31 gets a Transpose behind it wrong.
    zero = edit.constant(f"{name}_zero_point", np.zeros((), np.int8))
    edit.add("DequantizeLinear", [rows, one, zero], node.output[0])
    return True


def _quantize_convolutions(source: Path, target: Path) -> None:
    with inside_scratch_folder() as scratch:
        result = scratch / "dynamic.onnx"
        # onnxruntime has no ConvInteger for signed weights on the CPU.
        quantize_dynamic(str(source), str(result), weight_type=QuantType.QUInt8)
        target.write_bytes(result.read_bytes())

"""What a sum of 16 bits cuts off, as nodes that are added to a product's.

Neighbours are taken along the inner axis as onnxruntime lays it out: for a convolution first the
place in the kernel, then the channel.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from onnx import NodeProto, TensorProto, helper

from compress.quantization.editing import Edit, attributes

Integers = npt.NDArray[np.int8]

_LOW, _HIGH, _MOST = -(2.0**15), 2.0**15 - 1, 255


@dataclass(frozen=True)
class Product:
    """A node with unsigned activations and signed weights.

    Attributes:
        x: name of the activations, uint8.
        x_scale: of these, or the name of the value that it is.
        x_zero: their zero point; only for a convolution, which pads with it.
        weights: (out, in) or (out, in, height, width), of one group.
        scale: (out,), of the weights.
    """

    x: str
    x_scale: float | str
    x_zero: int
    weights: Integers
    scale: npt.NDArray[np.float32]
    is_conv: bool


def in_pairs(weights: Integers) -> Integers:
    """Weights two by two along the inner axis, (out, pairs, 2); a zero fills the last one up."""
    if weights.ndim == 4:
        weights = weights.transpose(0, 2, 3, 1)
    flat = weights.reshape(len(weights), -1)
    flat = np.pad(flat, ((0, 0), (0, flat.shape[1] % 2)))
    return flat.reshape(len(flat), -1, 2)


def cut_off(pairs: Integers) -> npt.NDArray[np.bool_]:
    """(out, pairs): whether the largest activations take a sum out of 16 bits."""
    wide = pairs.astype(np.int64)
    high = np.maximum(wide, 0).sum(axis=2) * _MOST
    low = np.minimum(wide, 0).sum(axis=2) * _MOST
    found: npt.NDArray[np.bool_] = (high > _HIGH) | (low < _LOW)
    return found


def add_cut(edit: Edit, node: NodeProto, product: Product, pairs: Integers) -> None:
    """The node as it was, plus what the cut takes from each of its sums, in fp32.

    Only the pairs that can be cut off are computed: sum(clip(p) - p) over them, times both scales.
    """
    raw = edit.add("Cast", [product.x], to=TensorProto.FLOAT)
    exact = NodeProto()
    exact.CopyFrom(node)
    exact.output[0] = edit.fresh(f"{node.output[0]}_exact")
    edit.nodes.append(exact)
    name = edit.fresh(f"{node.output[0]}_pairs")
    if product.is_conv:
        lost = _add_conv_cut(edit, node, product, pairs, raw, name)
    else:
        lost = _add_matrix_cut(edit, exact.output[0], product, pairs, raw, name)
    shape = (1, -1, 1, 1) if product.is_conv else (-1,)
    scaled = edit.add("Mul", [lost, edit.constant(f"{name}_scale", product.scale.reshape(shape))])
    x_scale = product.x_scale
    if not isinstance(x_scale, str):
        x_scale = edit.constant(f"{name}_x_scale", np.array(x_scale, np.float32))
    scaled = edit.add("Mul", [scaled, x_scale])
    edit.add("Add", [exact.output[0], scaled], node.output[0])


def _add_matrix_cut(
    edit: Edit, result: str, product: Product, pairs: Integers, raw: str, name: str
) -> str:
    """(…, out), in a loop: one pair of each output at a time, as many as the worst output has.

    All at once, the pairs of a Transformer's product would take gigabytes. Rows stand in the inner
    axis meanwhile, so that whole columns of the activations are copied.
    """
    risky = cut_off(pairs)
    places = np.argsort(~risky, axis=1, kind="stable")[:, : risky.sum(axis=1).max()]
    weights = np.take_along_axis(pairs * risky[:, :, None], places[:, :, None], axis=1)
    out, width = product.weights.shape
    flat = edit.constant(f"{name}_flat", np.array([-1, width]))
    turned = edit.add("Transpose", [edit.add("Reshape", [raw, flat])], perm=[1, 0])
    inputs = list[str]()
    for side in (0, 1):
        columns = np.minimum(2 * places + side, width - 1).T  # (pairs, out)
        by = weights[:, :, side].T.astype(np.float32)[:, :, None]
        inputs.append(edit.constant(f"{name}_columns_{side}", columns))
        inputs.append(edit.constant(f"{name}_weights_{side}", by))
    rows = edit.add("Shape", [turned], start=1)
    size = edit.add("Concat", [edit.constant(f"{name}_out", np.array([out])), rows], axis=0)
    lost = _scan_pairs(edit, [edit.add("ConstantOfShape", [size]), *inputs], turned, name)
    back = edit.add("Transpose", [lost], perm=[1, 0])
    return edit.add("Reshape", [back, edit.add("Shape", [result])])


def _scan_pairs(edit: Edit, inputs: list[str], turned: str, name: str) -> str:
    """(out, rows), what the cut takes from the sums of all pairs together."""
    given = [edit.fresh(f"{name}_given_{place}") for place in range(len(inputs))]
    with edit.body() as nodes:
        terms = [
            edit.add("Mul", [edit.add("Gather", [turned, columns], axis=0), by])
            for columns, by in (given[1:3], given[3:5])
        ]
        added = edit.add("Add", [given[0], _cut(edit, edit.add("Add", terms), name)])
    kinds = [TensorProto.FLOAT] + [TensorProto.INT64, TensorProto.FLOAT] * 2
    taken = [helper.make_tensor_value_info(*pair, None) for pair in zip(given, kinds, strict=True)]
    made = [helper.make_tensor_value_info(added, TensorProto.FLOAT, None)]
    body = helper.make_graph(nodes, f"{name}_step", taken, made)
    return edit.add("Scan", inputs, body=body, num_scan_inputs=len(inputs) - 1)


def _add_conv_cut(
    edit: Edit, node: NodeProto, product: Product, pairs: Integers, raw: str, name: str
) -> str:
    """(batch, out, height, width): a filter for each pair at risk and output, then their sum."""
    out, channels, height, width = product.weights.shape
    places = np.flatnonzero(cut_off(pairs).any(axis=0))
    flat = np.zeros((len(places), out, height * width * channels + 1), np.float32)
    for number, place in enumerate(places):
        flat[number, :, 2 * place : 2 * place + 2] = pairs[:, place]
    filters = flat[:, :, :-1].reshape(-1, height, width, channels).transpose(0, 3, 1, 2)
    found = attributes(node)
    pads = found.get("pads", [0, 0, 0, 0])
    if any(pads):  # what is padded is a zero of the activations, which is no zero of the integers
        sides = np.array([0, 0, pads[0], pads[1], 0, 0, pads[2], pads[3]])
        zero = edit.constant(f"{name}_zero", np.array(product.x_zero, np.float32))
        raw = edit.add("Pad", [raw, edit.constant(f"{name}_sides", sides), zero])
    steps = {key: found[key] for key in ("strides", "dilations") if key in found}
    sums = edit.add("Conv", [raw, edit.constant(f"{name}_weights", filters)], **steps)
    size = edit.add("Shape", [sums], start=2)
    split = edit.constant(f"{name}_split", np.array([-1, len(places), out]))
    shape = edit.add("Concat", [split, size], axis=0)
    cut = _cut(edit, edit.add("Reshape", [sums, shape]), name)
    along = edit.constant(f"{name}_axes", np.array([1]))
    return edit.add("ReduceSum", [cut, along], keepdims=0)


def _cut(edit: Edit, sums: str, name: str) -> str:
    """What is cut off from sums of pairs, with the sign of what has to be added."""
    low, high = (
        edit.constant(f"{name}_{end}", np.array(value, np.float32))
        for end, value in (("low", _LOW), ("high", _HIGH))
    )
    return edit.add("Sub", [edit.add("Clip", [sums, low, high]), sums])

"""What an int8 model would answer on a CPU whose 8-bit products saturate.

x86 processors without VNNI multiply unsigned activations with signed weights by `vpmaddubsw`, which
adds the products of two neighbours in 16 bits: above 32,767 or below −32,768 the sum is cut off.
With VNNI, and on Arm, it is not, so that a model that was judged there can be worse elsewhere
(onnxruntime's documentation of quantization, "U8S8 on x86-64 machines with avx2 and avx512").

`emulate` writes the cut into the graph, out of ONNX's own operators, so that any runtime gives the
answers of such a CPU. Neighbours are taken along the inner axis as onnxruntime lays it out: for a
convolution first the place in the kernel, then the channel.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
from onnx import GraphProto, NodeProto, TensorProto, numpy_helper

from compress.quantization.editing import Edit, attributes, rewrite

Integers = npt.NDArray[np.int8]

_LOW, _HIGH, _MOST = -(2.0**15), 2.0**15 - 1, 255
#: The first opset in which Shape gives a part of a shape.
_OPSET = 15
#: x86 instruction sets that add such products in 32 bits.
_EXACT = {"avx512_vnni", "avx_vnni", "amx_int8"}
_X86 = {"x86_64", "AMD64", "i686"}


@dataclass(frozen=True)
class Saturation:
    """Where a model's sums can be cut off.

    Attributes:
        at_risk: name of a node, or of what it makes, to the share of its pairs of weights whose sum
            is cut off for the largest activations.
        left_out: int8 nodes that cannot be emulated, by their type.
    """

    at_risk: dict[str, float]
    left_out: tuple[str, ...]


def saturates(architecture: str | None, instruction_sets: list[str]) -> bool:
    """Whether a CPU adds 8-bit products in 16 bits; `machine()` has both facts."""
    return architecture in _X86 and not _EXACT & set(instruction_sets)


def emulate(source: Path, target: Path) -> Saturation:
    """Write a copy of a QDQ model of opset 15 or later that answers as on a CPU without VNNI.

    Only nodes with signed weights of which some pair can be cut off are replaced.
    """
    model = onnx.load(source)
    values = _Values(model.graph)
    at_risk: dict[str, float] = {}

    def convert(edit: Edit, node: NodeProto) -> bool:
        product = values.product(node)
        if product is None:
            return False
        pairs = _in_pairs(product)
        share = float(_cut_off(pairs).mean())
        at_risk[node.name or node.output[0]] = share
        if not share or edit.opset < _OPSET:
            return False
        _add_cut(edit, node, product, pairs)
        return True

    rewrite(model, dict.fromkeys(("Conv", "MatMul", "Gemm"), convert))
    target.write_bytes(model.SerializeToString())
    left_out = sorted(
        node.op_type
        for node in model.graph.node
        if node.op_type in ("DynamicQuantizeLSTM", "DynamicQuantizeMatMul", "MatMulInteger")
    )
    return Saturation(at_risk, tuple(left_out))


@dataclass(frozen=True)
class _Product:
    """A node with unsigned activations and signed weights.

    Attributes:
        x: name of the activations, uint8, with their scale and zero point.
        weights: (out, in) or (out, in, height, width), of one group.
        scale: (out,), of the weights.
    """

    x: str
    x_scale: float
    x_zero: int
    weights: Integers
    scale: npt.NDArray[np.float32]
    is_conv: bool


class _Values:
    """Constants of a graph, and what makes its values."""

    def __init__(self, graph: GraphProto) -> None:
        self._tensors = {tensor.name: tensor for tensor in graph.initializer}
        self._made_by = {name: node for node in graph.node for name in node.output}

    def product(self, node: NodeProto) -> _Product | None:
        """The integers behind a node between DequantizeLinear; None for any other."""
        x, w = (self._quantized(name) for name in node.input[:2])
        if x is None or w is None:
            return None
        x_scale, x_zero, weights, w_zero = (
            *map(self._constant, x[1:]),
            self._constant(w[0]),
            self._constant(w[2]),
        )
        scale = self._constant(w[1])
        if x_scale is None or x_zero is None or weights is None or scale is None or w_zero is None:
            return None
        unsigned = x_zero.dtype == np.uint8 and x_zero.size == 1
        found = _rows(node, weights)
        if not unsigned or weights.dtype != np.int8 or w_zero.any() or found is None:
            return None
        scales = np.broadcast_to(scale.ravel(), (len(found),)).astype(np.float32)
        is_conv = node.op_type == "Conv"
        return _Product(x[0], x_scale.item(), int(x_zero.item()), found, scales, is_conv)

    def _quantized(self, name: str) -> list[str] | None:
        """The inputs of the DequantizeLinear that makes a value: integers, scale, zero point."""
        node = self._made_by.get(name)
        if node is None or node.op_type != "DequantizeLinear" or len(node.input) < 3:
            return None
        return list(node.input)

    def _constant(self, name: str) -> npt.NDArray[np.generic] | None:
        tensor = self._tensors.get(name)
        return None if tensor is None else numpy_helper.to_array(tensor)


def _rows(node: NodeProto, weights: npt.NDArray[np.generic]) -> Integers | None:
    """Weights with one row an output; None for groups, dilations and other forms of a product."""
    found = attributes(node)
    if node.op_type == "Conv":
        plain = weights.ndim == 4 and found.get("group", 1) == 1
        plain = plain and found.get("auto_pad", b"NOTSET") in (b"NOTSET", "NOTSET")
        return weights.astype(np.int8) if plain else None
    if weights.ndim != 2 or found.get("transA", 0):
        return None
    if found.get("alpha", 1) != 1 or found.get("beta", 1) != 1:
        return None
    turned = weights if found.get("transB", 0) else weights.T
    return turned.astype(np.int8)


def _in_pairs(product: _Product) -> Integers:
    """Weights two by two along the inner axis, (out, pairs, 2); a zero fills the last one up."""
    weights = product.weights
    if product.is_conv:
        weights = weights.transpose(0, 2, 3, 1)
    flat = weights.reshape(len(weights), -1)
    flat = np.pad(flat, ((0, 0), (0, flat.shape[1] % 2)))
    return flat.reshape(len(flat), -1, 2)


def _cut_off(pairs: Integers) -> npt.NDArray[np.bool_]:
    """(out, pairs): whether the largest activations take a sum out of 16 bits."""
    wide = pairs.astype(np.int64)
    high = np.maximum(wide, 0).sum(axis=2) * _MOST
    low = np.minimum(wide, 0).sum(axis=2) * _MOST
    found: npt.NDArray[np.bool_] = (high > _HIGH) | (low < _LOW)
    return found


def _add_cut(edit: Edit, node: NodeProto, product: _Product, pairs: Integers) -> None:
    """The node as it was, plus what the cut takes from each of its sums, in fp32.

    Only the pairs that can be cut off are computed: sum(clip(p) - p) over them, times both scales.
    """
    raw = edit.add("Cast", [product.x], to=TensorProto.FLOAT)
    whole = edit.fresh(f"{node.output[0]}_exact")
    name = edit.fresh(f"{node.output[0]}_pairs")
    make = _add_conv_cut if product.is_conv else _add_matrix_cut
    lost = make(edit, node, product, pairs, raw, name)
    shape = (1, -1, 1, 1) if product.is_conv else (-1,)
    factor = (product.scale * np.float32(product.x_scale)).reshape(shape)
    scaled = edit.add("Mul", [lost, edit.constant(f"{name}_factor", factor)])
    exact = NodeProto()
    exact.CopyFrom(node)
    exact.output[0] = whole
    edit.nodes.append(exact)
    edit.add("Add", [whole, scaled], node.output[0])


def _add_matrix_cut(
    edit: Edit, node: NodeProto, product: _Product, pairs: Integers, raw: str, name: str
) -> str:
    """(…, out): pairs at risk of any output, as a batch of products of two values each."""
    places = np.flatnonzero(_cut_off(pairs).any(axis=0))
    width = product.weights.shape[1]
    both = np.stack([2 * places, np.minimum(2 * places + 1, width - 1)], axis=1).ravel()
    columns = edit.add("Gather", [raw, edit.constant(f"{name}_columns", both)], axis=-1)
    lead = edit.add("Shape", [columns], end=-1)
    split = edit.constant(f"{name}_split", np.array([len(places), 1, 2]))
    shape = edit.add("Concat", [lead, split], axis=0)
    rows = edit.add("Reshape", [columns, shape])
    weights = pairs[:, places].transpose(1, 2, 0).astype(np.float32)  # (pairs, 2, out)
    sums = edit.add("MatMul", [rows, edit.constant(f"{name}_weights", weights)])
    return _lost(edit, sums, (-3, -2), name)


def _add_conv_cut(
    edit: Edit, node: NodeProto, product: _Product, pairs: Integers, raw: str, name: str
) -> str:
    """(batch, out, height, width): a filter for each pair at risk and output, then their sum."""
    out, channels, height, width = product.weights.shape
    places = np.flatnonzero(_cut_off(pairs).any(axis=0))
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
    return _lost(edit, edit.add("Reshape", [sums, shape]), (1,), name)


def _lost(edit: Edit, sums: str, axes: tuple[int, ...], name: str) -> str:
    low, high = (
        edit.constant(f"{name}_{end}", np.array(value, np.float32))
        for end, value in (("low", _LOW), ("high", _HIGH))
    )
    cut = edit.add("Sub", [edit.add("Clip", [sums, low, high]), sums])
    along = edit.constant(f"{name}_axes", np.array(axes))
    return edit.add("ReduceSum", [cut, along], keepdims=0)

"""What an int8 model would answer on a CPU whose 8-bit products saturate.

x86 processors without VNNI multiply unsigned activations with signed weights by `vpmaddubsw`, which
adds the products of two neighbours in 16 bits: above 32,767 or below −32,768 the sum is cut off.
With VNNI, and on Arm, it is not, so that a model that was judged there can be worse elsewhere
(onnxruntime's documentation of quantization, "U8S8 on x86-64 machines with avx2 and avx512").
Dynamic products and LSTMs are of that kind, too: their kernels make each call's activations uint8
and take the same matrix product (`MlasGemmU8S8DispatchAvx2`, `MlasGemmU8S8KernelAvx512Core`).

`emulate` writes the cut into the graph, out of ONNX's own operators, so that any runtime gives the
answers of such a CPU.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
from onnx import GraphProto, ModelProto, NodeProto, numpy_helper

from compress.export.bodies import graphs, nodes_everywhere
from compress.quantization.editing import MICROSOFT, Converter, Edit, attributes, rewrite
from compress.quantization.rewriting.files import save
from compress.quantization.saturated_lstm import read_lstm, take_apart
from compress.quantization.saturated_sums import Integers, Product, add_cut, cut_off, in_pairs

#: The first opset in which Shape gives a part of a shape.
_OPSET = 15
#: x86 instruction sets that add such products in 32 bits.
_EXACT = {"avx512_vnni", "avx_vnni", "amx_int8"}
_X86 = {"x86_64", "AMD64", "i686"}
_DOMAINS = ("", "ai.onnx", MICROSOFT)


@dataclass(frozen=True)
class Saturation:
    """Where a model's sums can be cut off.

    Attributes:
        at_risk: name of a node, or of what it makes, to the share of its pairs of weights whose sum
            is cut off for the largest activations.
        left_out: int8 nodes that cannot be emulated, by their type.
        dynamic: whether some node at risk quantizes its activations in each call.
    """

    at_risk: dict[str, float]
    left_out: tuple[str, ...]
    dynamic: bool = False


def saturates(architecture: str | None, instruction_sets: list[str]) -> bool:
    """Whether a CPU adds 8-bit products in 16 bits; `machine()` has both facts."""
    return architecture in _X86 and not _EXACT & set(instruction_sets)


def emulate(source: Path, target: Path) -> Saturation:
    """Write a copy of an int8 model that answers as on a CPU without VNNI.

    Only nodes with signed weights of which some pair can be cut off are replaced. An LSTM and what
    stands in a loop is emulated step by step. Below opset 15 nothing is.
    """
    model = onnx.load(source)
    found = _Emulation(model)
    rewrite(model, {"DynamicQuantizeLSTM": found.convert_lstm}, _DOMAINS)
    rewrite(model, found.converters(), _DOMAINS)
    save(model, target)
    at_risk = {name: share for name, share in found.at_risk.items() if name in found.known}
    return Saturation(at_risk, tuple(sorted(found.left_out)), found.dynamic)


class _Emulation:
    """The converters, and what they meet."""

    def __init__(self, model: ModelProto) -> None:
        self.at_risk: dict[str, float] = {}
        self.left_out: list[str] = []
        self.dynamic = False
        #: Nodes of the model itself, not those that emulation puts in their place.
        self.known = _names(model)
        self._graph = model.graph

    def converters(self) -> Mapping[str, Converter]:
        values = _Values(self._graph)

        def convert(edit: Edit, node: NodeProto) -> bool:
            return self._cut(edit, node, values.product(node))

        return {
            **dict.fromkeys(("Conv", "MatMul", "Gemm"), convert),
            "DynamicQuantizeMatMul": self._convert_dynamic,
        }

    def convert_lstm(self, edit: Edit, node: NodeProto) -> bool:
        layer = read_lstm(edit, node)
        if layer is None or edit.opset < _OPSET:
            self.left_out.append(node.op_type)
            return False
        share = self._share(node, *(rows for each in layer.weights for rows in each))
        self.dynamic |= bool(share)
        if share:
            take_apart(edit, layer)
        return bool(share)

    def _convert_dynamic(self, edit: Edit, node: NodeProto) -> bool:
        """x · weight + bias, whose x the node quantizes by its range: once more, to see the cut."""
        x, name, scale, zero = [*node.input, ""][:4]
        weight, scales = edit.values(name), edit.values(scale)
        if weight is not None and weight.dtype == np.uint8:
            return False
        zeros = edit.values(zero) if zero else np.zeros(1)
        if weight is None or scales is None or zeros is None or zeros.any() or weight.ndim != 2:
            self.left_out.append(node.op_type)
            return False
        rows = weight.T.astype(np.int8)
        if not self._share(node, rows):
            return False
        self.dynamic = True
        if edit.opset < _OPSET:
            self.left_out.append(node.op_type)
            return False
        values, x_scale = (edit.fresh(f"{node.output[0]}_{part}") for part in ("x", "x_scale"))
        edit.add("DynamicQuantizeLinear", [x], [values, x_scale, edit.fresh(f"{values}_zero")])
        spread = np.broadcast_to(scales.ravel(), (len(rows),)).astype(np.float32)
        return self._cut(edit, node, Product(values, x_scale, 0, rows, spread, is_conv=False))

    def _cut(self, edit: Edit, node: NodeProto, product: Product | None) -> bool:
        if product is None:
            return False
        pairs = in_pairs(product.weights)
        if not self._share(node, product.weights) or edit.opset < _OPSET:
            return False
        add_cut(edit, node, product, pairs)
        return True

    def _share(self, node: NodeProto, *weights: Integers) -> float:
        """The share of pairs at risk, which is kept under the node's name."""
        cut = np.concatenate([cut_off(in_pairs(rows)).ravel() for rows in weights])
        return self.at_risk.setdefault(node.name or node.output[0], float(cut.mean()))


def _names(model: ModelProto) -> set[str]:
    return {node.name or node.output[0] for node in nodes_everywhere(model.graph)}


class _Values:
    """Constants of a graph and its bodies, and what makes their values."""

    def __init__(self, graph: GraphProto) -> None:
        self._tensors = {tensor.name: tensor for g in graphs(graph) for tensor in g.initializer}
        nodes = nodes_everywhere(graph)
        self._made_by = {name: node for node in nodes for name in node.output}

    def product(self, node: NodeProto) -> Product | None:
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
        return Product(x[0], x_scale.item(), int(x_zero.item()), found, scales, is_conv)

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

"""A range for each row of what enters a product, instead of one for all.

One scale for all rows leaves those without outliers a few levels. ZeroQuant (Yao et al., 2022,
arXiv:2206.01861) quantizes activations by token, with kernels of its own. Here each row is divided
by its largest magnitude in front of the product, and the sums are multiplied with it behind, both
in fp32:

    x · w + b = ((x / s) · w) · s + b        s = max |x| over the last axis

All rows of x / s share the range from -1 to 1, so that onnxruntime's and OpenVINO's own int8
products serve, and no call has to look for a range. What a row becomes depends on no other row.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from onnx import NodeProto

from compress.export.bodies import has_bodies
from compress.quantization.editing import Edit, attributes, rewrite
from compress.quantization.integer_product import LEAST_PRODUCT
from compress.quantization.rewriting.files import load, save

#: Instead of the largest magnitude of a row of zeros.
_LEAST = np.float32(1e-30)
#: From this version of ONNX's operators on axes are an input of ReduceMax.
_AXES_ARE_INPUTS = 18


def normalize_rows(source: Path, target: Path) -> frozenset[str]:
    """Write a copy of an fp32 ONNX file that computes the same, each row of a product by itself.

    Returns:
        Names of the products: MatMul and Gemm by a constant that is large enough for int8. Where
        there is none, as in a file with bodies of If, Loop or Scan, nothing is written.
    """
    model = load(source)
    if has_bodies(model):
        return frozenset()
    normalize = _Normalize()
    if rewrite(model, {"Gemm": normalize, "MatMul": normalize}):
        save(model, target)
    return frozenset(normalize.done)


@dataclass
class _Normalize:
    """Puts the largest magnitude of each row in front of a product and behind it.

    Attributes:
        rows: of the values that were divided, the names of quotient and divisor.
        done: names of the products.
    """

    rows: dict[str, tuple[str, str]] = field(default_factory=dict)
    done: list[str] = field(default_factory=list)

    def __call__(self, edit: Edit, node: NodeProto) -> bool:
        name, weight = node.input[0], edit.weight(node.input[1])
        if weight is None or weight.ndim != 2 or weight.size < LEAST_PRODUCT:
            return False
        if edit.values(name) is not None or attributes(node).get("transA", 0):
            return False
        bias = node.input[2] if len(node.input) > 2 else ""
        if bias and attributes(node).get("beta", 1.0) != 1.0:
            return False
        if name not in self.rows:
            self.rows[name] = self._divided(edit, name)
        quotient, divisor = self.rows[name]
        product = NodeProto()
        product.CopyFrom(node)
        product.input[:] = [quotient, node.input[1]]
        product.output[:] = [edit.fresh(f"{node.output[0]}_by_rows")]
        edit.nodes.append(product)
        scaled = edit.add("Mul", [product.output[0], divisor], None if bias else node.output[0])
        if bias:
            edit.add("Add", [scaled, bias], node.output[0])
        self.done.append(node.name)
        return True

    def _divided(self, edit: Edit, name: str) -> tuple[str, str]:
        magnitudes = edit.add("Abs", [name])
        if edit.opset >= _AXES_ARE_INPUTS:
            last = edit.constant("last_axis", np.array([-1], np.int64))
            largest = edit.add("ReduceMax", [magnitudes, last])
        else:
            largest = edit.add("ReduceMax", [magnitudes], axes=[-1])
        divisor = edit.add("Max", [largest, edit.constant("least_divisor", np.array(_LEAST))])
        return edit.add("Div", [name, divisor], edit.fresh(f"{name}_rows")), divisor

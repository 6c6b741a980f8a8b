"""Which nodes of a quantized model compute in int8, and why the others do not."""

from __future__ import annotations

from typing import Any

import numpy as np
from onnx import ModelProto, NodeProto, TensorProto

from compress.export.graph import RECURRENT, computing_nodes
from compress.quantization.integer_product import LEAST_PRODUCT

_INTEGERS = (TensorProto.INT8, TensorProto.UINT8)


def account_of_nodes(model: ModelProto) -> list[dict[str, Any]]:
    """For each computing node its name, operator and precision; without int8 arithmetic also why.

    In a model in fp16 it is told why a node is not fp16. A node without a name goes by what it
    makes.
    """
    entries = list(computing_nodes(model))
    sizes = {tensor.name: int(np.prod(tensor.dims)) for tensor in model.graph.initializer}
    weights = _weights(model, sizes)
    static = any(precision == "int8 (static)" for _, _, precision in entries)
    half = any(precision == "fp16" for _, _, precision in entries)
    found = []
    for node, kind, precision in entries:
        entry = {"name": node.name or node.output[0], "operator": kind, "precision": precision}
        if half and precision == "fp32":
            entry["why"] = "takes or makes numbers that fp16 cannot hold, or has no fp16 form"
        elif not half and not precision.startswith("int8"):
            entry["why"] = _why(node, kind, precision, weights, static=static)
        found.append(entry)
    return found


def _weights(model: ModelProto, sizes: dict[str, int]) -> dict[str, int]:
    """Number of values behind every constant, also where it is stored as integers."""
    found = dict(sizes)
    for node in model.graph.node:
        if node.op_type in ("DequantizeLinear", "Cast", "Mul") and node.input[0] in found:
            found[node.output[0]] = found[node.input[0]]
    return found


def _why(
    node: NodeProto, kind: str, precision: str, weights: dict[str, int], *, static: bool
) -> str:
    """One line: what follows from the graph, or else that the choice by measurement left it so."""
    sizes = [weights[name] for name in node.input[1:3] if name in weights]
    small = kind in ("MatMul", "Gemm") and sizes and sizes[0] < LEAST_PRODUCT
    reasons = [
        (kind == "Attention", "both sides of its products are computed, by an operator of fp32"),
        (kind == "Gather", "an embedding is read, not computed; its rows are stored as int8"),
        (precision.endswith("weights"), "weights are stored as integers and computed in fp32"),
        (precision != "fp32", f"computed in {precision}"),
        (
            kind in RECURRENT and kind != "LSTM",
            f"onnxruntime has no int8 {kind}; step by step it was slower or lost too much",
        ),
        (not sizes, "both sides are computed: there are no weights to quantize"),
        (small, f"{sum(sizes[:1]):,} weights are too few to pay for the conversion"),
        (
            kind == "LSTM",
            "static int8 has no LSTM, and the dynamic one was slower or lost too much",
        ),
        (
            kind.startswith("Conv") and not static,
            "convolutions are faster in fp32 than with ranges taken in each call",
        ),
    ]
    left = "left in fp32 by the choice: in int8 it was slower or lost too much"
    return next((reason for holds, reason in reasons if holds), left)

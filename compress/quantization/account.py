"""Which nodes of a quantized model compute in int8, and why the others do not."""

from __future__ import annotations

from typing import Any

from onnx import ModelProto

from compress.export.graph import RECURRENT, Computing, computing_nodes
from compress.quantization.integer_product import LEAST_PRODUCT


def account_of_nodes(model: ModelProto) -> list[dict[str, Any]]:
    """For each computing node its name, operator and precision; without int8 arithmetic also why.

    In a model in fp16 it is told why a node is not fp16. A node without a name goes by what it
    makes; one in a body has the path to it in front.
    """
    entries = computing_nodes(model)
    precisions = {entry.precision for entry in entries}
    dynamic = "int8 (dynamic)" in precisions and "int8 (static)" not in precisions
    half = "fp16" in precisions
    found = []
    for entry in entries:
        name = entry.path + (entry.node.name or entry.node.output[0])
        told = {"name": name, "operator": entry.kind, "precision": entry.precision}
        if half and entry.precision == "fp32":
            told["why"] = "takes or makes numbers that fp16 cannot hold, or has no fp16 form"
        elif not half and not entry.precision.startswith("int8"):
            told["why"] = _why(entry, dynamic=dynamic)
        found.append(told)
    return found


def _why(entry: Computing, *, dynamic: bool) -> str:
    """One line: what follows from the graph, or else that the choice by measurement left it so."""
    kind, precision, sizes = entry.kind, entry.precision, entry.sizes
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
            kind.startswith("Conv") and bool(entry.path),
            "in a body of If, Loop or Scan no ranges can be taken, and convolutions are faster in "
            "fp32 than with those of each call",
        ),
        (
            kind.startswith("Conv") and dynamic,
            "convolutions are faster in fp32 than with ranges taken in each call",
        ),
    ]
    left = "left in fp32 by the choice: in int8 it was slower or lost too much"
    return next((reason for holds, reason in reasons if holds), left)

"""Which nodes of a quantized model compute in int8, and why the others do not."""

from __future__ import annotations

import math
from typing import Any

from onnx import ModelProto

from compress.export.graph import RECURRENT, Computing, computing_nodes
from compress.quantization.by_step import LEAST_UNITS
from compress.quantization.integer_product import LEAST_PRODUCT
from compress.quantization.weight_only import LEAST_TABLE, LEAST_VALUES

_LEFT = "left in fp32 by the choice: in int8 it was slower or lost too much"


def account_of_nodes(model: ModelProto) -> list[dict[str, Any]]:
    """For each computing node its name, operator and precision; without int8 arithmetic also why.

    In a model in fp16 it is told why a node is not fp16. A node without a name goes by what it
    makes; one in a body has the path to it in front. Large tables in fp32 that are only read
    are told as well: they are part of the file.
    """
    entries = [entry for entry in computing_nodes(model, tables=True) if not _is_small_table(entry)]
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
            told["why"] = _why(entry, precisions, dynamic=dynamic)
        found.append(told)
    return found


def _is_small_table(entry: Computing) -> bool:
    reads = entry.kind in ("Gather", "GatherND") and "int" not in entry.precision
    return reads and math.prod(entry.weights[0]) < LEAST_TABLE


def _why(entry: Computing, precisions: set[str], *, dynamic: bool) -> str:
    """One line: what follows from the graph, or else that the choice by measurement left it so."""
    kind, precision, weights = entry.kind, entry.precision, entry.weights
    size, axes = (math.prod(weights[0]), len(weights[0])) if weights else (0, 0)
    product = kind in ("MatMul", "Gemm")
    recurrent = kind in RECURRENT and kind != "LSTM"
    narrow = recurrent and len(weights) > 1 and weights[1][-1] < LEAST_UNITS
    # What is only stored as integers has another bound than what is computed in them.
    stored = "fp32, int8 weights" in precisions
    stored = stored and not any(entry.startswith("int8") for entry in precisions)
    reasons = [
        (kind == "Attention", "both sides of its products are computed, by an operator of fp32"),
        (
            kind == "Gather" and "int" in precision,
            "an embedding is read, not computed; its rows are stored as int8",
        ),
        (precision.endswith("weights"), "weights are stored as integers and computed in fp32"),
        (precision != "fp32", f"computed in {precision}"),
        (
            kind == "GatherND" or (kind == "Gather" and axes < 2),
            "it reads what is no row of a table, which stays as it is",
        ),
        (
            kind == "Gather" and bool(precisions - {"fp32"}),
            "its table is read along its columns, or by another node as well",
        ),
        (narrow, f"onnxruntime has no int8 {kind}, and under {LEAST_UNITS} units none gains"),
        (
            recurrent,
            f"onnxruntime has no int8 {kind}; step by step it was slower or lost too much",
        ),
        (not weights, "both sides are computed: there are no weights to quantize"),
        (kind == "ConvTranspose", "onnxruntime has no int8 ConvTranspose"),
        (kind == "Einsum", "onnxruntime has no int8 Einsum, and this one is no product of two"),
        (
            stored and size < LEAST_VALUES,
            f"fewer than {LEAST_VALUES} weights do not pay for their scales",
        ),
        (
            product and size < LEAST_PRODUCT,
            f"fewer than {LEAST_PRODUCT:,} weights do not pay for the conversion",
        ),
        (product and dynamic and axes < 2, "dynamic int8 has no product with a vector of weights"),
        (
            dynamic and entry.on_left,
            "dynamic int8 has no product with weights on the left",
        ),
        (
            kind == "LSTM",
            "static int8 has no LSTM, and the dynamic one was slower or lost too much",
        ),
        (
            kind.startswith("Conv") and dynamic,
            "convolutions are faster in fp32 than with ranges taken in each call",
        ),
        (
            bool(entry.path) and "int8 (static)" in precisions,
            f"{_LEFT}, or no range is known there",
        ),
    ]
    return next((reason for holds, reason in reasons if holds), _LEFT)

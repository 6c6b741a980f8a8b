"""What training left: the file against the module it was trained as, and what stayed fp32."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from onnx import ModelProto, NodeProto

from compress.data.answers import answer
from compress.data.task import Split
from compress.errors import ExportMismatch
from compress.export.graph import COMPUTING, RECURRENT
from compress.measure.quality import run_onnx
from compress.quantization.integer_product import LEAST_PRODUCT
from compress.quantization.qat.graph import QuantizedGraph
from compress.quantization.qat.points import constants
from compress.runtime.onnxruntime import Session

#: Allowed mean difference of the outputs, relative to their standard deviation. Sums in another
#: order turn a rounding here and there; an int8 kernel that saturates is far above this.
TOLERANCE = 0.05


def compare(graph: QuantizedGraph, path: Path, split: Split, *, labels: bool) -> dict[str, Any]:
    """Run the file in onnxruntime beside the module.

    Args:
        labels: whether outputs are scores, whose largest one is the answer.

    Returns:
        The largest and the mean difference, relative to the standard deviation of the outputs, and
        the share of equal answers.

    Raises:
        ExportMismatch: the file computes something else.
    """
    graph.eval()
    with torch.inference_mode():
        expected = answer(lambda inputs: graph(*inputs).numpy(), split, mixed=True)
    found = run_onnx(Session(path), split)
    difference, deviation = np.abs(expected - found), max(float(expected.std()), 1e-12)
    mean = float(difference.mean()) / deviation
    if not mean <= TOLERANCE:
        raise ExportMismatch(
            f"{path}: outputs of the int8 file and of the model in training differ by {mean:.3g} "
            f"standard deviations on average; allowed is {TOLERANCE:g}. Does this CPU saturate "
            "sums of int8 products? Then train with activations=int8."
        )
    evidence = {
        "samples": len(split),
        "max_difference": float(difference.max()) / deviation,
        "mean_difference": mean,
    }
    if labels:
        same = expected.argmax(axis=-1) == found.argmax(axis=-1)
        evidence["equal_answers"] = float(same.mean())
    return evidence


def left_in_fp32(model: ModelProto) -> list[dict[str, str]]:
    """The computing nodes that did not become int8, each with the reason."""
    makers = {name: node for node in model.graph.node for name in node.output}
    sizes = {name: values.size for name, values in constants(model.graph).items()}
    found = []
    for node in model.graph.node:
        if node.op_type in COMPUTING:
            reason = _reason(node, makers, sizes)
            if reason:
                found.append({"node": node.name, "operator": node.op_type, "reason": reason})
    return found


def _reason(node: NodeProto, makers: dict[str, NodeProto], sizes: dict[str, int]) -> str:
    """Why a node computes in fp32; empty where it does not."""
    if all(_quantized(makers.get(name)) for name in node.input[:2]):
        return ""
    if node.op_type in RECURRENT:
        return "onnxruntime has no int8 operator for it" if node.op_type != "LSTM" else "left out"
    size = sizes.get(node.input[1])
    if size is None:
        stored = _quantized(makers.get(node.input[1]))
        return "int8 weights, fp32 arithmetic" if stored else "both sides are computed"
    if size < LEAST_PRODUCT and node.op_type in ("MatMul", "Gemm"):
        return f"{size} weights: int8 would cost more than it saves"
    return "left out"


def _quantized(maker: NodeProto | None) -> bool:
    return maker is not None and maker.op_type == "DequantizeLinear"


def scale_summary(graph: QuantizedGraph) -> dict[str, Any]:
    """How many scales there are, and by which share they moved while they were learned."""
    return {
        kind: {"tensors": len(moved), "median_change": _median(moved), "largest_change": max(moved)}
        for kind, moved in _moved(graph)
        if moved
    }


def _moved(graph: QuantizedGraph) -> Iterator[tuple[str, list[float]]]:
    changes = graph.scale_changes()
    activations = graph.points.activations.keys()
    yield "activations", [value for name, value in changes.items() if name in activations]
    yield "weights", [value for name, value in changes.items() if name not in activations]


def _median(values: list[float]) -> float:
    return float(np.median(values))

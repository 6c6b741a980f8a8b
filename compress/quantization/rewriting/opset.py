"""Graphs raised to an opset that has scales by channel, and more operators."""

from __future__ import annotations

from functools import partial

import onnx
from onnx import ModelProto, helper

from compress.export.bodies import graphs
from compress.quantization.rewriting.constants import lift_constants
from compress.quantization.rewriting.files import without_weights
from compress.quantization.rewriting.graph import opset

#: Tried in this order. 13 has scales by channel, 17 LayerNormalization, 20 Gelu, and no later one
#: anything that is needed here; 18 is for graphs whose operators changed after it.
OPSETS = (20, 18, 17, 13)


def raise_opset(version: int, model: ModelProto) -> int:
    """Convert to a newer opset; returns how many versions it was raised by, 0 for none."""
    before = opset(model)
    if not 0 < before < version:
        return 0
    declared = _declared(model)
    without_weights(model, partial(_convert, version))
    for graph, outputs in zip(list(graphs(model.graph))[1:], declared, strict=True):
        # The converter gives what has no shape the shape of a single number.
        graph.ClearField("output")
        graph.output.extend(outputs)
    for graph in graphs(model.graph):
        graph.ClearField("value_info")
    lift_constants(model)  # that the converter made, such as axes
    least: int = helper.find_min_ir_version_for(list(model.opset_import), ignore_unknown=True)
    model.ir_version = max(model.ir_version, least)
    return version - before


def _convert(version: int, model: ModelProto) -> ModelProto:
    return onnx.version_converter.convert_version(model, version)


def _declared(model: ModelProto) -> list[list[onnx.ValueInfoProto]]:
    """The outputs of each body, copied."""
    copies = ModelProto()
    copies.CopyFrom(model)
    return [list(graph.output) for graph in list(graphs(copies.graph))[1:]]

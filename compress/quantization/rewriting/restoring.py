"""Weights that a file stores as integers, as the fp32 numbers that they stand for.

onnxruntime restores them in every call or rounds what they are multiplied with, and its quantizers
take a weight for one only where it is a constant: left alone, such a model has nothing that could
become int8.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnxruntime as ort
from onnx import ModelProto, NodeProto, TensorProto, ValueInfoProto, helper, numpy_helper

from compress.quantization.editing import Array
from compress.quantization.rewriting.graph import Graph, copied

_NARROW = (TensorProto.INT8, TensorProto.UINT8, TensorProto.INT4, TensorProto.UINT4)
#: Parts of the names of operators that compute with integers; a graph with them stays as it is.
_COMPUTING = ("quantizelinear", "qlinear", "integer", "quantizematmul", "quantizelstm", "nbits")
#: What stands between stored integers and the weight, in the ways that quantizers write it.
_RESTORING = {"Cast", "DequantizeLinear", "Div", "Mul", "Reshape", "Sub", "Transpose"}


def restore_weights(model: ModelProto) -> int:
    """Compute what restores stored weights, once; returns how many nodes that did."""
    restoring = _restoring(model)
    if not restoring:
        return 0
    gone = {name for node in restoring for name in node.output}
    kept = [copied(node) for node in model.graph.node if not gone & set(node.output)]
    wanted = gone & {name for node in kept for name in node.input}
    weights = _computed(model, restoring, sorted(wanted))
    del model.graph.node[:]
    model.graph.node.extend(kept)
    model.graph.initializer.extend(
        numpy_helper.from_array(values, name) for name, values in weights
    )
    return len(restoring)


def _restoring(model: ModelProto) -> list[NodeProto]:
    """The nodes whose inputs are constants and hold integers of few bits, or come from such."""
    graph, found = Graph(model), list[NodeProto]()
    others = {node.op_type.lower() for node in model.graph.node} - {"dequantizelinear"}
    if any(part in kind for kind in others for part in _COMPUTING):
        return []
    narrow = {tensor.name for tensor in model.graph.initializer if tensor.data_type in _NARROW}
    results = {value.name for value in model.graph.output}
    for node in graph.nodes(*_RESTORING):
        names = [name for name in node.input if name]
        known = all(name in narrow or graph.is_constant(name) for name in names)
        stored = node.op_type == "DequantizeLinear" or not narrow.isdisjoint(names)
        if known and stored and node.output[0] not in results:
            narrow.add(node.output[0])
            found.append(copied(node))
    return found


def _computed(
    model: ModelProto, nodes: list[NodeProto], names: list[str]
) -> Iterator[tuple[str, Array]]:
    """What these nodes give, by onnxruntime's own kernels."""
    read = {name for node in nodes for name in node.input}
    tensors = [tensor for tensor in model.graph.initializer if tensor.name in read]
    outputs = [ValueInfoProto(name=name) for name in names]
    graph = helper.make_graph(nodes, "stored", [], outputs, tensors)
    opsets = list(model.opset_import)
    alone = helper.make_model(graph, opset_imports=opsets, ir_version=model.ir_version)
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    session = ort.InferenceSession(
        alone.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    for name, values in zip(names, session.run(None, {}), strict=True):
        yield name, np.asarray(values)

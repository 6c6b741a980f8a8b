"""What follows an embedding, computed once for the table instead of for each token.

Sums and products with constants and activations change each row by itself, so that the row of a
changed table is the changed row: the scale of a Transformer's embedding, a bias and an activation
behind one-hot vectors.
"""

from __future__ import annotations

import numpy as np
import onnxruntime as ort
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from compress.quantization.editing import Array
from compress.quantization.rewriting.graph import Graph, attribute, copied

_BENDING = ("Gelu", "Relu", "Tanh", "Sigmoid", "HardSwish", "HardSigmoid", "Neg", "Exp", "Elu")
_COMBINING = ("Add", "Sub", "Mul", "Div")


def compute_on_tables(model: ModelProto) -> int:
    """Returns how many nodes were moved into tables that nothing else reads."""
    total = 0
    while count := _compute_once(model):
        total += count
    return total


def _compute_once(model: ModelProto) -> int:
    graph = Graph(model)
    for node in graph.nodes("Gather"):
        reader = graph.only_reader(node.output[0])
        alone = graph.only_reader(node.input[0]) is not None
        if reader is None or not alone or attribute(node, "axis", 0) != 0:
            continue
        table = graph.constant(node.input[0])
        if table is None or table.ndim != 2 or table.dtype != np.float32:
            continue
        changed = _changed(graph, node, reader, table)
        if changed is None or changed.shape != table.shape:
            continue
        stored = graph.add_constant(node.input[0], changed)
        new = graph.add_node("Gather", [stored, node.input[1]], reader.output[0], axis=0)
        graph.replace(reader, {node.input[1]}, [new])
    return graph.finish()


def _changed(graph: Graph, node: NodeProto, reader: NodeProto, table: Array) -> Array | None:
    """The table after what reads its rows; None where that is not done row by row."""
    result, rows = reader.output[0], node.output[0]
    if graph.maker(result, *_BENDING) is not None:
        return _run(graph.opset, reader, {rows: table})
    if graph.maker(result, *_COMBINING) is None:
        return None
    other = next((name for name in reader.input if name != rows), "")
    values, rank = graph.constant(other), graph.rank(rows) or 1
    if values is None or values.ndim > rank or any(size != 1 for size in values.shape[:-1]):
        return None
    return _run(graph.opset, reader, {rows: table, other: values.reshape(values.shape[-1:])})


def _run(opset: int, node: NodeProto, values: dict[str, Array]) -> Array:
    """What onnxruntime's own kernel makes of these values."""
    tensors = [numpy_helper.from_array(values[name], name) for name in values]
    result = helper.make_tensor_value_info(node.output[0], TensorProto.FLOAT, None)
    graph = helper.make_graph([copied(node)], "table", [], [result], tensors)
    opsets = [helper.make_opsetid("", opset)]
    version = helper.find_min_ir_version_for(opsets)
    model = helper.make_model(graph, opset_imports=opsets, ir_version=version)
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, {})[0])

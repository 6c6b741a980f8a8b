"""Small graphs with If, Loop and Scan, written by hand."""

from __future__ import annotations

import signal

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from compress.export.bodies import graphs
from compress.runtime.onnxruntime import Session

KINDS = {np.float32: TensorProto.FLOAT, np.int64: TensorProto.INT64, bool: TensorProto.BOOL}
RANDOM = np.random.default_rng(0)


def normal(*shape):
    return RANDOM.standard_normal(shape).astype(np.float32)


def value(name, shape=(None, None), kind=np.float32):
    return helper.make_tensor_value_info(name, KINDS[kind], shape)


def tensors(constants):
    return [numpy_helper.from_array(np.asarray(array), name) for name, array in constants.items()]


def body(nodes, outputs, constants=None, inputs=()):
    """Outputs are fp32 of any shape, or what `value` makes."""
    outputs = [value(name, None) if isinstance(name, str) else name for name in outputs]
    return helper.make_graph(nodes, "body", list(inputs), outputs, tensors(constants or {}))


def branches(condition, outputs, then, otherwise, name=""):
    return helper.make_node(
        "If", [condition], outputs, name=name, then_branch=then, else_branch=otherwise
    )


def model(nodes, inputs, outputs, constants=None, opset=18):
    """Inputs and outputs as `value` makes them."""
    graph = helper.make_graph(nodes, "g", inputs, outputs, tensors(constants or {}))
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=9)


def saved(found, path):
    onnx.checker.check_model(found)
    onnx.save(found, path)
    return path


def node(kind, inputs, output, **settings):
    return helper.make_node(kind, inputs, [output], **settings)


def inlined(change, source, folder, *feeds):
    """How many If a change replaces, and how many are left; the outputs stay what they are."""
    before = run(saved(source, folder / "a.onnx"), *feeds)
    count = change(source)
    for want, got in zip(before, run(saved(source, folder / "b.onnx"), *feeds), strict=True):
        np.testing.assert_array_equal(got, want)
    return count, sum(n.op_type == "If" for graph in graphs(source.graph) for n in graph.node)


def run(path, *feeds):
    return Session(path).every_output(feeds)


def crash_over_if(path):
    """As onnxruntime 1.31 does over Silero VAD with its rate and state fixed."""
    if any(node.op_type == "If" for node in onnx.load(path).graph.node):
        signal.raise_signal(signal.SIGSEGV)


def crash(path):
    signal.raise_signal(signal.SIGSEGV)


def crash_over_known(path):
    if any(node.name == "known" for node in onnx.load(path).graph.node):
        signal.raise_signal(signal.SIGSEGV)

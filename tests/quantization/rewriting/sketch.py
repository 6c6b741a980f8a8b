"""Small ONNX graphs written like formulas, and onnxruntime without any of its own fusions."""

from __future__ import annotations

import math
from collections import Counter

import numpy as np
import onnx
import onnxruntime as ort
from onnx import TensorProto, helper, numpy_helper

from compress.runtime.onnxruntime import Session

RANDOM = np.random.default_rng(0)
TYPES = {np.float32: TensorProto.FLOAT, np.int64: TensorProto.INT64, bool: TensorProto.BOOL}


class Sketch:
    """`g.Mul(x, 0.5)` adds a node and gives the name of its result; numbers become constants."""

    def __init__(self, opset=18):
        self.opset, self.nodes, self.constants = opset, [], []
        self.inputs, self.outputs = [], []

    def input(self, name="x", shape=("batch", 4, 8), kind=np.float32):
        self.inputs.append(helper.make_tensor_value_info(name, TYPES[kind], shape))
        return name

    def constant(self, values, kind=np.float32):
        name = f"c{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.array(values, kind), name))
        return name

    def __getattr__(self, kind):
        def add(*inputs, outputs=1, **attributes):
            names = [f"v{len(self.nodes)}_{number}" for number in range(outputs)]
            read = [x if isinstance(x, str) else self.constant(x) for x in inputs]
            self.nodes.append(helper.make_node(kind, read, names, **attributes))
            return names[0] if outputs == 1 else names

        return add

    def mean(self, x, *axes):
        if self.opset < 18:
            return self.ReduceMean(x, axes=axes)
        return self.ReduceMean(x, self.constant(axes, np.int64))

    def output(self, name, shape=None, kind=np.float32):
        self.outputs.append(helper.make_tensor_value_info(name, TYPES[kind], shape))
        return self

    def model(self, **settings):
        graph = helper.make_graph(
            self.nodes, "sketch", self.inputs, self.outputs, self.constants, **settings
        )
        opsets = [helper.make_opsetid("", self.opset), helper.make_opsetid("com.microsoft", 1)]
        version = 8 if self.opset < 20 else 10
        return helper.make_model(graph, opset_imports=opsets, ir_version=version)


def kinds(model):
    return Counter(node.op_type for node in model.graph.node)


def run(model, *feeds):
    """All outputs, every node computed as it stands."""
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 3
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(model.SerializeToString(), options)
    names = [value.name for value in session.get_inputs()]
    return session.run(None, dict(zip(names, feeds, strict=True)))


def extremes(shape, seed=0):
    """Random numbers of all magnitudes, tiny to large, both signs, and zeros."""
    random = np.random.default_rng(seed)
    values = random.standard_normal(shape) * 10.0 ** random.integers(-6, 3, shape)
    values.flat[::7] = 0.0
    return values.astype(np.float32)


def numbers(*shape):
    return RANDOM.standard_normal(shape).astype(np.float32)


def gelu(g, x):
    return g.Mul(g.Mul(x, g.Add(g.Erf(g.Div(x, math.sqrt(2))), 1)), 0.5)


def layer_norm(g, x):
    centred = g.Sub(x, g.mean(x, -1))
    variance = g.Add(g.mean(g.Pow(centred, 2), -1), 1e-5)
    quotient = g.Div(centred, g.Sqrt(variance))
    return g.Add(g.Mul(quotient, g.constant(numbers(8))), g.constant(numbers(8)))


def constants_as_nodes(model):
    """As torch writes them before its optimizer."""
    nodes = [
        helper.make_node("Constant", [], [tensor.name], value=tensor)
        for tensor in model.graph.initializer
    ]
    nodes += model.graph.node
    del model.graph.initializer[:]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    return model


def save(model, path):
    onnx.save(model, path)
    return path


def block(opset=11, shape=("batch", None, 8), result=("batch", None, 8)):
    g = Sketch(opset)
    x = g.MatMul(g.input(shape=shape), g.constant(numbers(8, 8)))
    return g.output(layer_norm(g, gelu(g, x)), result).model()


def same_outputs(source, target, *feeds):
    expected, found = (Session(path).every_output(feeds) for path in (source, target))
    for want, got in zip(expected, found, strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)


def by_name(rewrites):
    return {rewrite.name: rewrite for rewrite in rewrites}

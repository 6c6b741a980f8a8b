"""Each operator against onnxruntime, alone in a graph, with the attributes that change it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import NodeProto, TensorProto, helper, numpy_helper

from compress.errors import InputError
from compress.quantization.qat.graph import QuantizedGraph
from compress.runtime.onnxruntime import Session

RANDOM = np.random.default_rng(0)
IMAGE, STEPS, MATRIX = (3, 4, 9, 8), (7, 3, 5), (3, 6)


def normal(*shape: int) -> np.ndarray:
    return RANDOM.standard_normal(shape).astype(np.float32)


def ints(*values: int) -> np.ndarray:
    return np.array(values, np.int64)


def recurrent(gates: int, directions: int, *, lengths: bool) -> dict[str, np.ndarray]:
    found = {
        "w": normal(directions, gates * 4, 5),
        "r": normal(directions, gates * 4, 4),
        "b": normal(directions, 2 * gates * 4),
    }
    return found | ({"n": np.array([7, 2, 5], np.int32)} if lengths else {})


#: Name to operator, shape of x, constants behind it, and attributes.
CASES: dict[str, tuple[str, tuple[int, ...], dict[str, np.ndarray], dict[str, Any]]] = {
    "a convolution": ("Conv", IMAGE, {"w": normal(6, 4, 3, 3), "b": normal(6)}, {}),
    "strides, groups and an uneven border": (
        "Conv",
        IMAGE,
        {"w": normal(6, 2, 3, 2)},
        {"strides": [2, 1], "group": 2, "pads": [1, 0, 2, 1], "dilations": [1, 2]},
    ),
    "a border found by the size": (
        "Conv",
        IMAGE,
        {"w": normal(6, 4, 3, 2)},
        {"strides": [2, 2], "auto_pad": "SAME_UPPER"},
    ),
    "over time": ("Conv", STEPS, {"w": normal(6, 3, 3)}, {"pads": [1, 1]}),
    "a transposed convolution": (
        "ConvTranspose",
        IMAGE,
        {"w": normal(4, 5, 3, 3), "b": normal(5)},
        {"strides": [2, 2], "pads": [1, 1, 1, 1], "output_padding": [1, 0]},
    ),
    "Gemm": (
        "Gemm",
        MATRIX,
        {"w": normal(5, 6), "b": normal(5)},
        {"transB": 1, "alpha": 0.5, "beta": 2.0},
    ),
    "MatMul": ("MatMul", STEPS, {"w": normal(5, 4)}, {}),
    "max pooling": (
        "MaxPool",
        IMAGE,
        {},
        {"kernel_shape": [3, 2], "strides": [2, 2], "pads": [1, 0, 1, 1], "ceil_mode": 1},
    ),
    "average pooling": (
        "AveragePool",
        IMAGE,
        {},
        {"kernel_shape": [3, 2], "strides": [2, 2], "pads": [1, 0, 1, 1]},
    ),
    "average pooling with the border": (
        "AveragePool",
        IMAGE,
        {},
        {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1], "count_include_pad": 1},
    ),
    "global pooling": ("GlobalAveragePool", IMAGE, {}, {}),
    "batch normalization": (
        "BatchNormalization",
        IMAGE,
        {"g": normal(4), "b": normal(4), "m": normal(4), "v": normal(4) ** 2 + 0.1},
        {},
    ),
    "layer normalization": ("LayerNormalization", STEPS, {"g": normal(5), "b": normal(5)}, {}),
    "instance normalization": (
        "InstanceNormalization",
        IMAGE,
        {"g": normal(4), "b": normal(4)},
        {},
    ),
    "softmax": ("Softmax", STEPS, {}, {"axis": 1}),
    "clip": ("Clip", MATRIX, {"low": np.float32(-0.5), "high": np.float32(0.7)}, {}),
    "GELU": ("Gelu", MATRIX, {}, {"approximate": "tanh"}),
    "leaky": ("LeakyRelu", MATRIX, {}, {"alpha": 0.2}),
    "hard swish": ("HardSwish", MATRIX, {}, {}),
    "hard sigmoid": ("HardSigmoid", MATRIX, {}, {}),
    "mean": ("ReduceMean", IMAGE, {"axes": ints(2, -1)}, {"keepdims": 0}),
    "sum of all": ("ReduceSum", STEPS, {}, {}),
    "product": ("ReduceProd", STEPS, {"axes": ints(0, 2)}, {"keepdims": 0}),
    "norm": ("ReduceL2", STEPS, {"axes": ints(1)}, {}),
    "running sum": ("CumSum", STEPS, {"axis": np.array(1)}, {"exclusive": 1, "reverse": 1}),
    "slice": (
        "Slice",
        STEPS,
        {"s": ints(-1, 1), "e": ints(-(1 << 62), 9), "a": ints(0, 2), "t": ints(-2, 1)},
        {},
    ),
    "gather": ("Gather", STEPS, {"i": ints(0, -1, 2)}, {"axis": 2}),
    "gather elements": ("GatherElements", MATRIX, {"i": ints(0, -1, 2).reshape(3, 1)}, {"axis": 1}),
    "gather ND": ("GatherND", STEPS, {"i": ints(0, 1, 2, 2).reshape(2, 2)}, {}),
    "expand": ("Expand", (3, 1), {"s": ints(2, 1, 4)}, {}),
    "pad": ("Pad", MATRIX, {"p": ints(1, 2, 0, 1), "v": np.float32(3)}, {}),
    "reshape": ("Reshape", STEPS, {"s": ints(0, -1)}, {}),
    "flatten": ("Flatten", IMAGE, {}, {"axis": 2}),
    "squeeze": ("Squeeze", (3, 1, 4, 1), {"a": ints(-1)}, {}),
    "unsqueeze": ("Unsqueeze", MATRIX, {"a": ints(-1, 0)}, {}),
    "transpose": ("Transpose", STEPS, {}, {"perm": [2, 0, 1]}),
    "transpose all": ("Transpose", STEPS, {}, {}),
    "tile": ("Tile", MATRIX, {"r": ints(2, 3)}, {}),
    "triangle": ("Trilu", MATRIX, {"k": np.array(1)}, {"upper": 0}),
    "reversed": ("ReverseSequence", STEPS, {"n": ints(7, 2, 5)}, {"time_axis": 0, "batch_axis": 1}),
    "reversed, batch first": (
        "ReverseSequence",
        STEPS,
        {"n": ints(3, 2, 1, 3, 2, 1, 3)},
        {"time_axis": 1, "batch_axis": 0},
    ),
    "LSTM": ("LSTM", STEPS, recurrent(4, 1, lengths=False), {"hidden_size": 4}),
    "LSTM, both ways, padded": (
        "LSTM",
        STEPS,
        recurrent(4, 2, lengths=True),
        {"hidden_size": 4, "direction": "bidirectional"},
    ),
    "GRU, backward, padded": (
        "GRU",
        STEPS,
        recurrent(3, 1, lengths=True),
        {"hidden_size": 4, "direction": "reverse", "linear_before_reset": 1},
    ),
    "RNN": (
        "RNN",
        STEPS,
        recurrent(1, 1, lengths=False),
        {"hidden_size": 4, "activations": ["Relu"]},
    ),
}


def single(
    path: Path, node: NodeProto, shape: tuple[int, ...], constants: dict[str, np.ndarray]
) -> Path:
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", *shape[1:]])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    tensors = [numpy_helper.from_array(np.asarray(v), name) for name, v in constants.items()]
    graph = helper.make_graph([node], "g", [x], [y], tensors)
    opsets = [helper.make_opsetid("", 20)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=9), path)
    return path


@pytest.mark.parametrize("name", CASES)
def test_an_operator_gives_what_onnxruntime_gives(tmp_path: Path, name: str) -> None:
    kind, shape, constants, attributes = CASES[name]
    node = helper.make_node(kind, ["x", *constants], ["y"], **attributes)
    if kind == "LSTM" and "n" in constants:  # b, then lengths
        node = helper.make_node(kind, ["x", "w", "r", "b", "n"], ["y"], **attributes)
    if kind == "ReduceSum" and not constants:
        node = helper.make_node(kind, ["x"], ["y"], **attributes)
    path = single(tmp_path / "m.onnx", node, shape, constants)
    x = np.random.default_rng(1).standard_normal(shape).astype(np.float32)
    expected = onnxruntime.InferenceSession(path).run(None, {"x": x})[0]
    with torch.no_grad():
        found = QuantizedGraph(onnx.load(path))(torch.from_numpy(x)).numpy()
    assert found.shape == expected.shape
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_split_without_sizes_and_attention_are_those_of_onnxruntime(tmp_path: Path) -> None:
    names = ["query", "key", "value"]
    nodes = [
        helper.make_node("Split", ["x"], names, axis=2, num_outputs=3),
        helper.make_node("Attention", names, ["y"], q_num_heads=2, kv_num_heads=2, scale=0.3),
    ]
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", "t", 24])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", "t", 8])
    graph = helper.make_graph(nodes, "g", [x], [y])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 23)], ir_version=11)
    onnx.save(model, tmp_path / "m.onnx")
    values = normal(2, 5, 24)
    with torch.no_grad():
        found = QuantizedGraph(model)(torch.from_numpy(values)).numpy()
    np.testing.assert_allclose(found, Session(tmp_path / "m.onnx").run(values), atol=1e-5)


@pytest.mark.parametrize(
    ("node", "words"),
    [
        (helper.make_node("Mish", ["x"], ["y"]), "QAT cannot train through Mish: no gradient"),
        (
            helper.make_node("Pad", ["x", "p"], ["y"], mode="reflect"),
            "Pad with mode 'reflect' cannot be trained",
        ),
        (
            helper.make_node("GRU", ["x", "w", "r", "b"], ["y"], hidden_size=4),
            "a GRU with linear_before_reset=0 cannot be trained",
        ),
        (
            helper.make_node("LSTM", ["x", "l", "lr", "lb"], ["y"], hidden_size=4, clip=1.0),
            "a recurrent layer with other activations, a clip or another layout",
        ),
    ],
)
def test_what_cannot_be_trained_is_named(tmp_path: Path, node: NodeProto, words: str) -> None:
    lstm = {f"l{key}".replace("lw", "l"): v for key, v in recurrent(4, 1, lengths=False).items()}
    constants = {"p": ints(1, 1), **recurrent(3, 1, lengths=False), **lstm}
    path = single(tmp_path / "m.onnx", node, STEPS, constants)
    with pytest.raises(InputError, match=words):
        QuantizedGraph(onnx.load(path))(torch.zeros(STEPS))

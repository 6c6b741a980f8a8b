"""Chains of layers as ONNX graphs, small enough to quantize many times."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from compress.quantization.calibration import collect
from compress.quantization.config import QuantizeConfig
from compress.quantization.rewriting.constants import name_nodes
from compress.quantization.static import quantize_static_int8

CONFIG = QuantizeConfig(per_channel=False)


def products(count: int, width: int = 8, hard: tuple[int, ...] = ()) -> onnx.ModelProto:
    """Gemm and Relu by turns, (n, width) → (n, width), the last without Relu.

    Layers in `hard` have a weight of 300 for a feature that is always zero: in fp32 it changes
    nothing, in int8 with one scale for the matrix it leaves no digits for the others.
    """
    random, nodes, tensors, name = np.random.default_rng(0), [], [], "x"
    for at in range(count):
        weight = random.normal(0, (2 / width) ** 0.5, (width, width)).astype(np.float32)
        bias = random.normal(0, 0.1, width).astype(np.float32)
        if at in hard:
            weight[0, 0] = 300
        if at + 1 in hard:
            weight[:, 0] = bias[0] = 0
        tensors += [
            numpy_helper.from_array(weight, f"w{at}"),
            numpy_helper.from_array(bias, f"b{at}"),
        ]
        out = "y" if at == count - 1 else f"h{at}"
        nodes.append(helper.make_node("Gemm", [name, f"w{at}", f"b{at}"], [out], f"layer{at}"))
        if out != "y":
            nodes.append(helper.make_node("Relu", [out], [f"r{at}"], f"relu{at}"))
        name = f"r{at}"
    return model(nodes, tensors, {"x": ["n", width]}, {"y": ["n", width]})


def convolutions(hard: int | None = None) -> onnx.ModelProto:
    """Three convolutions, pooling and a product: (n, 2, 8, 8) → (n, 4) and (n, 6, 1, 1)."""
    random, width = np.random.default_rng(1), 6
    nodes, tensors, name = [], [], "x"
    for at, channels in enumerate((2, width, width)):
        weight = random.normal(0, (1 / channels) ** 0.5, (width, channels, 3, 3)) / 3
        if hard is not None and at == hard:
            weight[0, 0] = 30
        if hard is not None and at + 1 == hard:
            weight[0] = 0
        tensors.append(numpy_helper.from_array(weight.astype(np.float32), f"w{at}"))
        pads = [1, 1, 1, 1]
        nodes.append(helper.make_node("Conv", [name, f"w{at}"], [f"c{at}"], f"conv{at}", pads=pads))
        nodes.append(helper.make_node("Relu", [f"c{at}"], [f"r{at}"], f"relu{at}"))
        name = f"r{at}"
    tensors.append(numpy_helper.from_array(random.normal(size=(width, 4)).astype(np.float32), "w"))
    nodes += [
        helper.make_node("GlobalAveragePool", [name], ["p"], "pool"),
        helper.make_node("Flatten", ["p"], ["f"], "flat"),
        helper.make_node("MatMul", ["f", "w"], ["y"], "head"),
    ]
    return model(nodes, tensors, {"x": ["n", 2, 8, 8]}, {"y": ["n", 4], "p": ["n", width, 1, 1]})


def model(nodes, tensors, inputs, outputs) -> onnx.ModelProto:
    """A graph of floating-point inputs and outputs, by name and shape."""
    given, made = (
        [
            helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
            for name, shape in of.items()
        ]
        for of in (inputs, outputs)
    )
    graph = helper.make_graph(nodes, "g", given, made, tensors)
    opset = [helper.make_opsetid("", 18)]
    found = helper.make_model(graph, opset_imports=opset, ir_version=9)
    name_nodes(found)
    return found


def saved(found: onnx.ModelProto, folder: Path) -> Path:
    """The model as a file."""
    onnx.save(found, folder / "fp32.onnx")
    return folder / "fp32.onnx"


def batches(shape: tuple[int, ...], count: int = 2, rows: int = 16) -> list[tuple[np.ndarray]]:
    """Batches of normal numbers, the same at every call."""
    random = np.random.default_rng(2)
    return [(random.normal(size=(rows, *shape)).astype(np.float32),) for _ in range(count)]


class StaticMaker:
    """`Make` by static QDQ of what computes; keeps what each file left in fp32."""

    def __init__(self, source: Path, samples: list, kinds=("Conv", "Gemm", "MatMul")) -> None:
        self.source, self.kinds = source, kinds
        self.ranges = collect(source, samples).ranges()
        self.kept: dict[str, frozenset[str]] = {}

    def __call__(self, keep: frozenset[str], path: Path) -> None:
        self.kept[path.name] = keep
        quantize_static_int8(
            self.source, path, self.ranges, CONFIG, keep_fp32=tuple(sorted(keep)), kinds=self.kinds
        )

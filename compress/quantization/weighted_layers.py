"""Layers of an ONNX graph whose weights can be changed: convolutions and products by a constant."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
from onnx import NodeProto, helper, numpy_helper

from compress.export.bodies import bodies
from compress.quantization.editing import attributes
from compress.quantization.rewriting.files import save
from compress.quantization.scopes import all_names, captured, fresh_name

Weight = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Layer:
    """A convolution, or a product with a constant matrix and what is added to it.

    Attributes:
        node: Conv, Gemm or MatMul.
        weight, bias: names of constants; `bias` is empty where there is none.
        output: the value behind the bias.
        output_axis, input_axis: of the weight; the same one for a depthwise convolution.
    """

    node: NodeProto
    weight: str
    bias: str
    output: str
    output_axis: int
    input_axis: int

    @property
    def input(self) -> str:
        """The value that is multiplied by the weight."""
        return str(self.node.input[0])

    @property
    def channel_axis(self) -> int:
        """Of the input's and the output's channels."""
        return 1 if self.node.op_type == "Conv" else -1


class Network:
    """An ONNX graph as layers; constants that more than one node reads count as no weights.

    Attributes:
        model: the graph, but for what was `set`, which `save` writes.
    """

    def __init__(self, source: Path) -> None:
        self.model = onnx.load(source)
        graph = self.model.graph
        #: Protobuf keeps what a tensor held before for as long as the model lives.
        self._changed: dict[str, Weight] = {}
        self._tensors = {tensor.name: tensor for tensor in graph.initializer}
        self._results = {value.name for value in graph.output}
        for node in graph.node:  # what bodies read stays what it is
            self._results.update(*(captured(body) for _, body in bodies(node)))
        self.made_by = {name: node for node in graph.node for name in node.output}
        self._users: dict[str, list[NodeProto]] = {}
        for node in graph.node:
            for name in set(node.input):
                self._users.setdefault(name, []).append(node)

    def users(self, name: str) -> list[NodeProto]:
        """The nodes that read a value, each once."""
        return self._users.get(name, [])

    def only_user(self, name: str) -> NodeProto | None:
        """The node that reads a value, where it is the only one and the value no output."""
        users = self.users(name)
        return users[0] if len(users) == 1 and name not in self._results else None

    def is_result(self, name: str) -> bool:
        """Whether a value is an output of the graph, or read by the body of an If, Loop or Scan."""
        return name in self._results

    def constant(self, name: str) -> Weight | None:
        """The values of an fp32 constant that one node alone reads."""
        tensor = self._tensors.get(name)
        if tensor is None or len(self.users(name)) != 1 or name in self._results:
            return None
        values = self._changed[name] if name in self._changed else numpy_helper.to_array(tensor)
        return values if values.dtype == np.float32 else None

    def set(self, name: str, values: npt.NDArray[np.floating]) -> None:
        """Give a constant other values."""
        self._changed[name] = values.astype(np.float32)

    def save(self, target: Path) -> None:
        """Write the graph with all that was changed."""
        while self._changed:
            name, values = self._changed.popitem()
            self._tensors[name].CopyFrom(numpy_helper.from_array(values, name))
        save(self.model, target)

    def add_bias(self, layer: Layer, values: npt.NDArray[np.floating]) -> bool:
        """Add to a layer's bias, which a convolution is given where it has none."""
        if layer.bias:
            before = self.constant(layer.bias)
            assert before is not None
            self.set(layer.bias, before + values.reshape(before.shape))
            return True
        if layer.node.op_type != "Conv" or any(layer.node.input[2:]):
            return False
        name = f"{layer.weight}_bias"
        while name in self._tensors or name in self.made_by:
            name += "_"
        tensor = numpy_helper.from_array(values.astype(np.float32), name)
        self.model.graph.initializer.append(tensor)
        layer.node.input[:] = [*layer.node.input[:2], name]
        return True

    def multiply(
        self, name: str, factors: npt.NDArray[np.floating], readers: Sequence[NodeProto]
    ) -> None:
        """Multiply a value's last axis with factors for those that read it as their first input."""
        taken, nodes = all_names(self.model), self.model.graph.node
        factor, result = (fresh_name(f"{name}_{part}", taken) for part in ("factors", "scaled"))
        tensor = numpy_helper.from_array(factors.astype(np.float32), factor)
        self.model.graph.initializer.append(tensor)
        wanted = {id(reader) for reader in readers}
        first = next(place for place, node in enumerate(nodes) if id(node) in wanted)
        nodes.insert(first, helper.make_node("Mul", [name, factor], [result], result))
        for reader in readers:
            reader.input[0] = result

    def layers(self) -> Iterator[Layer]:
        """All layers, in the order of the graph."""
        for node in self.model.graph.node:
            found = {"Conv": self._conv, "Gemm": self._gemm, "MatMul": self._matmul}
            read = found.get(node.op_type)
            layer = read(node) if read and node.domain in ("", "ai.onnx") else None
            if layer is not None:
                yield layer

    def _conv(self, node: NodeProto) -> Layer | None:
        weight = self.constant(node.input[1])
        if weight is None:
            return None
        groups = attributes(node).get("group", 1)
        depthwise = groups > 1 and groups == weight.shape[0] and weight.shape[1] == 1
        if groups > 1 and not depthwise:
            return None
        bias = node.input[2] if len(node.input) > 2 else ""
        if bias and self.constant(bias) is None:
            return None
        return Layer(node, node.input[1], bias, node.output[0], 0, 0 if depthwise else 1)

    def _gemm(self, node: NodeProto) -> Layer | None:
        weight, found = self.constant(node.input[1]), attributes(node)
        plain = found.get("alpha", 1.0) == found.get("beta", 1.0) == 1.0
        if weight is None or not plain or found.get("transA", 0):
            return None
        bias = node.input[2] if len(node.input) > 2 else ""
        out = 0 if found.get("transB", 0) else 1
        added = self.constant(bias) if bias else None
        if bias and (added is None or added.shape != (weight.shape[out],)):
            return None
        return Layer(node, node.input[1], bias, node.output[0], out, 1 - out)

    def _matmul(self, node: NodeProto) -> Layer | None:
        weight = self.constant(node.input[1])
        if weight is None or weight.ndim != 2:
            return None
        user = self.only_user(node.output[0])
        if user is not None and user.op_type == "Add":
            other = user.input[1] if user.input[0] == node.output[0] else user.input[0]
            bias = self.constant(other)
            if bias is not None and bias.shape == (weight.shape[1],):
                return Layer(node, node.input[1], other, user.output[0], 1, 0)
        return Layer(node, node.input[1], "", node.output[0], 1, 0)


def along(values: npt.NDArray[np.floating], axis: int, rank: int) -> npt.NDArray[np.floating]:
    """A vector shaped to broadcast along an axis."""
    shape = [1] * rank
    shape[axis] = -1
    return values.reshape(shape)


def largest(weight: Weight, axis: int) -> npt.NDArray[np.float64]:
    """Largest magnitude of each channel along an axis."""
    others = tuple(i for i in range(weight.ndim) if i != axis)
    return np.asarray(np.abs(weight).max(axis=others), dtype=np.float64)

"""Where a graph is quantized, and which of its constants training may move."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, numpy_helper

from compress.errors import InputError
from compress.export.bodies import graphs
from compress.quantization.editing import Array, attributes
from compress.quantization.qat.fake_quantize import LIMITS

_TYPES = {TensorProto.INT8: "int8", TensorProto.UINT8: "uint8"}
#: By operator, the inputs that are weights where they are fp32 constants.
_TRAINED = {
    "Add": (0, 1),
    "BatchNormalization": (1, 2),
    "Conv": (1, 2),
    "ConvTranspose": (1, 2),
    "DynamicQuantizeLSTM": (3,),
    "DynamicQuantizeMatMul": (4,),
    "GRU": (1, 2, 3),
    "Gather": (0,),
    "Gemm": (1, 2),
    "InstanceNormalization": (1, 2),
    "LSTM": (1, 2, 3),
    "LayerNormalization": (1, 2),
    "MatMul": (0, 1),
    "PRelu": (1,),
    "RNN": (1, 2, 3),
}
#: By operator, the places of int8 constants and of the scales that come with them.
_OWN_SCALES = {
    "DequantizeLinear": ((0, 1),),
    "DynamicQuantizeLSTM": ((1, 8), (2, 10)),
    "DynamicQuantizeMatMul": ((1, 2),),
}


@dataclass(frozen=True)
class Stored:
    """A constant that a graph stores as int8, with scales.

    Attributes:
        scale: name of the scales.
        shape: in which they broadcast against the values.
        zero_point: the integer that stands for 0.
        limits: least and largest integer.
        as_levels: whether nodes read the integers themselves, such as the rows of an embedding,
            instead of what they stand for.
    """

    scale: str
    shape: tuple[int, ...]
    zero_point: float
    limits: tuple[float, float]
    as_levels: bool


@dataclass(frozen=True)
class StoredBias:
    """An int32 bias, whose scale is the product of two others.

    Attributes:
        scale: name of that product.
        factors: names of the scales of what is multiplied; empty where they were not found.
    """

    scale: str
    factors: tuple[str, ...]


@dataclass(frozen=True)
class Activation:
    """How QuantizeLinear rounds what is computed.

    Attributes:
        zero_point: the integer that stands for 0.
        limits: least and largest integer.
    """

    zero_point: float
    limits: tuple[float, float]


@dataclass(frozen=True)
class Points:
    """What is quantized in a graph, and what else can be trained.

    Attributes:
        weights: int8 constants by name.
        biases: int32 constants by name.
        activations: by the name of their scale.
        floats: names of fp32 weights, biases and the like.
    """

    weights: dict[str, Stored]
    biases: dict[str, StoredBias]
    activations: dict[str, Activation]
    floats: set[str]

    @property
    def scales(self) -> set[str]:
        """Names of all scales that can be learned."""
        return {weight.scale for weight in self.weights.values()} | self.activations.keys()


def constants(graph: GraphProto) -> dict[str, Array]:
    """All initializers by name."""
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}


def lift_constants(model: ModelProto) -> ModelProto:
    """A copy whose Constant nodes, those in the bodies of loops left out, are initializers."""
    lifted = ModelProto()
    lifted.CopyFrom(model)
    nodes = list(lifted.graph.node)
    del lifted.graph.node[:]
    for node in nodes:
        if node.op_type == "Constant":
            tensor = numpy_helper.from_array(constant(node), node.output[0])
            lifted.graph.initializer.append(tensor)
        else:
            lifted.graph.node.append(node)
    return lifted


def constant(node: NodeProto) -> Array:
    """The value that a Constant node gives."""
    ((kind, value),) = attributes(node).items()
    if isinstance(value, TensorProto):
        return numpy_helper.to_array(value)
    return np.array(value, np.float32 if "float" in kind else np.int64)


def every_node(graph: GraphProto) -> Iterator[NodeProto]:
    """All nodes, those in the bodies of loops, too."""
    return (node for inner in graphs(graph) for node in inner.node)


def find_points(model: ModelProto) -> Points:
    """Read a quantized graph; see `Points`."""
    return _Reader(model).points()


class _Reader:
    def __init__(self, model: ModelProto) -> None:
        self.nodes = list(every_node(model.graph))
        self.values = constants(model.graph)
        self.types = {tensor.name: tensor.data_type for tensor in model.graph.initializer}
        self.makers = {name: node for node in self.nodes for name in node.output}
        self.users: dict[str, list[NodeProto]] = {}
        for node in self.nodes:
            for name in set(node.input):
                self.users.setdefault(name, []).append(node)

    def points(self) -> Points:
        weights = {name: self._stored(name) for name, kind in self.types.items() if kind in _TYPES}
        found = {name: weight for name, weight in weights.items() if weight is not None}
        biases = {
            node.input[0]: self._bias(node)
            for node in self.nodes
            if node.op_type == "DequantizeLinear"
            and self.types.get(node.input[0]) == TensorProto.INT32
        }
        activations = {
            node.input[1]: self._activation(node)
            for node in self.nodes
            if node.op_type == "QuantizeLinear"
        }
        return Points(found, biases, activations, set(self._floats()))

    def _activation(self, node: NodeProto) -> Activation:
        scale, zero = node.input[1], node.input[2] if len(node.input) > 2 else ""
        kind = self.types.get(zero, TensorProto.INT8) if zero else TensorProto.UINT8
        if scale not in self.values or self.values[scale].size != 1 or kind not in _TYPES:
            raise InputError(
                f"{node.name or node.output[0]}: QuantizeLinear with scales that are no constant, "
                "several, or of other types than int8 and uint8; QAT takes one constant scale."
            )
        limits = (-128.0, 127.0) if kind == TensorProto.INT8 else LIMITS["uint8"]
        return Activation(float(self.values[zero].item()) if zero else 0.0, limits)

    def _stored(self, name: str) -> Stored | None:
        """How a constant is read; None for one without scales, such as a zero point."""
        levels, found = False, None
        for node in self.users.get(name, ()):
            places = _OWN_SCALES.get(node.op_type, ())
            own = [scale for place, scale in places if node.input[place] == name]
            if own:
                zero = node.input[own[0] + 1] if len(node.input) > own[0] + 1 else ""
                shape = self._shape(node, name, node.input[own[0]])
                found = self._with_zero(name, node.input[own[0]], shape, zero)
            elif node.op_type in ("Gather", "Cast") and node.input[0] == name:
                levels, scale = True, self._behind(node)
                if scale:
                    found = self._with_zero(name, scale, self.values[scale].shape, "")
        return None if found is None else Stored(*found, levels)

    def _with_zero(
        self, name: str, scale: str, shape: tuple[int, ...], zero: str
    ) -> tuple[str, tuple[int, ...], float, tuple[float, float]]:
        points = np.unique(self.values[zero]) if zero in self.values else np.zeros(1)
        if len(points) != 1:
            raise InputError(
                f"{name}: has several zero points; QAT takes weights with one. Quantize it with "
                "symmetric weights."
            )
        return scale, shape, float(points[0]), LIMITS[_TYPES[self.types[name]]]

    def _shape(self, node: NodeProto, name: str, scale: str) -> tuple[int, ...]:
        """In which scales broadcast against the constant that they belong to."""
        shape, rank = self.values[scale].shape, self.values[name].ndim
        if node.op_type == "DynamicQuantizeLSTM":
            return (shape[0], 1, *(shape[1:] or (1,)))
        if node.op_type == "DequantizeLinear" and len(shape) == 1 and shape != (1,):
            axis = attributes(node).get("axis", 1) % rank
            return tuple(shape[0] if place == axis else 1 for place in range(rank))
        return shape

    def _behind(self, node: NodeProto) -> str:
        """The scales that multiply what a Gather or Cast gives; empty where there are none."""
        for user in self.users.get(node.output[0], ()):
            if user.op_type in ("Gather", "Cast"):
                return self._behind(user)
            if user.op_type == "DequantizeLinear":
                return str(user.input[1])
            if user.op_type == "Mul":
                other = user.input[1] if user.input[0] == node.output[0] else user.input[0]
                made = self.makers.get(other)
                other = made.input[0] if made is not None and made.op_type == "Gather" else other
                return str(other) if other in self.values else ""
        return ""

    def _bias(self, node: NodeProto) -> StoredBias:
        for user in self.users.get(node.output[0], ()):
            makers = [self.makers.get(name) for name in user.input[:2]]
            factors = [
                made.input[1]
                for made in makers
                if made is not None and made.op_type == "DequantizeLinear"
            ]
            if len(factors) == 2 and len(user.input) > 2 and user.input[2] == node.output[0]:
                return StoredBias(node.input[1], tuple(factors))
        return StoredBias(node.input[1], ())

    def _floats(self) -> Iterator[str]:
        for node in self.nodes:
            for place in _TRAINED.get(node.op_type, ()):
                name = node.input[place] if place < len(node.input) else ""
                if name in self.values and self._is_weight(node, self.values[name]):
                    yield name

    def _is_weight(self, node: NodeProto, values: Array) -> bool:
        """An added number, or a matrix of shares, is no bias; a bias is a vector."""
        if values.dtype != np.float32:
            return False
        if node.op_type == "Add":
            return values.ndim == 1 and values.size > 1
        return node.op_type != "Gather" or values.ndim == 2


def latent(
    name: str, weight: Stored, values: Mapping[str, Array], originals: Mapping[str, Array]
) -> npt.NDArray[np.float32]:
    """The fp32 values that an int8 constant was rounded from, laid out as it is.

    Args:
        values: constants of the quantized graph.
        originals: those of the fp32 graph; what is not found there is dequantized.
    """
    scale = values[weight.scale].reshape(weight.shape)
    found = ((values[name].astype(np.float32) - weight.zero_point) * scale).astype(np.float32)
    base = name.rstrip("_").removesuffix("_quantized").removesuffix("_int8")
    original = originals.get(base.removesuffix("_transposed"))
    if original is None or original.ndim != found.ndim:
        return found
    for candidate in (original, np.swapaxes(original, -1, -2) if found.ndim > 1 else original):
        if candidate.shape == found.shape and (np.abs(candidate - found) <= 0.51 * scale).all():
            return np.ascontiguousarray(candidate, dtype=np.float32)
    return found

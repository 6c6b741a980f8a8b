"""What onnxruntime's own optimizer does to any graph, written down; and the shapes of all values.

Its basic level computes constant parts, merges what adds and scales into convolutions, and removes
what does nothing, in operators that are all ONNX's own.
"""

from __future__ import annotations

import math
from contextlib import suppress
from functools import partial

import onnx
from onnx import ModelProto, TensorProto
from onnxruntime.quantization.quant_utils import add_pre_process_metadata
from onnxruntime.tools.symbolic_shape_infer import SymbolicShapeInference

from compress.export.bodies import graphs
from compress.quantization.rewriting.files import load, save, weight_bytes, without_weights
from compress.quantization.scratch import inside_scratch_folder
from compress.runtime.isolated import Call, here
from compress.runtime.onnxruntime import write_optimized

#: A graph may grow by so many bytes, and by this factor, when constant parts are computed.
_GROWTH_BYTES, _GROWTH = 2**20, 1.25
#: Parts of the names of operators that only quantizers write, in small letters.
_QUANTIZED = ("quantize", "qlinear", "integer", "nbits", "qattention", "qgemm", "qmoe")
#: Weights that are stored as integers; fewer of them than this many may be anything else.
_NARROW = (TensorProto.INT8, TensorProto.UINT8, TensorProto.INT4, TensorProto.UINT4)
_MANY = 1024


#: Rewrites to leave out one after the other, where all of them together fail: what rounds in
#: another way, and what makes constants larger.
DOUBTFUL = (("GeluFusionL1", "LayerNormFusionL1"), ("ConstantFolding",))


class GrowsTooMuch(Exception):
    """Constants that were computed are larger than what computes them."""


def is_quantized(model: ModelProto) -> bool:
    """Whether a graph has integer weights or activations already."""
    every = list(graphs(model.graph))
    kinds = {node.op_type.lower() for graph in every for node in graph.node}
    weights = (tensor for graph in every for tensor in graph.initializer)
    return any(part in kind for kind in kinds for part in _QUANTIZED) or any(
        tensor.data_type in _NARROW and math.prod(tensor.dims) >= _MANY for tensor in weights
    )


def fold(model: ModelProto, *, without: tuple[str, ...] = (), call: Call = here) -> int:
    """Optimize in place; returns how many nodes fewer there are.

    Quantized graphs stay as they are: what is left of them in floating point is there on purpose.

    Args:
        without: names of onnxruntime's rewrites that are left out.
        call: where onnxruntime runs, see `compress.runtime.isolated`.

    Raises:
        GrowsTooMuch: the weights would be much larger than before.
    """
    if is_quantized(model):
        return 0
    before, size = _count(model), weight_bytes(model)
    with inside_scratch_folder() as folder:
        save(model, folder / "model.onnx")
        call(write_optimized, folder / "model.onnx", folder / "optimized.onnx", without)
        found = load(folder / "optimized.onnx")
    grown = weight_bytes(found)
    if grown > size * _GROWTH + _GROWTH_BYTES:
        raise GrowsTooMuch(f"weights would grow from {size} to {grown} bytes")
    model.graph.CopyFrom(found.graph)
    for field in ("opset_import", "functions"):
        del getattr(model, field)[:]
        getattr(model, field).extend(getattr(found, field))
    return max(before - _count(model), 0)


def _count(model: ModelProto) -> int:
    return sum(len(graph.node) for graph in graphs(model.graph))


def infer_shapes(model: ModelProto, *, symbolic: bool = True) -> int:
    """Note the type and shape of every value, as far as they follow.

    Args:
        symbolic: by onnxruntime's inference, too, which follows sizes that vary.

    Returns:
        Of how many values more is known than was noted.
    """
    before = _known(model)
    model.graph.ClearField("value_info")
    without_weights(model, partial(_inferred, symbolic=symbolic))
    add_pre_process_metadata(model)
    return sum(known > before.get(name, 0) for name, known in _known(model).items())


def _known(model: ModelProto) -> dict[str, int]:
    """How much is known of each inner value: its type, its rank, and each of its sizes."""
    found, results = {}, {value.name for value in model.graph.output}
    for value in model.graph.value_info:
        if value.name in results:
            continue
        kind = value.type.tensor_type
        named = [size.HasField("dim_value") or bool(size.dim_param) for size in kind.shape.dim]
        found[value.name] = bool(kind.elem_type) + kind.HasField("shape") + sum(named)
    return found


def _inferred(model: ModelProto, *, symbolic: bool) -> ModelProto:
    if symbolic:
        with inside_scratch_folder(), suppress(Exception):  # what it cannot follow, it raises
            model = SymbolicShapeInference.infer_shapes(model, 2**31 - 1, False, False, 0)
    return onnx.shape_inference.infer_shapes(model, data_prop=True)

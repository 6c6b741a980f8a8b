"""Static int8 quantization as QDQ by onnxruntime: weights, and activations by calibrated ranges.

onnxruntime's `quantize_static` calibrates anew for each file that it writes. Here its writer alone
is used, on ranges that `compress.quantization.calibration` found once.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from onnx import ModelProto, TensorProto
from onnxruntime.quantization import CalibrationMethod, QuantType
from onnxruntime.quantization.calibrate import TensorData, TensorsData
from onnxruntime.quantization.qdq_quantizer import QDQQuantizer
from onnxruntime.quantization.quant_utils import (
    add_infer_metadata,
    compute_data_quant_params,
    model_has_infer_metadata,
    quantize_nparray,
    save_and_reload_model_with_shape_infer,
)

from compress.errors import UnknownName
from compress.export.bodies import graphs, has_bodies, nodes_everywhere
from compress.quantization.calibration.observed import STATIC_KINDS
from compress.quantization.config import QuantizeConfig
from compress.quantization.editing import attributes
from compress.quantization.rewriting.files import load, save, without_weights
from compress.quantization.rewriting.in_bodies import in_bodies
from compress.quantization.rounding import UNROUNDED, read_rounded, read_unrounded
from compress.quantization.scopes import all_names, fresh_name, sort_nodes, unique_names
from compress.quantization.scratch import inside_scratch_folder
from compress.quantization.sharing import share_weights

_BIASED = ("Conv", "ConvTranspose", "Gemm")
_BIASES = (*_BIASED, "InstanceNormalization", "LayerNormalization")
_TYPES = {"uint8": QuantType.QUInt8, "int8": QuantType.QInt8}
_FLOATS = {TensorProto.FLOAT: np.float32, TensorProto.FLOAT16: np.float16}


def quantize_static_int8(
    source: Path,
    target: Path,
    ranges: Mapping[str, tuple[float, float]],
    config: QuantizeConfig,
    keep_fp32: tuple[str, ...] = (),
    kinds: tuple[str, ...] = (),
    *,
    fp32_sums: bool = False,
) -> None:
    """Write a QDQ copy of a preprocessed ONNX file.

    A node that reads or writes a tensor without a range stays as it is. Those in the bodies of If,
    Loop and Scan become int8 as well.

    Args:
        ranges: by tensor, the least and the largest value that int8 holds; see `calibration`.
        config: the types of activations and weights, `symmetric`, `per_channel` and `reduce_range`.
        keep_fp32: names of nodes to leave as they are, besides the configuration's.
        kinds: operator types to quantize; all that onnxruntime knows where left out.
        fp32_sums: whether convolutions, too, give what they have summed up without rounding it to
            int8. OpenVINO then fuses them with what follows; onnxruntime computes them in fp32.

    Raises:
        UnknownName: no node of a name in the configuration's `keep_fp32`.
    """
    source, target = source.absolute(), target.absolute()
    with inside_scratch_folder():
        model = load(source)
        unique_names(model)
        without_weights(model, save_and_reload_model_with_shape_infer)
        nodes = [node.name for node in nodes_everywhere(model.graph)]
        for unknown in set(config.keep_fp32) - set(nodes):
            raise UnknownName("node (keep_fp32)", unknown, filter(None, nodes))
        kept = frozenset((*config.keep_fp32, *keep_fp32))
        taken = frozenset(kinds or STATIC_KINDS)
        change = partial(
            _quantize, ranges=ranges, config=config, kept=kept, kinds=taken, fp32_sums=fp32_sums
        )
        in_bodies(change)(model)
    if has_bodies(model):
        for graph in graphs(model.graph):
            read_rounded(graph)
        share_weights(model)
    save(model, target)


def _quantize(
    model: ModelProto,
    *,
    ranges: Mapping[str, tuple[float, float]],
    config: QuantizeConfig,
    kept: frozenset[str],
    kinds: frozenset[str],
    fp32_sums: bool,
) -> int:
    """Quantize the nodes of a graph in place, not those in its bodies; returns how many came.

    Args:
        kept: names of nodes that stay as they are.
        kinds: operator types that do not.
    """
    before = len(model.graph.node)
    if not any(node.op_type in kinds for node in model.graph.node):
        return 0
    if not model_has_infer_metadata(model):  # a body, whose types came with those of the graph
        add_infer_metadata(model)
    _unshare_biases(model)
    kept |= {*_without_range(model, ranges), *_with_wide_biases(model)}
    quantizer = QDQQuantizer(
        model,
        config.per_channel,
        config.reduce_range,
        _TYPES[config.weights],
        _TYPES[config.activations],
        _tensors_data(model, ranges),
        [],
        sorted(kept),
        sorted(kinds),
        _options(model, ranges, config, (*UNROUNDED, "Conv") if fp32_sums else UNROUNDED),
    )
    quantizer.quantize_model()
    read_unrounded(model, kinds, kept)
    quantizer.model.topological_sort()
    if has_bodies(model):  # it puts an If before what its branches read
        sort_nodes(model.graph)
    return len(model.graph.node) - before


def _unshare_biases(model: ModelProto) -> None:
    """A bias of its own for each node: onnxruntime's copies of a shared one take names in use."""
    tensors = {tensor.name: tensor for tensor in model.graph.initializer}
    names, taken = all_names(model), set[str]()
    for node in model.graph.node:
        if node.op_type not in _BIASED or len(node.input) < 3 or node.input[2] not in tensors:
            continue
        bias = node.input[2]
        if bias in taken:
            node.input[2] = fresh_name(f"{bias}_again", names)
            copy = model.graph.initializer.add()
            copy.CopyFrom(tensors[bias])
            copy.name = node.input[2]
        taken.add(bias)


def _options(
    model: ModelProto,
    ranges: Mapping[str, tuple[float, float]],
    config: QuantizeConfig,
    unrounded: Collection[str],
) -> dict[str, Any]:
    """What onnxruntime's quantizer does otherwise than by default."""
    found: dict[str, Any] = {"OpTypesToExcludeOutputQuantization": list(unrounded)}
    found["TensorQuantOverrides"] = overrides = _one_scale_each(model, config)
    if config.symmetric:
        signed = {name for name, (low, _) in ranges.items() if low < 0} & _types(model).keys()
        constant = {t.name for t in model.graph.initializer if t.data_type in _FLOATS}
        # What a Gather gives has the zero point of its table.
        tables = {node.input[0] for node in model.graph.node if node.op_type == "Gather"} & constant
        around_zero = [{"quant_type": QuantType.QInt8, "symmetric": True}]
        overrides |= dict.fromkeys(sorted(signed | tables), around_zero)
    return found


def _one_scale_each(model: ModelProto, config: QuantizeConfig) -> dict[str, Any]:
    """Weights that cannot have a scale for each channel.

    Of more than two axes in products, for which onnxruntime has no such kernel; and of transposed
    convolutions in groups, of which its quantizer takes the channels of one group for all.
    """
    if not config.per_channel:
        return {}
    axes = {tensor.name: len(tensor.dims) for tensor in model.graph.initializer}
    found = set[str]()
    for node in model.graph.node:
        if node.op_type == "MatMul":
            found |= {name for name in node.input if axes.get(name, 0) > 2}
        if node.op_type == "ConvTranspose" and attributes(node).get("group", 1) > 1:
            found |= {node.input[1]} & axes.keys()
    symmetric = config.weights == "int8"
    one = [{"quant_type": _TYPES[config.weights], "symmetric": symmetric}]
    return dict.fromkeys(sorted(found), one)


def _types(model: ModelProto) -> dict[str, Any]:
    """Names of all tensors known to be floating-point, and their numpy type; no constants."""
    graph = model.graph
    values = (*graph.value_info, *graph.input, *graph.output)
    found = {value.name: _FLOATS.get(value.type.tensor_type.elem_type) for value in values}
    constant = {tensor.name for tensor in graph.initializer}
    return {name: kind for name, kind in found.items() if kind and name not in constant}


def _without_range(model: ModelProto, ranges: Mapping[str, tuple[float, float]]) -> Iterator[str]:
    """Nodes that cannot be quantized for want of a range; nameless ones get a name."""
    missing = set(_types(model)) - set(ranges)
    # Of any type, such as double: onnxruntime's quantizer sets their range without looking.
    softmax = {node.output[0] for node in model.graph.node if node.op_type == "Softmax"}
    missing |= softmax - set(ranges)
    for place, node in enumerate(model.graph.node):
        if not missing.isdisjoint((*node.input, *node.output)):
            node.name = node.name or f"kept_{place}"
            yield node.name


def _with_wide_biases(model: ModelProto) -> Iterator[str]:
    """Nodes whose bias has several axes, at which onnxruntime's quantizer fails.

    A Gemm with another one for each row, a LayerNormalization over two axes.
    """
    axes = {tensor.name: len(tensor.dims) for tensor in model.graph.initializer}
    for place, node in enumerate(model.graph.node):
        if node.op_type in _BIASES and len(node.input) > 2 and axes.get(node.input[2], 1) > 1:
            node.name = node.name or f"kept_bias_{place}"
            yield node.name


def _tensors_data(model: ModelProto, ranges: Mapping[str, tuple[float, float]]) -> TensorsData:
    types, found = _types(model), {}
    touched = {name for node in model.graph.node for name in (*node.input, *node.output)}
    for name, (low, high) in ((name, ranges[name]) for name in sorted(touched & ranges.keys())):
        kind = types.get(name, np.float32)
        lowest, highest = (np.array(bound, dtype=kind) for bound in (low, high))
        found[name] = TensorData(lowest=lowest, highest=highest)
    return TensorsData(CalibrationMethod.MinMax, found)


def rounded(weight: npt.NDArray[np.float32], axis: int, config: QuantizeConfig) -> Any:
    """The values that a weight has after `quantize_static_int8`, in its own shape.

    Args:
        axis: of the output channels.
    """
    if not config.per_channel:
        return _rounded(weight, config, symmetric=config.weights == "int8")
    parts = [_rounded(part, config, symmetric=True) for part in np.moveaxis(weight, axis, 0)]
    return np.moveaxis(np.stack(parts), 0, axis)


def _rounded(values: npt.NDArray[np.float32], config: QuantizeConfig, *, symmetric: bool) -> Any:
    kind = _TYPES[config.weights].tensor_type
    zero, scale = compute_data_quant_params(
        values.ravel(), kind, symmetric, reduce_range=config.reduce_range
    )
    stored = quantize_nparray(kind, values, scale, zero)
    return (stored.astype(np.float32) - zero.astype(np.float32)) * scale

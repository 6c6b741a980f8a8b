"""The quantized graph that training starts from: as calibration alone would leave it."""

from __future__ import annotations

import tempfile
from pathlib import Path

import onnx
from onnx import ModelProto

from compress.errors import CompressError, InputError, NoEffect
from compress.export.graph import operators
from compress.export.loading import load_onnx
from compress.quantization.calibration.shared import Calibration
from compress.quantization.config import QuantizeConfig
from compress.quantization.dynamic import quantize_dynamic_int8
from compress.quantization.fusion import fuse
from compress.quantization.qat.config import QatConfig
from compress.quantization.qat.graph import QuantizedGraph
from compress.quantization.qat.points import constants, lift_constants
from compress.quantization.rewriting.simplify import simplify
from compress.quantization.static import quantize_static_int8
from compress.quantization.weight_only import quantize_weights
from compress.runtime.onnxruntime import Feeds

#: Fewer products than this have no attention around them; see `quantization.candidates`.
_MANY = 4
_PRODUCTS = ("MatMul", "Gemm")


def start_graph(
    source: Path, samples: list[Feeds], config: QatConfig
) -> tuple[QuantizedGraph, str]:
    """A graph to train, and the method that it was quantized by.

    Args:
        source: ONNX file, fp32, or int8 already: then its own scales are where training starts.
        samples: calibration batches, each one array for each of the model's inputs.

    Raises:
        NoEffect: nothing in it can become int8 by the method.
        InputError: it has operators that cannot be trained.
    """
    if is_int8(load_onnx(source)):
        return QuantizedGraph(onnx.load(source)), "as it came in"
    quantized, originals, method = calibrated(source, samples, config)
    return QuantizedGraph(quantized, constants(originals.graph)), method


def calibrated(
    source: Path, samples: list[Feeds], config: QatConfig
) -> tuple[ModelProto, ModelProto, str]:
    """The int8 graph by calibration alone, the fp32 one that it was made from, and the method.

    Raises:
        NoEffect: nothing in it can become int8 by the method.
        InputError: onnxruntime cannot quantize it.
    """
    with tempfile.TemporaryDirectory() as name:
        prepared, target = Path(name) / "prepared.onnx", Path(name) / "quantized.onnx"
        simplify(source, prepared, samples[0])
        method = config.method if config.method != "auto" else _method(prepared)
        if method in ("dynamic", "static"):
            prepared = _fused(prepared, samples[0])
        try:
            _quantize(prepared, target, method, samples, config)
        except CompressError:
            raise
        except Exception as error:  # onnxruntime's quantizers raise whatever they meet
            line = str(error).strip().partition("\n")[0] or type(error).__name__
            raise InputError(f"{source}: cannot be quantized by '{method}': {line}") from error
        quantized, originals = load_onnx(target), lift_constants(onnx.load(prepared))
    if not is_int8(quantized):
        raise NoEffect(
            f"{source}: no operator became int8 by method '{method}': {_reason(quantized)} "
            "Try another method, or leave this model in fp32."
        )
    return quantized, originals, method


def is_int8(model: ModelProto) -> bool:
    """Whether an operator of a graph computes with int8, or stores it."""
    return any("int8" in kind for counts in operators(model).values() for kind in counts)


def _method(prepared: Path) -> str:
    """What the model's operators gain from, see `quantization.candidates`."""
    kinds = [node.op_type for node in load_onnx(prepared).graph.node]
    products = sum(kinds.count(kind) for kind in _PRODUCTS)
    if {"GRU", "RNN"} & set(kinds):
        return "step by step"
    if "Conv" in kinds:
        return "static and dynamic" if "LSTM" in kinds or products >= _MANY else "static"
    return "dynamic"


def _fused(prepared: Path, sample: Feeds) -> Path:
    """With attention as one operator, where there is any; see `quantization.fusion`."""
    kinds = [node.op_type for node in load_onnx(prepared).graph.node]
    fused = prepared.with_name("fused.onnx")
    many = sum(kinds.count(kind) for kind in _PRODUCTS) >= _MANY
    return fused if many and fuse(prepared, fused, sample) else prepared


def _quantize(
    prepared: Path, target: Path, method: str, samples: list[Feeds], config: QatConfig
) -> None:
    static = QuantizeConfig(
        calibration=config.calibration,
        activations=config.activations,
        per_channel=config.per_channel,
        keep_fp32=config.keep_fp32,
    )
    calibration = Calibration(samples, static)
    convolutions = any(node.op_type == "Conv" for node in load_onnx(prepared).graph.node)
    if method == "static":
        # The pieces between products lose accuracy in int8, and time to be converted.
        kinds = () if convolutions else _PRODUCTS
        ranges = calibration.ranges(prepared)
        quantize_static_int8(prepared, target, ranges, static, kinds=kinds)
    elif method == "weight-only":
        quantize_weights(prepared, target)
    else:
        if convolutions and method != "dynamic":
            half = prepared.with_name("half.onnx")
            ranges = calibration.ranges(prepared)
            quantize_static_int8(prepared, half, ranges, static, kinds=("Conv",))
            prepared = half
        by_step = method == "step by step"
        quantize_dynamic_int8(prepared, target, per_channel=config.per_channel, by_step=by_step)


def _reason(model: ModelProto) -> str:
    counts = operators(model)
    if not counts:
        return "it has no convolution, product or recurrent layer."
    return f"it has {', '.join(counts)}, none of them of a size or kind that gains."

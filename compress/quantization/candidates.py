"""Which quantized models are worth building for a graph: what its operators can gain from.

Each technique is built where it has something to do, and left out where it is known to change
nothing: static int8 leaves an LSTM as it is; onnxruntime has an int8 kernel for LSTM, none for GRU.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

from compress.export.graph import load_onnx
from compress.quantization.calibration.shared import Calibration
from compress.quantization.calibration.statistics import Ranges
from compress.quantization.config import QuantizeConfig
from compress.quantization.dynamic import quantize_dynamic_int8
from compress.quantization.fusion import fuse
from compress.quantization.nbits import quantize_4bit
from compress.quantization.static import quantize_static_int8
from compress.quantization.weight_only import quantize_weights
from compress.runtime.onnxruntime import Feeds

#: Writes one model to a path.
Maker = Callable[[Path], object]

_PRODUCTS = ("MatMul", "Gemm")
_STEPPED = {"GRU", "RNN"}
#: Graphs with fewer products have no attention to fuse, and nothing that blocks could help.
_MANY = 4


def makers(
    prepared: Path, folder: Path, samples: list[Feeds], config: QuantizeConfig, minimise: str
) -> dict[str, Maker]:
    """Name to maker of every model that the configuration asks for.

    Args:
        prepared: preprocessed ONNX file of the fp32 model.
        folder: for files that several candidates start from.
        samples: calibration batches.
        minimise: "latency" or "size"; 4 bits are for the latter.
    """
    kinds = [node.op_type for node in load_onnx(prepared).graph.node]
    convolutions, recurrent = "Conv" in kinds, bool({"LSTM", *_STEPPED} & set(kinds))
    many = sum(kinds.count(kind) for kind in _PRODUCTS) >= _MANY
    found: dict[str, Maker] = {}
    calibration = Calibration(samples, config)
    ranges = partial(calibration.ranges, prepared)
    fused = folder / "fused.onnx"
    is_fused = config.method == "best" and fuse(prepared, fused, samples[0])
    if config.method == "static" or (config.method == "best" and (convolutions or many)):
        found |= _static(prepared, ranges, config, convolutions=convolutions)
    if config.method == "best" and convolutions and (recurrent or many):
        found["static convolutions, the rest dynamic"] = lambda path: _both(
            prepared, folder, path, ranges, config
        )
    if config.method in ("best", "dynamic"):
        found["dynamic"] = lambda path: quantize_dynamic_int8(
            prepared, path, per_channel=config.per_channel
        )
    if is_fused and many:
        fused_ranges = partial(calibration.ranges, fused, rewritten_from=prepared)
        makers_of_fused = _static(fused, fused_ranges, config, convolutions=convolutions)
        found["static, fused"] = makers_of_fused["static"]
        found["dynamic, fused"] = lambda path: quantize_dynamic_int8(
            fused, path, per_channel=config.per_channel
        )
    if config.method == "best" and "LSTM" in kinds:
        found["dynamic, one scale a matrix"] = lambda path: quantize_dynamic_int8(
            prepared, path, per_channel=False
        )
    if config.method == "best" and _STEPPED & set(kinds):
        found["dynamic, step by step"] = lambda path: quantize_dynamic_int8(
            prepared, path, by_step=True
        )
    if config.method == "best" and many and minimise == "size":
        found["4 bits in blocks"] = lambda path: quantize_4bit(prepared, path)
    if config.method in ("best", "weight-only"):
        found["weight-only"] = lambda path: quantize_weights(prepared, path)
    return found


def _static(
    prepared: Path, ranges: Callable[[], Ranges], config: QuantizeConfig, *, convolutions: bool
) -> dict[str, Maker]:
    if not convolutions:
        # The pieces between products lose accuracy in int8, and time to be converted.
        return {
            "static": lambda path: quantize_static_int8(
                prepared, path, ranges(), config, kinds=_PRODUCTS
            )
        }
    found: dict[str, Maker] = {
        "static": lambda path: quantize_static_int8(prepared, path, ranges(), config)
    }
    first = next(node.name for node in load_onnx(prepared).graph.node if node.op_type == "Conv")
    if config.method == "best":
        # Few input channels: too little work for the int8 kernel, which then costs time.
        found["static, first convolution fp32"] = lambda path: quantize_static_int8(
            prepared, path, ranges(), config, keep_fp32=(first,)
        )
    return found


def _both(
    prepared: Path,
    folder: Path,
    target: Path,
    ranges: Callable[[], Ranges],
    config: QuantizeConfig,
) -> None:
    """Convolutions by calibration, then LSTM and products by the range of each call."""
    half = folder / "static-convolutions.onnx"
    quantize_static_int8(prepared, half, ranges(), config, kinds=("Conv",))
    quantize_dynamic_int8(half, target)

"""Dynamic int8 quantization by onnxruntime: each call quantizes activations by its own range."""

from __future__ import annotations

from pathlib import Path

from onnxruntime.quantization import QuantType, quantize_dynamic

from compress.quantization.preprocess import inside_scratch_folder


def quantize_dynamic_int8(source: Path, target: Path) -> None:
    """Write a dynamically quantized copy of a preprocessed ONNX file; needs no data."""
    source, target = source.absolute(), target.absolute()
    with inside_scratch_folder() as scratch:
        result = scratch / "dynamic.onnx"
        # onnxruntime has no ConvInteger for signed weights on the CPU.
        quantize_dynamic(str(source), str(result), weight_type=QuantType.QUInt8)
        target.write_bytes(result.read_bytes())

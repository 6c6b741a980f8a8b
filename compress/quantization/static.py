"""Static int8 quantization as QDQ by onnxruntime: weights, and activations by calibration."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
from onnxruntime.quantization import (
    CalibrationDataReader,
    CalibrationMethod,
    QuantFormat,
    QuantType,
    quantize_static,
)

from compress.errors import UnknownName
from compress.quantization.config import QuantizeConfig
from compress.quantization.preprocess import inside_scratch_folder

_METHODS = {
    "minmax": CalibrationMethod.MinMax,
    "entropy": CalibrationMethod.Entropy,
    "percentile": CalibrationMethod.Percentile,
}
_TYPES = {"uint8": QuantType.QUInt8, "int8": QuantType.QInt8}


class _Reader(CalibrationDataReader):  # type: ignore[misc]
    def __init__(self, name: str, samples: npt.NDArray[np.float32], batch_size: int = 32) -> None:
        starts = range(0, len(samples), batch_size)
        self._feeds = iter([{name: samples[at : at + batch_size]} for at in starts])

    def get_next(self) -> dict[str, npt.NDArray[np.float32]] | None:
        return next(self._feeds, None)


def quantize_static_int8(
    source: Path,
    target: Path,
    samples: npt.NDArray[np.float32],
    config: QuantizeConfig,
    keep_fp32: tuple[str, ...] = (),
) -> None:
    """Write a QDQ copy of a preprocessed ONNX file.

    Args:
        samples: (n, …), calibration inputs.
        keep_fp32: names of nodes to leave as they are, besides the configuration's.
    """
    source, target = source.absolute(), target.absolute()
    graph = onnx.load(source).graph
    name, nodes = graph.input[0].name, [node.name for node in graph.node]
    for unknown in set(config.keep_fp32) - set(nodes):
        raise UnknownName("node (keep_fp32)", unknown, filter(None, nodes))
    with inside_scratch_folder() as scratch:
        result = scratch / "static.onnx"
        quantize_static(
            str(source),
            str(result),
            _Reader(name, samples),
            quant_format=QuantFormat.QDQ,
            activation_type=_TYPES[config.activations],
            weight_type=QuantType.QInt8,
            per_channel=config.per_channel,
            calibrate_method=_METHODS[config.calibration],
            nodes_to_exclude=[*config.keep_fp32, *keep_fp32],
        )
        target.write_bytes(result.read_bytes())

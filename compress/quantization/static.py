"""Static int8 quantization as QDQ by onnxruntime: weights, and activations by calibration."""

from __future__ import annotations

from pathlib import Path
from typing import Any

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
from compress.runtime.onnxruntime import Feeds

_METHODS = {
    "minmax": CalibrationMethod.MinMax,
    "entropy": CalibrationMethod.Entropy,
    "percentile": CalibrationMethod.Percentile,
}
_TYPES = {"uint8": QuantType.QUInt8, "int8": QuantType.QInt8}


class _Reader(CalibrationDataReader):  # type: ignore[misc]
    def __init__(self, names: list[str], batches: list[Feeds]) -> None:
        self._feeds = iter([dict(zip(names, feeds, strict=True)) for feeds in batches])

    def get_next(self) -> dict[str, npt.NDArray[Any]] | None:
        return next(self._feeds, None)


def quantize_static_int8(
    source: Path,
    target: Path,
    samples: list[Feeds],
    config: QuantizeConfig,
    keep_fp32: tuple[str, ...] = (),
    kinds: tuple[str, ...] = (),
) -> None:
    """Write a QDQ copy of a preprocessed ONNX file.

    Args:
        samples: calibration batches, each one array for each of the model's inputs.
        keep_fp32: names of nodes to leave as they are, besides the configuration's.
        kinds: operator types to quantize; all that onnxruntime knows where left out.
    """
    source, target = source.absolute(), target.absolute()
    graph = onnx.load(source).graph
    names, nodes = [value.name for value in graph.input], [node.name for node in graph.node]
    for unknown in set(config.keep_fp32) - set(nodes):
        raise UnknownName("node (keep_fp32)", unknown, filter(None, nodes))
    with inside_scratch_folder() as scratch:
        result = scratch / "static.onnx"
        quantize_static(
            str(source),
            str(result),
            _Reader(names, samples),
            quant_format=QuantFormat.QDQ,
            activation_type=_TYPES[config.activations],
            weight_type=QuantType.QInt8,
            per_channel=config.per_channel,
            calibrate_method=_METHODS[config.calibration],
            op_types_to_quantize=list(kinds) or None,
            nodes_to_exclude=[*config.keep_fp32, *keep_fp32],
        )
        target.write_bytes(result.read_bytes())

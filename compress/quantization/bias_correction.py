"""Bias correction (Nagel et al., 2019, arXiv:1906.04721, section 4.2).

Rounding weights shifts the mean of what a layer gives by (rounded - weight) · mean input. That is
known once the mean of each input channel is, so the bias takes it back.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt

from compress.quantization.calibration.statistics import Statistics
from compress.quantization.config import QuantizeConfig
from compress.quantization.static import rounded
from compress.quantization.weighted_layers import Layer, Network, Weight


def corrected_inputs(source: Path) -> dict[str, int]:
    """The tensors whose channels `correct_biases` needs, and their axis: `collect`'s `channels`."""
    return {layer.input: layer.channel_axis for layer in Network(source).layers()}


def correct_biases(
    source: Path, target: Path, statistics: Statistics, config: QuantizeConfig
) -> int:
    """Write a copy of an fp32 ONNX file whose biases make up for weights that will be rounded.

    Args:
        statistics: of `source`, collected with `channels=corrected_inputs(source)`.
        config: its `per_channel` and `reduce_range`.

    Returns:
        How many biases were changed. A product without a bias is left as it is.
    """
    network = Network(source)
    means = _means(statistics)
    count = 0
    for layer in list(network.layers()):
        weight, mean = network.constant(layer.weight), means.get(layer.input)
        if weight is not None and mean is not None:
            shift = _shift(layer, weight, mean, config)
            count += network.add_bias(layer, -shift)
    network.save(target)
    return count


def _means(statistics: Statistics) -> Mapping[str, npt.NDArray[np.float64]]:
    found = {}
    for name, tensor in statistics.tensors.items():
        mean = tensor.channels.mean if tensor.channels is not None else None
        if mean is not None:
            found[name] = mean
    return found


def _shift(
    layer: Layer, weight: Weight, mean: npt.NDArray[np.float64], config: QuantizeConfig
) -> npt.NDArray[np.float64]:
    """What rounding adds to the mean of each output channel; padding's zeros are not counted in."""
    error = rounded(weight, layer.output_axis, config).astype(np.float64) - weight
    error = error.sum(axis=tuple(range(2, weight.ndim)))
    if layer.input_axis == layer.output_axis:  # depthwise: (channels, 1)
        return np.asarray(error[:, 0] * mean)
    return np.asarray(np.tensordot(error, mean, axes=([layer.input_axis], [0])))

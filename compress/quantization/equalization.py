"""Cross-layer equalization (Nagel et al., 2019, arXiv:1906.04721, section 4.1).

A channel of one layer is divided by what the next layer multiplies it with, which ReLU between them
lets through. Chosen so that both have the same range in that channel, no channel is left with a few
levels of a scale that all channels share. A scale for each channel does as much for the weights of
the first layer, so that this is for schemes with one scale a tensor, and for activations.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from compress.quantization.weighted_layers import Layer, Network, along, largest

#: Operators that a positive factor of a channel passes through unchanged.
_HOMOGENEOUS = {
    "Relu",
    "LeakyRelu",
    "MaxPool",
    "AveragePool",
    "GlobalAveragePool",
    "GlobalMaxPool",
    "Identity",
}
#: Rounds over all pairs; a chain settles in a few.
_ROUNDS = 20


def equalize(source: Path, target: Path) -> int:
    """Write a copy of an ONNX file that computes the same, its layers equalized; needs no data.

    Returns:
        How many pairs of layers were equalized.
    """
    network = Network(source)
    pairs = _pairs(network)
    for _ in range(_ROUNDS if pairs else 0):
        change = max(_equalize(network, *pair) for pair in pairs)
        if change < 1e-3:
            break
    network.save(target)
    return len(pairs)


def _pairs(network: Network) -> list[tuple[Layer, Layer]]:
    """Each layer with the one that alone reads it, with nothing but `_HOMOGENEOUS` between them."""
    layers = list(network.layers())
    by_node = {id(layer.node): layer for layer in layers}
    found = []
    for first in layers:
        user = network.only_user(first.output)
        while user is not None and user.op_type in _HOMOGENEOUS:
            user = network.only_user(user.output[0])
        second = by_node.get(id(user))
        if second is not None and _fit(network, first, second):
            found.append((first, second))
    return found


def _fit(network: Network, first: Layer, second: Layer) -> bool:
    """Whether the channels of the two are the same ones; not so behind Flatten."""
    one, two = network.constant(first.weight), network.constant(second.weight)
    assert one is not None
    assert two is not None
    if first.channel_axis != second.channel_axis or second.node.input[1] == second.input:
        return False
    return bool(one.shape[first.output_axis] == two.shape[second.input_axis])


def _equalize(network: Network, first: Layer, second: Layer) -> float:
    """Equalize one pair; returns how far the largest factor was from 1."""
    one, two = network.constant(first.weight), network.constant(second.weight)
    assert one is not None
    assert two is not None
    ranges = largest(one, first.output_axis), largest(two, second.input_axis)
    usable = (ranges[0] > 0) & (ranges[1] > 0)
    factors = np.sqrt(np.divide(ranges[0], ranges[1], out=np.ones_like(ranges[0]), where=usable))
    network.set(first.weight, one / along(factors, first.output_axis, one.ndim))
    network.set(second.weight, two * along(factors, second.input_axis, two.ndim))
    if first.bias:
        bias = network.constant(first.bias)
        assert bias is not None
        network.set(first.bias, bias / factors)
    return float(np.abs(np.log(factors)).max())

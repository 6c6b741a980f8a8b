"""SmoothQuant (Xiao et al., 2023, arXiv:2211.10438): outliers of activations moved into weights.

Some channels of what enters a Transformer's products are a hundred times larger than the rest, and
one scale for all channels then leaves the rest a few levels. Channel j is divided by
max|X_j|^alpha / max|W_j|^(1 - alpha), and the weights' row multiplied with it. The division costs
nothing where it goes into the normalization, or the layer, that gives X. Where something else reads
X as well, as the residual of a BERT does, or where nothing before can take it in, it is a Mul in
front of the products. Each place gets the alpha that makes the int8 products come nearest to the
fp32 ones on calibration data, or none.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from onnx import NodeProto

from compress.quantization.calibration.observed import observe
from compress.quantization.calibration.shared import Calibration
from compress.quantization.config import QuantizeConfig
from compress.quantization.static import rounded
from compress.quantization.weighted_layers import Layer, Network, along, largest
from compress.runtime.interface import Feeds

#: Where the scale and the shift of a normalization stand among its inputs.
_NORMALIZATIONS = {
    "LayerNormalization": (1, 2),
    "SkipLayerNormalization": (2, 3),
    "SimplifiedLayerNormalization": (1,),
}
#: What is left of the error where a Mul in each call pays.
_WORTH_A_NODE = 0.5
_ALPHAS = tuple(np.round(np.arange(0.3, 0.95, 0.1), 1))
#: Rows of each activation that alphas are compared on, out of the first batches.
_ROWS, _BATCHES = 256, 4

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class _Place:
    """What gives an activation, and all that read it.

    Attributes:
        name: of the activation.
        divided: constants that are divided by the factors, and their axis; empty where a node
            does it.
        products: that read it.
    """

    name: str
    divided: tuple[tuple[str, int], ...]
    products: tuple[Layer, ...]


def smooth(
    source: Path,
    target: Path,
    batches: Sequence[Feeds],
    config: QuantizeConfig,
    calibration: Calibration | None = None,
) -> int:
    """Write a copy of an fp32 ONNX file that computes the same from smoother activations.

    Args:
        batches: calibration samples, each one array for each of the model's inputs.
        config: the scheme that the file will be quantized by.
        calibration: of the same batches; None for one of its own.

    Returns:
        In how many places that made the products better.
    """
    network = Network(source)
    places = _places(network)
    count = 0
    if places:
        names = {place.name: -1 for place in places}
        calibration = calibration or Calibration(batches, config)
        statistics = calibration.passed(source, channels=names, kinds=())
        rows = _rows(source, list(names), batches)
        for place in places:
            channels = statistics.tensors[place.name].channels
            if channels is not None and channels.largest is not None:
                count += _smooth(network, place, channels.largest, rows[place.name], config)
    network.save(target)
    return count


def _places(network: Network) -> list[_Place]:
    layers = [layer for layer in network.layers() if layer.node.op_type != "Conv"]
    by_node, by_output = {id(layer.node): layer for layer in layers}, {}
    for layer in layers:
        by_output[layer.output] = layer
    found = []
    for name in dict.fromkeys(layer.input for layer in layers if layer.input in network.made_by):
        readers = [by_node.get(id(user)) for user in network.users(name)]
        products = [layer for layer in readers if layer is not None and layer.input == name]
        divided = _divided(network, name, by_output)
        if len(products) < len(readers) or network.is_result(name):
            divided = ()
        found.append(_Place(name, divided, tuple(products)))
    return found


def _divided(
    network: Network, name: str, by_output: dict[str, Layer]
) -> tuple[tuple[str, int], ...]:
    """Constants of the normalization or layer before, which ReLU may follow; () where is none."""
    node = network.made_by.get(name)
    if node is not None and node.op_type == "Relu" and network.only_user(node.input[0]):
        name = node.input[0]
        node = network.made_by.get(name)
    elif node is not None and node.op_type in _NORMALIZATIONS:
        return _of_normalization(network, node)
    layer = by_output.get(name)
    if layer is None:
        return ()
    return ((layer.weight, layer.output_axis), *(((layer.bias, 0),) if layer.bias else ()))


def _of_normalization(network: Network, node: NodeProto) -> tuple[tuple[str, int], ...]:
    names = [node.input[at] for at in _NORMALIZATIONS[node.op_type] if at < len(node.input)]
    constants = [network.constant(name) for name in names if name]
    if any(values is None or values.ndim != 1 for values in constants):
        return ()
    return tuple((name, 0) for name in names if name)


def _rows(source: Path, names: list[str], batches: Sequence[Feeds]) -> dict[str, Floats]:
    """(rows, channels) of each activation, spread over a few batches."""
    observed = observe(source, kinds=(), channels=names, threads=0)
    inputs = [entry.name for entry in observed.session.get_inputs()]
    found: dict[str, list[Floats]] = {name: [] for name in names}
    chosen = batches[:_BATCHES]
    for feeds in chosen:
        given = dict(zip(inputs, feeds, strict=True))
        made = observed.session.run(observed.fetched, given)
        for name, values in zip(observed.fetched, made, strict=True):
            flat = values.reshape(-1, values.shape[-1])
            step = max(1, len(flat) * len(chosen) // _ROWS)
            found[name].append(flat[::step].astype(np.float64))
    return {name: np.concatenate(parts) for name, parts in found.items()}


def _smooth(
    network: Network, place: _Place, maxima: Floats, rows: Floats, config: QuantizeConfig
) -> bool:
    """Change one place by the best alpha; False where none is better than leaving it."""
    weights = [network.constant(layer.weight) for layer in place.products]
    matrices = [
        weight.T if layer.input_axis else weight
        for layer, weight in zip(place.products, weights, strict=True)
        if weight is not None
    ]
    together = np.concatenate(matrices, axis=1).astype(np.float64)
    best, least = None, _error(rows, together, np.ones(len(maxima)), config)
    least *= 1 if place.divided else _WORTH_A_NODE
    for alpha in _ALPHAS:
        factors = _factors(maxima, largest(together.astype(np.float32), 0), float(alpha))
        error = _error(rows, together, factors, config)
        if error < least:
            best, least = factors, error
    if best is None:
        return False
    if not place.divided:
        network.multiply(place.name, 1 / best, [layer.node for layer in place.products])
    for name, axis in place.divided:
        values = network.constant(name)
        assert values is not None
        network.set(name, values / along(best, axis, values.ndim))
    for layer, weight in zip(place.products, weights, strict=True):
        assert weight is not None
        network.set(layer.weight, weight * along(best, layer.input_axis, 2))
    return True


def _factors(activations: Floats, weights: Floats, alpha: float) -> Floats:
    """What each channel is divided by; 1 where it, or its weights, are all zero."""
    usable = (activations > 0) & (weights > 0)
    one, two = np.where(usable, activations, 1.0), np.where(usable, weights, 1.0)
    return np.asarray(np.where(usable, one**alpha / two ** (1 - alpha), 1.0))


def _error(rows: Floats, weights: Floats, factors: Floats, config: QuantizeConfig) -> float:
    """Mean squared error of the products in int8, (rows, channels) · (channels, outputs)."""
    smoothed = rows / factors
    low, high = min(0.0, float(smoothed.min())), max(0.0, float(smoothed.max()))
    scale = (high - low) / 255 or 1.0
    activations = np.rint(smoothed / scale) * scale
    scaled = (weights * factors[:, None]).astype(np.float32)
    return float(np.square(activations @ rounded(scaled, 1, config) - rows @ weights).mean())

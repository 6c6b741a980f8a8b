"""A quantized ONNX graph as a torch module whose weights and scales can be trained.

The module computes what the graph says, operator by operator, so that there is nothing to match
between a torch model and its export: what is trained are the constants of the very file that runs.
Weights live in fp32 and are rounded in every call. A scale is learned as its logarithm, relative to
where it started: it stays positive, and one learning rate fits all.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from onnx import ModelProto, numpy_helper
from torch import Tensor, nn

from compress.quantization.editing import Array
from compress.quantization.qat.fake_quantize import fake_bias, fake_quantize
from compress.quantization.qat.points import Points, constants, find_points, latent, lift_constants
from compress.quantization.qat.program import Program, check_operators

_EXPLODING = {"DynamicQuantizeLSTM", "GRU", "LSTM", "LayerNormalization", "RNN", "Scan"}


class QuantizedGraph(nn.Module):
    """A graph in training: maps its inputs, each (batch, …), to its one output.

    Attributes:
        points: where the graph is quantized.
        weights: as `weight_names` names them, in fp32, laid out as in the graph.
    """

    def __init__(self, model: ModelProto, originals: Mapping[str, Array] | None = None) -> None:
        """Prepare a quantized graph.

        Args:
            model: with QDQ pairs, dynamic int8 operators, or int8 weights alone.
            originals: constants of the fp32 graph that it was made from, by name; int8 weights
                that are not among them start from what they stand for.

        Raises:
            InputError: it has operators that gradients cannot flow through here.
        """
        super().__init__()
        check_operators(model.graph)
        self.proto = lift_constants(model)
        self.points, values = find_points(self.proto), constants(self.proto.graph)
        starts = _starts(self.points, values, originals or {})
        self.weight_names, self.scale_names = list(starts), sorted(self.points.scales)
        self.weights = nn.ParameterList(nn.Parameter(start) for start in starts.values())
        self._log_scales = nn.ParameterList(
            nn.Parameter(torch.zeros(values[name].size)) for name in self.scale_names
        )
        for number, name in enumerate(self.scale_names):
            self.register_buffer(f"scale_{number}", _tensor(values[name]))
        self._constants = sorted(values.keys() - starts.keys() - self.points.scales)
        for number, name in enumerate(self._constants):
            self.register_buffer(f"constant_{number}", _tensor(values[name]), persistent=False)
        self._program = Program(self.proto.graph, self.points)
        self._inputs = [value.name for value in model.graph.input if value.name not in values]
        self._output = model.graph.output[0].name

    @property
    def explodes(self) -> bool:
        """Whether gradients may explode: of recurrent networks and Transformers."""
        return any(node.op_type in _EXPLODING for node in self.proto.graph.node)

    def forward(self, *inputs: Tensor) -> Tensor:
        scope: dict[str, Any] = self.scales()
        for number, name in enumerate(self._constants):
            scope[name] = getattr(self, f"constant_{number}")
        scope |= self._rounded(scope)
        scope |= dict(zip(self._inputs, inputs, strict=True))
        self._program.run(scope)
        output: Tensor = scope[self._output]
        return output

    def scales(self) -> dict[str, Tensor]:
        """The scales as learned so far, by name, in the graph's shapes."""
        found = {}
        for number, (name, log) in enumerate(zip(self.scale_names, self._log_scales, strict=True)):
            start: Tensor = getattr(self, f"scale_{number}")
            found[name] = start * log.exp().reshape(start.shape)
        return found

    def scale_changes(self) -> dict[str, float]:
        """By the name of a scale, the largest factor that it was learned to move by, less one."""
        pairs = zip(self.scale_names, self._log_scales, strict=True)
        return {name: float(log.detach().abs().max().expm1()) for name, log in pairs}

    def _rounded(self, scope: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """What stands in the graph for each weight: as it is, or rounded to what is stored."""
        found = {}
        for name, weight in zip(self.weight_names, self.weights, strict=True):
            found[name] = weight
            if name in self.points.biases:
                found[name] = fake_bias(weight, self._bias_scale(name, scope))
            elif (stored := self.points.weights.get(name)) is not None:
                scale = scope[stored.scale].reshape(stored.shape)
                shared_by = weight.numel() // scale.numel()
                zero, limits = stored.zero_point, stored.limits
                found[name] = fake_quantize(weight, scale, zero, limits, shared_by)
                if stored.as_levels:
                    found[name] = found[name] / scale
        return found

    def _bias_scale(self, name: str, scope: Mapping[str, Tensor]) -> Tensor:
        """Scale of an int32 bias: the product of the scales of what it is added to."""
        bias = self.points.biases[name]
        if not bias.factors:
            return scope[bias.scale]
        x, weight = (scope[factor].detach().reshape(-1) for factor in bias.factors)
        return x * weight

    @torch.no_grad()
    def learned(self) -> ModelProto:
        """The graph with all that was learned written into its constants."""
        scales = self.scales()
        found = {name: _array(value) for name, value in scales.items()}
        scope = scales | self._constant_scales()
        for name, weight in zip(self.weight_names, self.weights, strict=True):
            if name in self.points.biases:
                scale = self._bias_scale(name, scope)
                found[name] = _array((weight / scale).round()).astype(np.int32)
                found[self.points.biases[name].scale] = _array(scale)
            elif (stored := self.points.weights.get(name)) is not None:
                levels = (weight / scope[stored.scale].reshape(stored.shape)).round()
                found[name] = _array((levels + stored.zero_point).clamp(*stored.limits))
            else:
                found[name] = _array(weight)
        return _replaced(self.proto, found)

    def _constant_scales(self) -> dict[str, Tensor]:
        return {
            name: getattr(self, f"constant_{number}") for number, name in enumerate(self._constants)
        }


def _starts(
    points: Points, values: Mapping[str, Array], originals: Mapping[str, Array]
) -> dict[str, Tensor]:
    """What each weight starts from, in fp32, in the order of the names."""
    found: dict[str, Array] = {name: values[name] for name in points.floats}
    for name, weight in points.weights.items():
        found[name] = latent(name, weight, values, originals)
    for name, bias in points.biases.items():
        found[name] = values[name] * values[bias.scale]
    return {name: torch.from_numpy(found[name].astype(np.float32)) for name in sorted(found)}


def _tensor(values: Array) -> Tensor:
    """A constant that is not trained; integers of a quantized weight as floats, as elsewhere."""
    if values.dtype in (np.int8, np.uint8):
        values = values.astype(np.float32)
    return torch.from_numpy(np.array(values))


def _array(values: Tensor) -> Array:
    return values.detach().cpu().numpy()


def _replaced(model: ModelProto, values: Mapping[str, Array]) -> ModelProto:
    """A copy with other values in its initializers, each in its own type and shape."""
    found = ModelProto()
    found.CopyFrom(model)
    for tensor in found.graph.initializer:
        if tensor.name in values:
            before = numpy_helper.to_array(tensor)
            after = values[tensor.name].reshape(before.shape).astype(before.dtype)
            tensor.CopyFrom(numpy_helper.from_array(after, tensor.name))
    return found

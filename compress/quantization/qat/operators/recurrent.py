"""LSTM, GRU and RNN of ONNX in torch, step by step, and onnxruntime's int8 LSTM.

Written out, because the int8 operator quantizes the state anew in every step. ONNX's gates: input,
output, forget, cell (LSTM); update, reset, new (GRU).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from compress.errors import InputError
from compress.quantization.qat.fake_quantize import quantize_by_range
from compress.quantization.qat.operators.elementwise import Operator
from compress.quantization.qat.operators.shapes import reverse_sequence

#: (batch, hidden) each.
_States = tuple[Tensor, ...]
#: New states from the input's part of the gates and the old ones.
_Step = Callable[[Tensor, _States], _States]


@dataclass(frozen=True)
class _Layer:
    """What a node of any kind is given.

    Attributes:
        weights: (directions, features, gates · hidden); `state_weights` alike.
        biases: (directions, 2 · gates · hidden), or None.
        lengths: (batch,), or None where every step is valid.
        starts: initial states, (directions, batch, hidden) each; None for zero.
        quantize: what is done to both factors' other side: nothing, or fake int8.
    """

    weights: Tensor
    state_weights: Tensor
    biases: Tensor | None
    lengths: Tensor | None
    starts: tuple[Tensor | None, ...]
    quantize: Callable[[Tensor], Tensor]
    direction: str

    def run(self, x: Tensor, step: Callable[[_Layer, int], _Step]) -> tuple[Tensor, ...]:
        """All states (time, directions, batch, hidden), then each of the last ones."""
        found = []
        for number in range(len(self.weights)):
            backward = self.direction == "reverse" or number == 1
            found.append(self._direction(x, number, step(self, number), backward=backward))
        steps = torch.stack([each for each, _ in found], dim=1)
        lasts = zip(*(last for _, last in found), strict=True)
        return steps, *(torch.stack(same) for same in lasts)

    def _direction(
        self, x: Tensor, number: int, step: _Step, *, backward: bool
    ) -> tuple[Tensor, _States]:
        x = self._turned(x) if backward else x
        given = self.quantize(x) @ self.weights[number]
        states = tuple(self._start(start, number, x) for start in self.starts)
        valid, made = self._valid(x), []
        for time, part in enumerate(given.unbind(0)):
            new = step(part, states)
            if valid is not None:
                pairs = zip(new, states, strict=True)
                new = tuple(torch.where(valid[time], a, b) for a, b in pairs)
            states = new
            made.append(new[0] if valid is None else new[0] * valid[time])
        steps = torch.stack(made)
        return self._turned(steps) if backward else steps, states

    def _start(self, start: Tensor | None, number: int, x: Tensor) -> Tensor:
        if start is not None:
            return start[number]
        return x.new_zeros(x.shape[1], self.state_weights.shape[1])

    def _turned(self, x: Tensor) -> Tensor:
        return x.flip(0) if self.lengths is None else reverse_sequence(x, self.lengths)

    def _valid(self, x: Tensor) -> Tensor | None:
        """(time, batch, 1), whether a step belongs to its sequence; None where all do."""
        if self.lengths is None:
            return None
        steps = torch.arange(len(x), device=x.device).unsqueeze(1)
        return (steps < self.lengths.to(x.device)).unsqueeze(2)

    def bias(self, number: int, *, both: bool = True) -> Any:
        """Input and state biases of a direction; their sum, or one and the other."""
        if self.biases is None:
            return 0.0 if both else (0.0, 0.0)
        halves = self.biases[number].chunk(2)
        return halves[0] + halves[1] if both else halves


def _lstm_step(layer: _Layer, number: int) -> _Step:
    weight, bias = layer.state_weights[number], layer.bias(number)

    def step(given: Tensor, states: _States) -> _States:
        gates = given + layer.quantize(states[0]) @ weight + bias
        enter, leave, forget, new = gates.chunk(4, dim=1)
        cell = forget.sigmoid() * states[1] + enter.sigmoid() * new.tanh()
        return leave.sigmoid() * cell.tanh(), cell

    return step


def _gru_step(layer: _Layer, number: int) -> _Step:
    weight, (bias, state_bias) = layer.state_weights[number], layer.bias(number, both=False)

    def step(given: Tensor, states: _States) -> _States:
        update, reset, new = (given + bias).chunk(3, dim=1)
        product = layer.quantize(states[0]) @ weight + state_bias
        more_update, more_reset, more_new = product.chunk(3, dim=1)
        kept = (update + more_update).sigmoid()
        new = (new + (reset + more_reset).sigmoid() * more_new).tanh()
        return (kept * states[0] + (1 - kept) * new,)

    return step


def _rnn_step(activation: Callable[[Tensor], Tensor]) -> Callable[[_Layer, int], _Step]:
    def make(layer: _Layer, number: int) -> _Step:
        weight, bias = layer.state_weights[number], layer.bias(number)

        def step(given: Tensor, states: _States) -> _States:
            return (activation(given + layer.quantize(states[0]) @ weight + bias),)

        return step

    return make


def _read(
    weights: Sequence[Tensor | None],
    lengths: Tensor | None,
    starts: tuple[Tensor | None, ...],
    quantize: Callable[[Tensor], Tensor],
    attributes: dict[str, Any],
    expected: Sequence[str],
) -> _Layer:
    """A node's inputs, where its attributes ask for nothing that is not computed here."""
    own, state, bias = weights
    assert own is not None
    assert state is not None
    odd = any(attributes.get(name) for name in ("clip", "input_forget", "layout"))
    named = attributes.get("activations", list(expected) * len(own))
    if odd or "activation_alpha" in attributes or list(named) != list(expected) * len(own):
        raise InputError(
            "a recurrent layer with other activations, a clip or another layout cannot be "
            "trained; leave such a model to PTQ."
        )
    direction = attributes.get("direction", "forward")
    return _Layer(own, state, bias, lengths, starts, quantize, direction)


def _plain(x: Tensor) -> Tensor:
    return x


_LSTM = ("Sigmoid", "Tanh", "Tanh")


def _lstm(
    x: Tensor,
    weight: Tensor,
    state_weight: Tensor,
    bias: Tensor | None = None,
    lengths: Tensor | None = None,
    hidden: Tensor | None = None,
    cell: Tensor | None = None,
    **attributes: Any,
) -> tuple[Tensor, ...]:
    weights = (weight.mT, state_weight.mT, bias)
    layer = _read(weights, lengths, (hidden, cell), _plain, attributes, _LSTM)
    return layer.run(x, _lstm_step)


def _dynamic_lstm(
    x: Tensor,
    weight: Tensor,
    state_weight: Tensor,
    bias: Tensor | None = None,
    lengths: Tensor | None = None,
    hidden: Tensor | None = None,
    cell: Tensor | None = None,
    *_: Any,
    **attributes: Any,
) -> tuple[Tensor, ...]:
    """Weights come dequantized already, (directions, features, gates · hidden)."""
    weights = (weight, state_weight, bias)
    layer = _read(weights, lengths, (hidden, cell), quantize_by_range, attributes, _LSTM)
    return layer.run(x, _lstm_step)


def _gru(
    x: Tensor,
    weight: Tensor,
    state_weight: Tensor,
    bias: Tensor | None = None,
    lengths: Tensor | None = None,
    hidden: Tensor | None = None,
    *,
    linear_before_reset: int = 0,
    **attributes: Any,
) -> tuple[Tensor, ...]:
    if not linear_before_reset:
        raise InputError("a GRU with linear_before_reset=0 cannot be trained; leave it to PTQ.")
    weights = (weight.mT, state_weight.mT, bias)
    layer = _read(weights, lengths, (hidden,), _plain, attributes, ("Sigmoid", "Tanh"))
    return layer.run(x, _gru_step)


def _rnn(
    x: Tensor,
    weight: Tensor,
    state_weight: Tensor,
    bias: Tensor | None = None,
    lengths: Tensor | None = None,
    hidden: Tensor | None = None,
    **attributes: Any,
) -> tuple[Tensor, ...]:
    name = attributes.get("activations", ["Tanh"])[0]
    weights = (weight.mT, state_weight.mT, bias)
    layer = _read(weights, lengths, (hidden,), _plain, attributes, (name,))
    if name not in _BENDS:
        raise InputError(f"an RNN with activation {name} cannot be trained; leave it to PTQ.")
    return layer.run(x, _rnn_step(_BENDS[name]))


_BENDS = {"Tanh": torch.tanh, "Relu": torch.relu}

OPERATORS: dict[str, Operator] = {
    "DynamicQuantizeLSTM": _dynamic_lstm,
    "GRU": _gru,
    "LSTM": _lstm,
    "RNN": _rnn,
}

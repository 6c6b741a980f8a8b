"""Recurrent layers as the LSTM, GRU and RNN operators of ONNX, which torch would unroll over time.

`TRANSLATIONS` serves the reference models' own operator, with the lengths of the sequences, and the
one that `WholeLayers` puts in the place of torch's layers in a user's model. ONNX wants the gates
in another order than torch, and both directions of a layer in one tensor; `fold_weights` computes
that once, behind the export.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from onnx import TensorProto
from onnxscript import ir, optimizer
from onnxscript import opset18 as op
from torch.overrides import TorchFunctionMode

from compress.errors import InputError
from compress.export.graph import RECURRENT
from compress.models.recurrent_op import FUNCTIONS, recurrent_stack

#: What a translation gets and gives: values of the ONNX graph, or plain Python values.
Value = Any


@dataclass(frozen=True)
class _Cell:
    """An operator of ONNX: its name, torch's gates in its order, its other attributes."""

    kind: str
    order: tuple[int, ...]
    activation: str = ""

    def attributes(self, directions: int) -> dict[str, Any]:
        found: dict[str, Any] = {"direction": "bidirectional" if directions == 2 else "forward"}
        if self.kind == "GRU":
            found["linear_before_reset"] = 1  # as torch: the reset gate acts behind the product
        if self.activation:
            found["activations"] = [self.activation] * directions
        return found


_CELLS = {
    "lstm": _Cell("LSTM", (0, 3, 1, 2)),  # torch: input, forget, cell, output
    "gru": _Cell("GRU", (1, 0, 2)),  # torch: reset, update, new
    "rnn": _Cell("RNN", (0,), "Tanh"),
    "rnn_relu": _Cell("RNN", (0,), "Relu"),
}


def _ints(*values: int) -> Value:
    return op.Constant(value_ints=list(values))


def _layer(
    cell: _Cell,
    x: Value,
    parameters: Sequence[Sequence[Value]],
    lengths: Value = None,
    states: Sequence[Value] = (),
) -> tuple[Value, ...]:
    """One ONNX node for one layer.

    Args:
        x: (time, batch, features).
        parameters: for each direction weight_ih, weight_hh and, where there are any, the biases.
        lengths: (batch,), int32.
        states: initial ones, (directions, batch, hidden) each; None for zero.

    Returns:
        Y (time, directions, batch, hidden), Y_h (directions, batch, hidden), and an LSTM's Y_c.
    """
    hidden = int(parameters[0][1].shape[1])
    stacked = []
    for tensors in zip(*parameters, strict=True):
        each = [_reordered(tensor, cell, hidden) for tensor in tensors]
        stacked.append(each[0] if len(each) == 1 else op.Concat(*each, axis=0))
    bias = op.Concat(stacked[2], stacked[3], axis=1) if len(stacked) == 4 else None
    attributes = cell.attributes(len(parameters))
    outputs: tuple[Value, ...] = getattr(op, cell.kind)(
        x, stacked[0], stacked[1], bias, lengths, *states, hidden_size=hidden, **attributes
    )
    return outputs


def _reordered(tensor: Value, cell: _Cell, hidden: int) -> Value:
    """Weights (gates · hidden, n) as (1, gates · hidden, n); biases get a 1 in front, too."""
    gates = len(cell.order)
    shape = [1, gates * hidden, *tensor.shape[1:]]
    if gates > 1:
        apart = op.Reshape(tensor, _ints(gates, -1))
        tensor = op.Gather(apart, _ints(*cell.order), axis=0)
    return op.Reshape(tensor, _ints(*shape))


def _beside(steps: Value, directions: int, hidden: int, *, batch_first: bool = False) -> Value:
    """Y (time, directions, batch, hidden) as (time, batch, directions · hidden), or batch first."""
    if directions == 1 and not batch_first:
        return op.Squeeze(steps, _ints(1))
    swapped = op.Transpose(steps, perm=[2, 0, 1, 3] if batch_first else [0, 2, 1, 3])
    return op.Reshape(swapped, _ints(0, 0, directions * hidden))


def _own(x: Value, lengths: Value, weights: Sequence[Value], cell: str) -> tuple[Value, Value]:
    """The reference models' operator, see `compress.models.recurrent_op.recurrent`."""
    hidden, directions = int(weights[1].shape[1]), len(weights) // 4
    if lengths is not None:
        lengths = op.Cast(lengths, to=TensorProto.INT32)
    parameters = [weights[4 * number : 4 * number + 4] for number in range(directions)]
    steps, last, *_ = _layer(_CELLS[cell], x, parameters, lengths)
    if directions == 1:
        last = op.Squeeze(last, _ints(0))
    else:
        last = op.Reshape(op.Transpose(last, perm=[1, 0, 2]), _ints(0, directions * hidden))
    return _beside(steps, directions, hidden), last


def _stack(
    x: Value,
    states: Sequence[Value],
    weights: Sequence[Value],
    cell: str,
    has_biases: bool,
    num_layers: int,
    bidirectional: bool,
    batch_first: bool,
) -> list[Value]:
    """torch's own layers, see `compress.models.recurrent_op.recurrent_stack`."""
    directions, each = 1 + bidirectional, 4 if has_biases else 2
    if len(weights) != num_layers * directions * each:
        raise InputError("ONNX has no LSTM with projections (proj_size)")
    steps, finals = op.Transpose(x, perm=[1, 0, 2]) if batch_first else x, []
    for first in range(0, num_layers * directions, directions):
        places = range(first, first + directions)
        parameters = [weights[each * place : each * (place + 1)] for place in places]
        initial = [_part(state, places, num_layers) for state in states]
        outputs, *last = _layer(_CELLS[cell], steps, parameters, None, initial)
        turn = batch_first and places.stop == num_layers * directions
        hidden = int(parameters[0][1].shape[1])
        steps = _beside(outputs, directions, hidden, batch_first=turn)
        finals.append(last)
    if num_layers == 1:
        return [steps, *finals[0]]
    return [steps, *(op.Concat(*same, axis=0) for same in zip(*finals, strict=True))]


def _part(state: Value, places: range, num_layers: int) -> Value:
    """The initial state of one layer out of (layers · directions, batch, hidden); None for zero."""
    if _is_zero(state):  # what torch's layers start from; ONNX does so without being told
        return None
    if num_layers == 1:
        return state
    return op.Slice(state, _ints(places.start), _ints(places.stop), _ints(0))


def _is_zero(value: Value) -> bool:
    """Whether a value of the graph is zeros of a shape that is known when the model runs."""
    node = value.producer()
    if node is None or node.op_type != "Expand":
        return False
    source = node.inputs[0].producer()
    if source is None or source.op_type != "Constant" or "value" not in source.attributes:
        return False
    return not source.attributes["value"].as_tensor().numpy().any()


#: For `custom_translation_table` of torch.onnx.export.
TRANSLATIONS: dict[Callable[..., Any], Callable[..., Any]] = {
    torch.ops.compress.recurrent.default: _own,
    torch.ops.compress.recurrent_stack.default: _stack,
}


class WholeLayers(TorchFunctionMode):
    """While it is active, calls of torch's recurrent layers become one operator each."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        name = getattr(func, "__name__", "")
        if name == "_pack_padded_sequence":
            raise InputError(
                "packed sequences cannot be exported; give the layer the padded batch, and take "
                "what belongs to each length from its output"
            )
        cell = "rnn" if name == "rnn_tanh" else name
        if cell not in FUNCTIONS or kwargs or len(args) != 9:
            return func(*args, **(kwargs or {}))
        x, states, weights, has_biases, layers, _, _, both, batch_first = args
        if cell != "lstm":
            states = [states]
        return tuple(
            recurrent_stack(x, states, weights, cell, has_biases, layers, both, batch_first)
        )


def fold_weights(model: ir.Model) -> None:
    """Compute what only rearranges weights of recurrent nodes, and drop what is left unused.

    torch's exporter leaves constants of more than 8,192 bytes alone; a runtime would fold them at
    every start. Other constants stay as they are: some are small before and large behind folding.
    """
    chains = {id(node) for node in _weight_nodes(model.graph)}
    optimizer.fold_constants(
        model, should_fold=lambda node: id(node) in chains, output_size_limit=1 << 40
    )
    optimizer.remove_unused_nodes(model)


def _weight_nodes(graph: ir.Graph) -> Iterator[ir.Node]:
    """The nodes between the weights of a model and the recurrent nodes that use them."""
    waiting = [value for node in graph if node.op_type in RECURRENT for value in node.inputs[1:4]]
    while waiting:
        value = waiting.pop()
        node = value.producer() if value is not None else None
        if node is not None:
            yield node
            waiting += node.inputs

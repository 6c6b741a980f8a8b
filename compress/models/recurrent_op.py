"""Recurrent layers as operators of torch that an exporter finds whole instead of unrolled.

Eager models use torch's own layers. These operators stand in their place while torch exports: its
packed sequences cannot be traced, and its layers fix the number of steps to that of the example.
`compress.export.recurrent` turns them into ONNX.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence

#: By the name of a cell, torch's function for a stack of layers.
FUNCTIONS: dict[str, Callable[..., tuple[Tensor, ...]]] = {
    "lstm": torch.lstm,
    "gru": torch.gru,
    "rnn": torch.rnn_tanh,
    "rnn_relu": torch.rnn_relu,
}


@torch.library.custom_op("compress::recurrent", mutates_args=())
def recurrent(
    x: Tensor, lengths: Tensor | None, weights: Sequence[Tensor], cell: str
) -> tuple[Tensor, Tensor]:
    """One layer that reads forward, or forward and backward; not differentiable.

    Args:
        x: (time, batch, features).
        lengths: (batch,), at least 1; None where every step is valid.
        weights: for each direction weight_ih (gates · hidden, features), weight_hh
            (gates · hidden, hidden), bias_ih and bias_hh (gates · hidden), gates in torch's order.
        cell: a key of `FUNCTIONS`.

    Returns:
        All steps, (time, batch, directions · hidden), zero behind each length, and the state behind
        each direction's last valid step, (batch, directions · hidden).
    """
    time, batch = x.shape[:2]
    if lengths is None:
        lengths = torch.full((batch,), time)
    packed = pack_padded_sequence(x, lengths.cpu(), enforce_sorted=False)
    state = x.new_zeros(len(weights) // 4, batch, weights[1].shape[1])
    steps, last, *_ = FUNCTIONS[cell](
        packed.data,
        packed.batch_sizes,
        (state, state) if cell == "lstm" else state,
        list(weights),
        has_biases=True,
        num_layers=1,
        dropout=0.0,
        train=False,
        bidirectional=len(weights) == 8,
    )
    padded, _ = pad_packed_sequence(
        PackedSequence(steps, packed.batch_sizes, packed.sorted_indices, packed.unsorted_indices),
        total_length=time,
    )
    assert packed.unsorted_indices is not None
    return padded.contiguous(), last[:, packed.unsorted_indices].transpose(0, 1).flatten(1)


@recurrent.register_fake
def _(
    x: Tensor, lengths: Tensor | None, weights: Sequence[Tensor], cell: str
) -> tuple[Tensor, Tensor]:
    width = weights[1].shape[1] * len(weights) // 4
    return x.new_empty(x.shape[0], x.shape[1], width), x.new_empty(x.shape[1], width)


@torch.library.custom_op("compress::recurrent_stack", mutates_args=())
def recurrent_stack(
    x: Tensor,
    states: Sequence[Tensor],
    weights: Sequence[Tensor],
    cell: str,
    has_biases: bool,
    num_layers: int,
    bidirectional: bool,
    batch_first: bool,
) -> list[Tensor]:
    """All layers of one of torch's own modules, in evaluation mode; not differentiable.

    Args:
        x: (time, batch, features), or (batch, time, features).
        states: initial ones, (layers · directions, batch, hidden) each; an LSTM has two.
        weights: as torch keeps them, for each layer and direction.
        cell: a key of `FUNCTIONS`.

    Returns:
        All steps of the last layer, laid out as x is, and the final states, as the initial ones.
    """
    found = FUNCTIONS[cell](
        x,
        tuple(states) if cell == "lstm" else states[0],
        list(weights),
        has_biases=has_biases,
        num_layers=num_layers,
        dropout=0.0,
        train=False,
        bidirectional=bidirectional,
        batch_first=batch_first,
    )
    return [values.clone(memory_format=torch.contiguous_format) for values in found]


@recurrent_stack.register_fake
def _(
    x: Tensor,
    states: Sequence[Tensor],
    weights: Sequence[Tensor],
    cell: str,
    has_biases: bool,
    num_layers: int,
    bidirectional: bool,
    batch_first: bool,
) -> list[Tensor]:
    width = states[0].shape[2] * (1 + bidirectional)
    return [x.new_empty(*x.shape[:2], width), *(torch.empty_like(state) for state in states)]

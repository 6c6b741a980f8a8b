"""ONNX operators that move values or speak of shapes, in torch.

Shapes stay tensors on the device of what they were taken from; where torch wants plain numbers they
are read back.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from compress.errors import InputError
from compress.quantization.qat.operators.elementwise import Operator


def _shape(x: Tensor, *, start: int = 0, end: int | None = None) -> Tensor:
    return torch.tensor(list(x.shape)[start:end], dtype=torch.int64, device=x.device)


def _reshape(x: Tensor, shape: Tensor, *, allowzero: int = 0) -> Tensor:
    sizes = shape.tolist()
    if not allowzero:
        sizes = [x.shape[place] if size == 0 else size for place, size in enumerate(sizes)]
    return x.reshape(sizes)


def _numbers(axes: Any) -> list[int]:
    """Axes are an input; before opset 13 they were an attribute."""
    return axes.tolist() if isinstance(axes, Tensor) else list(axes)


def _squeeze(x: Tensor, axes: Any = None) -> Tensor:
    return x.squeeze() if axes is None else x.squeeze(tuple(_numbers(axes)))


def _unsqueeze(x: Tensor, axes: Any) -> Tensor:
    places = _numbers(axes)
    rank = x.dim() + len(places)
    for place in sorted(place % rank for place in places):
        x = x.unsqueeze(place)
    return x


def _transpose(x: Tensor, *, perm: list[int] | None = None) -> Tensor:
    return x.permute(perm if perm is not None else list(range(x.dim()))[::-1])


def _concat(*parts: Tensor, axis: int) -> Tensor:
    return torch.cat(parts, axis)


def _split(
    x: Tensor, sizes: Any = None, *, axis: int = 0, num_outputs: int = 0, split: Any = None
) -> tuple[Tensor, ...]:
    """`num_outputs` is always given here: the number of the node's outputs."""
    named = sizes if sizes is not None else split
    each = -(-x.shape[axis] // num_outputs)
    parts: tuple[Tensor, ...] = x.split(each if named is None else _numbers(named), axis)
    return parts


def _slice(
    x: Tensor,
    starts: Tensor,
    ends: Tensor,
    axes: Tensor | None = None,
    steps: Tensor | None = None,
) -> Tensor:
    firsts, lasts = starts.tolist(), ends.tolist()
    places = list(range(len(firsts))) if axes is None else axes.tolist()
    strides = [1] * len(firsts) if steps is None else steps.tolist()
    for first, last, place, stride in zip(firsts, lasts, places, strides, strict=True):
        rows = range(x.shape[place])[slice(first, _end(last, stride), stride)]
        x = x.index_select(place, torch.tensor(rows, dtype=torch.int64, device=x.device))
    return x


def _end(last: int, stride: int) -> int | None:
    """ONNX says "to the front, and including it" by a number below any negative index."""
    return None if stride < 0 and last < -(1 << 31) + 1 else last


def _gather(x: Tensor, index: Tensor, *, axis: int = 0) -> Tensor:
    size, axis = x.shape[axis], axis % x.dim()
    rows = torch.where(index < 0, index + size, index)
    if axis == 0 and x.dim() == 2 and x.requires_grad:
        return F.embedding(rows, x)
    found = x.index_select(axis, rows.flatten())
    return found.reshape(*x.shape[:axis], *rows.shape, *x.shape[axis + 1 :])


def _gather_elements(x: Tensor, index: Tensor, *, axis: int = 0) -> Tensor:
    return x.gather(axis, torch.where(index < 0, index + x.shape[axis], index))


def _gather_nd(x: Tensor, index: Tensor, *, batch_dims: int = 0) -> Tensor:
    if batch_dims:
        raise InputError("GatherND with batch_dims cannot be trained; leave such a model to PTQ.")
    return x[tuple(index.unbind(-1))]


def _expand(x: Tensor, shape: Tensor) -> Tensor:
    return x.expand(torch.broadcast_shapes(x.shape, shape.tolist()))


def _constant_of_shape(shape: Tensor, *, value: Tensor | None = None) -> Tensor:
    if value is None:
        return torch.zeros(shape.tolist(), device=shape.device)
    return torch.full(shape.tolist(), value.item(), dtype=value.dtype, device=shape.device)


def _range(start: Tensor, limit: Tensor, delta: Tensor) -> Tensor:
    values = (part.item() for part in (start, limit, delta))
    return torch.arange(*values, dtype=start.dtype, device=start.device)


def _pad(
    x: Tensor,
    pads: Any,
    value: Tensor | None = None,
    axes: Tensor | None = None,
    *,
    mode: str = "constant",
) -> Tensor:
    if mode != "constant":
        raise InputError(f"Pad with mode '{mode}' cannot be trained; leave such a model to PTQ.")
    numbers = _numbers(pads)
    named = list(range(x.dim())) if axes is None else axes.tolist()
    each = [[0, 0] for _ in range(x.dim())]
    for number, place in enumerate(named):
        each[place] = [numbers[number], numbers[number + len(named)]]
    flat = [size for pair in reversed(each) for size in pair]
    return F.pad(x, flat, value=0.0 if value is None else value.item())


def _flatten(x: Tensor, *, axis: int = 1) -> Tensor:
    axis = axis % x.dim() if axis < 0 else axis
    return x.flatten(1) if axis == 1 else x.reshape(int(torch.Size(x.shape[:axis]).numel()), -1)


def reverse_sequence(
    x: Tensor, lengths: Tensor, *, batch_axis: int = 1, time_axis: int = 0
) -> Tensor:
    """Each sequence turned round by itself; what is behind its length stays where it is.

    Args:
        x: (time, batch, …), or (batch, time, …) by the axes.
        lengths: (batch,).
    """
    steps = torch.arange(x.shape[time_axis], device=x.device).unsqueeze(1)
    ends = lengths.to(x.device).unsqueeze(0)
    rows = torch.where(steps < ends, ends - 1 - steps, steps)
    rows = rows if time_axis < batch_axis else rows.T
    rows = rows.reshape(*rows.shape, *[1] * (x.dim() - 2))
    return x.gather(time_axis, rows.expand_as(x))


def _triangle(x: Tensor, k: Tensor | None = None, *, upper: int = 1) -> Tensor:
    diagonal = 0 if k is None else int(k)
    return x.triu(diagonal) if upper else x.tril(diagonal)


OPERATORS: dict[str, Operator] = {
    "Concat": _concat,
    "ConstantOfShape": _constant_of_shape,
    "Einsum": lambda *parts, equation: torch.einsum(equation, *parts),
    "Expand": _expand,
    "Flatten": _flatten,
    "Gather": _gather,
    "GatherElements": _gather_elements,
    "GatherND": _gather_nd,
    "Pad": _pad,
    "Range": _range,
    "Reshape": _reshape,
    "ReverseSequence": reverse_sequence,
    "Shape": _shape,
    "Slice": _slice,
    "Split": _split,
    "Squeeze": _squeeze,
    "Tile": lambda x, repeats: x.repeat(repeats.tolist()),
    "Transpose": _transpose,
    "Trilu": _triangle,
    "Unsqueeze": _unsqueeze,
}

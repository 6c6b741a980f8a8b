"""ONNX operators that work on each value by itself, and reductions, in torch."""

from __future__ import annotations

from collections.abc import Callable
from functools import reduce
from typing import Any

import torch
import torch.nn.functional as F
from onnx import TensorProto
from torch import Tensor

#: From inputs, None where one is left out, and attributes by name, to one output or several.
Operator = Callable[..., Any]

TYPES: dict[int, torch.dtype] = {
    TensorProto.FLOAT: torch.float32,
    TensorProto.DOUBLE: torch.float64,
    TensorProto.FLOAT16: torch.float16,
    TensorProto.BOOL: torch.bool,
    TensorProto.INT64: torch.int64,
    TensorProto.INT32: torch.int32,
    # Integers of a quantized weight stay floats here, so that gradients flow through them.
    TensorProto.INT8: torch.float32,
    TensorProto.UINT8: torch.float32,
}


def _divide(x: Tensor, y: Tensor) -> Tensor:
    return x / y if x.is_floating_point() else torch.div(x, y, rounding_mode="trunc")


def _modulo(x: Tensor, y: Tensor, *, fmod: int = 0) -> Tensor:
    return torch.fmod(x, y) if fmod else torch.remainder(x, y)


def _clip(
    x: Tensor,
    low: Tensor | None = None,
    high: Tensor | None = None,
    *,
    min: float | None = None,
    max: float | None = None,
) -> Tensor:
    """Bounds are inputs; before opset 11 they were attributes."""
    least = low if low is not None else None if min is None else torch.tensor(min)
    largest = high if high is not None else None if max is None else torch.tensor(max)
    return x if least is None and largest is None else x.clamp(least, largest)


def _cast(x: Tensor, *, to: int, saturate: int = 1) -> Tensor:
    return x.to(TYPES[to])


def _cumulative_sum(x: Tensor, axis: Tensor, *, exclusive: int = 0, reverse: int = 0) -> Tensor:
    dim = int(axis)
    found = (x.flip(dim) if reverse else x).cumsum(dim)
    found = found.flip(dim) if reverse else found
    return found - x if exclusive else found


def _axes(x: Tensor, axes: Any, noop: int) -> list[int]:
    """Dimensions of a reduction: all, unless some are named."""
    named = axes.tolist() if isinstance(axes, Tensor) else list(axes or ())
    return named or ([] if noop else list(range(x.dim())))


def _reduction(compute: Callable[[Tensor, list[int], bool], Tensor]) -> Operator:
    def operator(
        x: Tensor, axes: Any = None, *, keepdims: int = 1, noop_with_empty_axes: int = 0
    ) -> Tensor:
        dims = _axes(x, axes, noop_with_empty_axes)
        return compute(x, dims, bool(keepdims)) if dims else x

    return operator


def _product(x: Tensor, dims: list[int], keep: bool) -> Tensor:
    for dim in sorted((dim % x.dim() for dim in dims), reverse=True):
        x = x.prod(dim, keepdim=keep)
    return x


def _variadic(compute: Callable[[Tensor, Tensor], Tensor]) -> Operator:
    return lambda *parts: reduce(compute, parts)


def _arg_max(x: Tensor, *, axis: int = 0, keepdims: int = 1, select_last_index: int = 0) -> Tensor:
    return x.argmax(axis, keepdim=bool(keepdims))


OPERATORS: dict[str, Operator] = {
    "Abs": torch.abs,
    "Add": torch.add,
    "And": torch.logical_and,
    "ArgMax": _arg_max,
    "Cast": _cast,
    "Ceil": torch.ceil,
    "Clip": _clip,
    "Cos": torch.cos,
    "CumSum": _cumulative_sum,
    "Div": _divide,
    "Dropout": lambda x, *_, **__: x,
    "Elu": lambda x, *, alpha=1.0: F.elu(x, alpha),
    "Equal": torch.eq,
    "Erf": torch.erf,
    "Exp": torch.exp,
    "Floor": torch.floor,
    "Gelu": lambda x, *, approximate="none": F.gelu(x, approximate=approximate),
    "Greater": torch.gt,
    "GreaterOrEqual": torch.ge,
    "HardSigmoid": lambda x, *, alpha=0.2, beta=0.5: (alpha * x + beta).clamp(0, 1),
    "HardSwish": F.hardswish,
    "Identity": lambda x: x,
    "IsNaN": torch.isnan,
    "LeakyRelu": lambda x, *, alpha=0.01: F.leaky_relu(x, alpha),
    "Less": torch.lt,
    "LessOrEqual": torch.le,
    "Log": torch.log,
    "LogSoftmax": lambda x, *, axis=-1: x.log_softmax(axis),
    "Max": _variadic(torch.maximum),
    "Min": _variadic(torch.minimum),
    "Mod": _modulo,
    "Mul": torch.mul,
    "Neg": torch.neg,
    "Not": torch.logical_not,
    "Or": torch.logical_or,
    "PRelu": lambda x, slope: torch.where(x < 0, slope * x, x),
    "Pow": torch.pow,
    "Reciprocal": torch.reciprocal,
    "ReduceL2": _reduction(lambda x, dims, keep: x.norm(dim=dims, keepdim=keep)),
    "ReduceMax": _reduction(lambda x, dims, keep: x.amax(dims, keepdim=keep)),
    "ReduceMean": _reduction(lambda x, dims, keep: x.mean(dims, keepdim=keep)),
    "ReduceMin": _reduction(lambda x, dims, keep: x.amin(dims, keepdim=keep)),
    "ReduceProd": _reduction(_product),
    "ReduceSum": _reduction(lambda x, dims, keep: x.sum(dims, keepdim=keep)),
    "Relu": F.relu,
    "Sigmoid": torch.sigmoid,
    "Sign": torch.sign,
    "Sin": torch.sin,
    "Softmax": lambda x, *, axis=-1: x.softmax(axis),
    "Softplus": F.softplus,
    "Sqrt": torch.sqrt,
    "Sub": torch.sub,
    "Sum": _variadic(torch.add),
    "Tanh": torch.tanh,
    "Where": torch.where,
}

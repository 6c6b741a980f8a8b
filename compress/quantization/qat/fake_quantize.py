"""Fake quantization with learned step sizes (LSQ: Esser et al., 2020, arXiv:1902.08153).

A value becomes the nearest number that an integer type can say at some scale, rounded as
onnxruntime's QuantizeLinear rounds: half to even, then the zero point is added, then it saturates.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

#: The least and the largest integer that is stored, by type. onnxruntime's own quantizers leave out
#: -128 for weights, so that a type is symmetric.
LIMITS = {"uint8": (0.0, 255.0), "int8": (-127.0, 127.0)}


class _FakeQuantize(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, scale: Tensor, low: float, high: float, gradient_scale: float
    ) -> Tensor:
        levels = x / scale
        ctx.save_for_backward(levels, scale)
        ctx.range, ctx.gradient_scale = (low, high), gradient_scale
        return levels.round().clamp_(low, high).mul_(scale)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,), (levels, scale), (low, high) = gradients, ctx.saved_tensors, ctx.range
        inside = (levels >= low) & (levels <= high)
        of_scale = None
        if ctx.needs_input_grad[1]:
            error = levels.round().clamp_(low, high).sub_(levels * inside)
            of_scale = (gradient * error).sum_to_size(scale.shape) * ctx.gradient_scale
        return gradient * inside, of_scale, None, None, None


def fake_quantize(
    x: Tensor, scale: Tensor, zero_point: float, limits: tuple[float, float], shared_by: int
) -> Tensor:
    """(clamp(round(x / scale) + zero point) - zero point) · scale, with LSQ's gradients.

    The gradient of x passes where nothing saturates. That of the scale is the rounding error in
    steps inside, and the bound outside, over √(values · largest level): so large that weights and
    scales move at the same relative speed (Esser et al., 2.2).

    Args:
        x: any shape.
        scale: broadcasts against x; above 0.
        zero_point: the integer that stands for 0.
        limits: least and largest integer.
        shared_by: values of a sample, or of a weight, that share one scale.
    """
    low, high = limits[0] - zero_point, limits[1] - zero_point
    gradient_scale = 1 / math.sqrt(shared_by * max(high, -low))
    found: Tensor = _FakeQuantize.apply(x, scale, low, high, gradient_scale)  # type: ignore[no-untyped-call]
    return found


class _StraightThrough(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, rounded: Tensor) -> Tensor:
        return rounded.view_as(rounded)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        return gradients[0], None


def straight_through(x: Tensor, rounded: Tensor) -> Tensor:
    """`rounded`, with a gradient as if it were x (Bengio et al., 2013, arXiv:1308.3432)."""
    found: Tensor = _StraightThrough.apply(x, rounded)  # type: ignore[no-untyped-call]
    return found


def quantize_by_range(x: Tensor) -> Tensor:
    """Fake uint8 by the range of this call, as onnxruntime's dynamic operators quantize inputs.

    The range always holds 0. The gradient passes straight through: by its own range no value
    saturates.
    """
    with torch.no_grad():
        least, largest = (bound.clamp(**at) for bound, at in zip(x.aminmax(), _ZERO, strict=True))
        scale = (largest - least) / 255
        scale = torch.where(scale > 0, scale, 1.0)
        zero_point = (-least / scale).round().clamp(0, 255)
        rounded = (x / scale).round().add_(zero_point).clamp_(0, 255).sub_(zero_point).mul_(scale)
    return straight_through(x, rounded)


_ZERO = ({"max": 0.0}, {"min": 0.0})


def fake_bias(bias: Tensor, scale: Tensor) -> Tensor:
    """A bias as int32 at a scale that follows from others, as QDQ graphs store it."""
    with torch.no_grad():
        rounded = (bias / scale).round() * scale
    return straight_through(bias, rounded)

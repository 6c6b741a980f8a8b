"""ONNX operators with weights, pooling, normalization and attention, in torch."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from compress.errors import InputError
from compress.quantization.qat.fake_quantize import quantize_by_range
from compress.quantization.qat.operators.elementwise import Operator

#: torch's own signatures differ by dimension in what they call a sequence.
_ByDimension = dict[int, Callable[..., Tensor]]
_CONVOLUTIONS: _ByDimension = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
_TRANSPOSED: _ByDimension = {1: F.conv_transpose1d, 2: F.conv_transpose2d, 3: F.conv_transpose3d}
_MAX_POOLS: _ByDimension = {1: F.max_pool1d, 2: F.max_pool2d, 3: F.max_pool3d}
_AVERAGE_POOLS: _ByDimension = {1: F.avg_pool1d, 2: F.avg_pool2d, 3: F.avg_pool3d}


def _padded(
    x: Tensor,
    pads: Sequence[int] | None,
    auto_pad: str,
    window: Sequence[int],
    strides: Sequence[int],
    value: float = 0.0,
) -> Tensor:
    """x with its border; `window` are the sizes that a kernel spans, dilation included."""
    dims = x.dim() - 2
    if auto_pad in ("SAME_UPPER", "SAME_LOWER"):
        whole = [
            max((-(-size // stride) - 1) * stride + span - size, 0)
            for size, span, stride in zip(x.shape[2:], window, strides, strict=True)
        ]
        first = [total // 2 if auto_pad == "SAME_UPPER" else -(-total // 2) for total in whole]
        pads = [*first, *(total - front for total, front in zip(whole, first, strict=True))]
    if pads is None or not any(pads):
        return x
    flat = [size for dim in reversed(range(dims)) for size in (pads[dim], pads[dim + dims])]
    return F.pad(x, flat, value=value)


def _window(kernel: Sequence[int], dilations: Sequence[int]) -> list[int]:
    return [1 + (size - 1) * step for size, step in zip(kernel, dilations, strict=True)]


def _conv(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    strides: Sequence[int] | None = None,
    pads: Sequence[int] | None = None,
    dilations: Sequence[int] | None = None,
    group: int = 1,
    auto_pad: str = "NOTSET",
    kernel_shape: Sequence[int] | None = None,
) -> Tensor:
    dims = weight.dim() - 2
    strides, dilations = strides or [1] * dims, dilations or [1] * dims
    border: Sequence[int] = [0] * dims
    if pads is not None and list(pads[:dims]) == list(pads[dims:]):
        border, pads = pads[:dims], None  # torch's own border is faster than one that is added
    x = _padded(x, pads, auto_pad, _window(weight.shape[2:], dilations), strides)
    return _CONVOLUTIONS[dims](x, weight, bias, strides, border, dilations, group)


def _conv_transpose(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    strides: Sequence[int] | None = None,
    pads: Sequence[int] | None = None,
    dilations: Sequence[int] | None = None,
    group: int = 1,
    output_padding: Sequence[int] | None = None,
    kernel_shape: Sequence[int] | None = None,
) -> Tensor:
    dims = weight.dim() - 2
    pads = pads or [0] * 2 * dims
    if list(pads[:dims]) != list(pads[dims:]):
        raise InputError("ConvTranspose with a border that differs by side cannot be trained.")
    strides, dilations = strides or [1] * dims, dilations or [1] * dims
    extra = output_padding or [0] * dims
    compute = _TRANSPOSED[dims]
    return compute(x, weight, bias, strides, pads[:dims], extra, group, dilations)


def _gemm(
    x: Tensor,
    y: Tensor,
    bias: Tensor | None = None,
    *,
    alpha: float = 1.0,
    beta: float = 1.0,
    transA: int = 0,  # noqa: N803 - ONNX's names
    transB: int = 0,  # noqa: N803
) -> Tensor:
    product = (x.T if transA else x) @ (y.T if transB else y)
    product = product if alpha == 1 else alpha * product
    return product if bias is None else product + (bias if beta == 1 else beta * bias)


def _dynamic_product(
    x: Tensor,
    weight: Tensor,
    scale: Tensor,
    zero_point: Tensor | None = None,
    bias: Tensor | None = None,
) -> Tensor:
    """The weight comes dequantized already, so that its scale has no more to say."""
    product = quantize_by_range(x) @ weight
    return product if bias is None else product + bias


def _max_pool(
    x: Tensor,
    *,
    kernel_shape: Sequence[int],
    strides: Sequence[int] | None = None,
    pads: Sequence[int] | None = None,
    dilations: Sequence[int] | None = None,
    ceil_mode: int = 0,
    auto_pad: str = "NOTSET",
    storage_order: int = 0,
) -> Tensor:
    dims = x.dim() - 2
    strides, dilations = strides or [1] * dims, dilations or [1] * dims
    bare = _padded(x, pads, auto_pad, _window(kernel_shape, dilations), strides, -torch.inf)
    found = _MAX_POOLS[dims](bare, kernel_shape, strides, 0, dilations, bool(ceil_mode))
    return _without_border(found, x, pads, strides) if ceil_mode else found


def _without_border(
    pooled: Tensor, x: Tensor, pads: Sequence[int] | None, strides: Sequence[int]
) -> Tensor:
    """Without the windows that begin behind x: they see its border alone."""
    for dim, stride in enumerate(strides):
        first = pads[dim] if pads is not None else 0
        windows = -(-(x.shape[dim + 2] + first) // stride)
        pooled = pooled.narrow(dim + 2, 0, min(windows, pooled.shape[dim + 2]))
    return pooled


def _average_pool(
    x: Tensor,
    *,
    kernel_shape: Sequence[int],
    strides: Sequence[int] | None = None,
    pads: Sequence[int] | None = None,
    ceil_mode: int = 0,
    count_include_pad: int = 0,
    auto_pad: str = "NOTSET",
) -> Tensor:
    dims = x.dim() - 2
    strides = strides or [1] * dims
    compute = _AVERAGE_POOLS[dims]
    bare = _padded(x, pads, auto_pad, kernel_shape, strides)
    found = compute(bare, kernel_shape, strides, 0, bool(ceil_mode))
    if bare is x or count_include_pad:
        return found
    ones = _padded(torch.ones_like(x), pads, auto_pad, kernel_shape, strides)
    share = compute(ones, kernel_shape, strides, 0, bool(ceil_mode))
    return found / share


def _over_space(compute: Callable[[Tensor, list[int]], Tensor]) -> Operator:
    return lambda x: compute(x, list(range(2, x.dim())))


def _batch_normalization(
    x: Tensor,
    scale: Tensor,
    bias: Tensor,
    mean: Tensor,
    variance: Tensor,
    *,
    epsilon: float = 1e-5,
    momentum: float = 0.9,
    training_mode: int = 0,
) -> Tensor:
    return F.batch_norm(x, mean, variance, scale, bias, False, 0.0, epsilon)


def _layer_normalization(
    x: Tensor,
    scale: Tensor,
    bias: Tensor | None = None,
    *,
    axis: int = -1,
    epsilon: float = 1e-5,
    stash_type: int = 1,
) -> Tensor:
    shape = x.shape[axis:]
    return F.layer_norm(x, shape, scale.expand(shape), bias, epsilon)


def _instance_normalization(
    x: Tensor, scale: Tensor, bias: Tensor, *, epsilon: float = 1e-5
) -> Tensor:
    return F.instance_norm(x, weight=scale, bias=bias, eps=epsilon)


def _attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None = None,
    *,
    q_num_heads: int,
    kv_num_heads: int,
    scale: float | None = None,
    is_causal: int = 0,
) -> Tensor:
    """ONNX's own, on (batch, time, heads · head width), as `quantization.fusion` makes it."""
    if q_num_heads != kv_num_heads or query.dim() != 3:
        raise InputError("Attention with shared keys, or on 4 dimensions, cannot be trained.")
    heads = [part.unflatten(2, (q_num_heads, -1)).transpose(1, 2) for part in (query, key, value)]
    mixed = F.scaled_dot_product_attention(
        heads[0], heads[1], heads[2], mask, is_causal=bool(is_causal), scale=scale
    )
    return mixed.transpose(1, 2).flatten(2)


OPERATORS: dict[str, Operator] = {
    "Attention": _attention,
    "AveragePool": _average_pool,
    "BatchNormalization": _batch_normalization,
    "Conv": _conv,
    "ConvTranspose": _conv_transpose,
    "DynamicQuantizeMatMul": _dynamic_product,
    "Gemm": _gemm,
    "GlobalAveragePool": _over_space(lambda x, dims: x.mean(dims, keepdim=True)),
    "GlobalMaxPool": _over_space(lambda x, dims: x.amax(dims, keepdim=True)),
    "InstanceNormalization": _instance_normalization,
    "LayerNormalization": _layer_normalization,
    "MatMul": torch.matmul,
    "MaxPool": _max_pool,
}

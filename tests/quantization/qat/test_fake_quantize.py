"""Fake quantization: values against onnxruntime's operators, gradients against hand and numbers."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor

from compress.quantization.qat.fake_quantize import (
    fake_bias,
    fake_quantize,
    quantize_by_range,
)

UINT8, INT8 = (0.0, 255.0), (-128.0, 127.0)


def by_onnxruntime(path: Path, nodes: list[onnx.NodeProto], constants: dict, x: Tensor) -> Tensor:
    """What a graph from `x` to `y` gives, as it stands, without any rewriting."""
    sizes = [f"d{place}" for place in range(x.dim())]
    given = helper.make_tensor_value_info("x", TensorProto.FLOAT, sizes)
    made = helper.make_tensor_value_info("y", TensorProto.FLOAT, sizes)
    tensors = [numpy_helper.from_array(value, name) for name, value in constants.items()]
    graph = helper.make_graph(nodes, "g", [given], [made], tensors)
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), path
    )
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(path, options)
    return torch.from_numpy(session.run(None, {"x": x.numpy()})[0])


@pytest.mark.parametrize(
    ("limits", "kind", "zero_point", "scale"),
    [(UINT8, np.uint8, 0, 0.03), (UINT8, np.uint8, 113, 0.017), (INT8, np.int8, -7, 0.021)],
)
def test_values_are_those_of_quantize_linear(
    tmp_path: Path, limits: tuple[float, float], kind: type, zero_point: int, scale: float
) -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(200, 50, generator=generator) * 2
    # Halves, where rounding to even, up, and away from zero differ.
    x[0] = (torch.arange(50) - 25.5) * np.float32(scale)
    constants = {"s": np.array(scale, np.float32), "z": np.array(zero_point, kind)}
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["y"]),
    ]
    expected = by_onnxruntime(tmp_path / "m.onnx", nodes, constants, x)
    found = fake_quantize(x, torch.tensor(np.float32(scale)), float(zero_point), limits, 1)
    assert torch.equal(found, expected)


@pytest.mark.parametrize("shift", [0.0, 5.0, -5.0])
def test_the_range_of_a_call_is_found_as_by_onnxruntime(tmp_path: Path, shift: float) -> None:
    x = torch.randn(40, 30, generator=torch.Generator().manual_seed(1)) + shift
    nodes = [
        helper.make_node("DynamicQuantizeLinear", ["x"], ["q", "s", "z"]),
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["y"]),
    ]
    expected = by_onnxruntime(tmp_path / "m.onnx", nodes, {}, x)
    torch.testing.assert_close(quantize_by_range(x), expected, rtol=0, atol=1e-6)


def test_a_call_of_zeros_stays_zero_and_gradients_pass_straight_through() -> None:
    x = torch.zeros(3, 4, requires_grad=True)
    found = quantize_by_range(x)
    found.sum().backward()
    assert torch.equal(found, torch.zeros(3, 4))
    assert torch.equal(x.grad, torch.ones(3, 4))


def test_gradients_worked_by_hand() -> None:
    # Steps of 0.5 from -2 to 5: levels -3, 0.6, 1.48 and 12 become -2, 1, 1 and 5.
    x = torch.tensor([-1.5, 0.3, 0.74, 6.0], requires_grad=True)
    scale = torch.tensor(0.5, requires_grad=True)
    found = fake_quantize(x, scale, 2.0, (0.0, 7.0), shared_by=4)
    assert found.tolist() == [-1.0, 0.5, 0.5, 2.5]
    found.backward(torch.tensor([1.0, 2.0, 3.0, 4.0]))
    assert x.grad.tolist() == [0.0, 2.0, 3.0, 0.0]
    by_hand = 1 * -2 + 2 * (1 - 0.6) + 3 * (1 - 1.48) + 4 * 5
    assert scale.grad.item() == pytest.approx(by_hand / math.sqrt(4 * 5), rel=1e-5)


def test_gradients_against_finite_differences_of_the_straight_through_function() -> None:
    """What LSQ differentiates is the function with its rounding error held fixed."""
    generator = torch.Generator().manual_seed(2)
    x = torch.randn(6, 50, generator=generator, dtype=torch.float64)
    scale = torch.rand(6, 1, generator=generator, dtype=torch.float64) * 0.02 + 0.005
    weights = torch.randn(6, 50, generator=generator, dtype=torch.float64)
    error = (x / scale).round() - x / scale

    def smooth(x: Tensor, scale: Tensor) -> Tensor:
        return (((x / scale + error).clamp(-127, 127) * scale) * weights).sum()

    x.requires_grad_()
    scale.requires_grad_()
    found = (fake_quantize(x, scale, 0.0, (-127.0, 127.0), shared_by=50) * weights).sum()
    found.backward()
    step, expected = 1e-7, torch.zeros_like(scale)
    with torch.no_grad():
        for row in range(6):
            moved = torch.zeros_like(scale)
            moved[row] = step
            rise = smooth(x, scale + moved) - smooth(x, scale - moved)
            expected[row] = rise / (2 * step)
    assert (x / scale).abs().max() > 127  # some saturate, most do not
    torch.testing.assert_close(scale.grad * math.sqrt(50 * 127), expected, rtol=1e-5, atol=1e-5)


def test_a_bias_is_rounded_to_the_scale_that_follows_from_others() -> None:
    bias = torch.tensor([0.1234, -3.0], requires_grad=True)
    found = fake_bias(bias, torch.tensor([0.1, 0.5]))
    found.sum().backward()
    assert found.tolist() == pytest.approx([0.1, -3.0])
    assert bias.grad.tolist() == [1.0, 1.0]

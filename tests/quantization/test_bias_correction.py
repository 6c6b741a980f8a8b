"""The mean of each output channel after rounding is what it was before, measured by onnxruntime."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper
from small_graphs import save, value

from compress.quantization.bias_correction import correct_biases, corrected_inputs
from compress.quantization.calibration import collect
from compress.quantization.config import QuantizeConfig
from compress.quantization.static import quantize_static_int8, rounded
from compress.runtime.onnxruntime import Session

RANDOM = np.random.default_rng(0)
INPUTS = {"x": 1}


def normal(*shape: int) -> np.ndarray:
    return RANDOM.standard_normal(shape).astype(np.float32)


def single(path: Path, kind: str) -> tuple[Path, np.ndarray]:
    """One layer of a kind, and samples whose mean is far from zero."""
    node, images = helper.make_node, normal(40, 6, 5, 5) + 2
    rows = normal(40, 6) + 2
    constants = {"w": normal(8, 6, 1, 1), "b": normal(8)}
    if kind == "Conv":
        nodes = [node("Conv", ["x", "w", "b"], ["y"], "layer")]
    elif kind == "Conv without a bias":
        nodes, constants = [node("Conv", ["x", "w"], ["y"], "layer")], {"w": normal(8, 6, 3, 3)}
    elif kind == "depthwise":
        nodes = [node("Conv", ["x", "w", "b"], ["y"], "layer", group=6)]
        constants = {"w": normal(6, 1, 3, 3), "b": normal(6)}
    elif kind == "Gemm":
        nodes = [node("Gemm", ["x", "w", "b"], ["y"], "layer", transB=1)]
        constants["w"] = normal(8, 6)
    else:
        nodes = [node("MatMul", ["x", "w"], ["m"], "layer"), node("Add", ["m", "b"], ["y"], "add")]
        constants["w"] = normal(6, 8)
    samples = rows if kind in ("Gemm", "MatMul") else images
    outputs = ["n", 8] if samples.ndim == 2 else ["n", len(constants["w"]), "h", "v"]
    shapes = [value("x", ["n", *samples.shape[1:]])], [value("y", outputs)]
    return save(path, nodes, *shapes, constants), samples


def channel_means(path: Path, rows: np.ndarray) -> np.ndarray:
    found = Session(path).run(rows).astype(np.float64)
    return found.mean(axis=tuple(i for i in range(found.ndim) if i != 1))


@pytest.mark.parametrize("kind", ["Conv", "Conv without a bias", "depthwise", "Gemm", "MatMul"])
@pytest.mark.parametrize("scheme", [{}, {"per_channel": False, "weights": "uint8"}])
def test_the_mean_of_each_channel_comes_back(tmp_path: Path, kind: str, scheme: dict[str, object]):
    config = QuantizeConfig(reduce_range=True, **scheme)
    source, rows = single(tmp_path / "m.onnx", kind)
    axes = corrected_inputs(source)
    assert axes == {"x": 1 if rows.ndim == 4 else -1}
    statistics = collect(source, [(rows[:16],), (rows[16:],)], channels=axes)
    assert correct_biases(source, tmp_path / "c.onnx", statistics, config) == 1
    # The corrected biases with rounded weights and fp32 activations: only weights lose here.
    model = onnx.load(tmp_path / "c.onnx")
    weight = next(tensor for tensor in model.graph.initializer if tensor.name == "w")
    axis = 1 if kind == "MatMul" else 0
    values = rounded(numpy_helper.to_array(weight), axis, config)
    weight.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(values), "w"))
    onnx.save(model, tmp_path / "rounded.onnx")
    expected = channel_means(source, rows)
    found = channel_means(tmp_path / "rounded.onnx", rows)
    allowed = 0.02 if kind == "Conv without a bias" or kind == "depthwise" else 1e-4
    np.testing.assert_allclose(found, expected, atol=allowed)


@pytest.mark.parametrize("weights", ["int8", "uint8"])
@pytest.mark.parametrize("per_channel", [True, False])
@pytest.mark.parametrize("reduce_range", [True, False])
def test_rounded_is_what_the_file_holds(
    tmp_path: Path, weights: str, per_channel: bool, reduce_range: bool
):
    config = QuantizeConfig(weights=weights, per_channel=per_channel, reduce_range=reduce_range)
    source, rows = single(tmp_path / "m.onnx", "Conv")
    quantize_static_int8(source, tmp_path / "8.onnx", collect(source, [(rows,)]).ranges(), config)
    graph = onnx.load(tmp_path / "8.onnx").graph
    tensors = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    zero, scale = tensors["w_zero_point"], tensors["w_scale"]
    shape = (-1, 1, 1, 1) if per_channel else ()
    stored = tensors["w_quantized"].astype(np.float32) - zero.astype(np.float32).reshape(shape)
    before = {t.name: numpy_helper.to_array(t) for t in onnx.load(source).graph.initializer}
    np.testing.assert_allclose(
        rounded(before["w"], 0, config), stored * scale.reshape(shape), rtol=1e-6
    )


def test_a_product_without_a_bias_is_left_as_it_is(tmp_path: Path):
    nodes = [helper.make_node("MatMul", ["x", "w"], ["y"], "m")]
    shapes = [value("x", ["n", 4])], [value("y", ["n", 3])]
    source = save(tmp_path / "m.onnx", nodes, *shapes, {"w": normal(4, 3)})
    statistics = collect(source, [(normal(5, 4),)], channels=corrected_inputs(source))
    assert correct_biases(source, tmp_path / "c.onnx", statistics, QuantizeConfig()) == 0
    assert onnx.load(tmp_path / "c.onnx") == onnx.load(source)

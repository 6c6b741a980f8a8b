"""Convolutions along one axis against the same ones as products, and those that stay."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from sketch import Sketch, kinds, numbers, run, save

from compress.quantization.rewriting.checked import write_changed
from compress.quantization.rewriting.convolution_products import as_products

LENGTH = (24, 32, 3)
#: Kernel, and the attributes of a convolution along one axis of (N, 32, 15) or (N, 32, 15, 4).
MOVES = {
    "as it is": (LENGTH, {}),
    "valid": (LENGTH, {"auto_pad": "VALID"}),
    "stride": (LENGTH, {"strides": [2], "kernel_shape": [3]}),
    "dilation": (LENGTH, {"dilations": [2]}),
    "pads": (LENGTH, {"pads": [1, 1]}),
    "one-sided pads": (LENGTH, {"pads": [4, 0]}),
    "all of them": (LENGTH, {"pads": [1, 2], "dilations": [2], "strides": [2]}),
    "even": ((24, 32, 4), {"pads": [1, 2], "strides": [3]}),
    "16 taps": ((16, 32, 16), {"pads": [7, 8]}),
    "first axis": ((24, 32, 3, 1), {}),
    "first axis, all": (
        (24, 32, 3, 1),
        {"pads": [1, 0, 2, 0], "dilations": [2, 1], "strides": [2, 1]},
    ),
    "second axis": ((24, 32, 1, 3), {}),
    "second axis, all": (
        (24, 32, 1, 3),
        {"pads": [0, 1, 0, 2], "dilations": [1, 2], "strides": [1, 2]},
    ),
    "one tap": ((24, 64, 1), {}),
    "one tap, stride": ((24, 64, 1), {"strides": [2]}),
    "one tap, two axes": ((24, 64, 1, 1), {}),
}


def convolution(kernel, bias=True, **attributes):
    """Of inputs with a batch and sizes that vary."""
    g, sizes = Sketch(), ("T", "W")[: len(kernel) - 2]
    group = attributes.get("group", 1)
    x = g.input(shape=("batch", kernel[1] * group, *sizes))
    parts = [g.constant(numbers(*kernel))] + [g.constant(numbers(kernel[0]))] * bias
    result = g.Conv(g.Neg(x), *parts, name="encoder/conv", **attributes)
    return g.output(g.Relu(result)).model()


def image(kernel, length, group=1):
    return numbers(2, kernel[1] * group, length, *[4] * (len(kernel) - 3))


def rewritten(model, folder: Path, x):
    source, target = save(model, folder / "model.onnx"), folder / "products.onnx"
    assert write_changed(source, target, (x,), as_products)
    return onnx.load(target)


def stays(model, folder: Path, x) -> bool:
    source, target = save(model, folder / "model.onnx"), folder / "products.onnx"
    return not write_changed(source, target, (x,), as_products) and not target.exists()


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("name", MOVES)
def test_a_product_gives_what_the_convolution_does(name: str, bias: bool, tmp_path: Path):
    kernel, attributes = MOVES[name]
    model = convolution(kernel, bias, **attributes)
    after = rewritten(model, tmp_path, image(kernel, 15))
    assert (kinds(after)["Conv"], kinds(after)["MatMul"], kinds(after)["Add"]) == (0, 1, bias)
    for length in (15, 16, 23):
        x = image(kernel, length)
        found, expected = (run(file, x)[0] for file in (after, model))
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


def test_the_product_is_called_like_the_convolution(tmp_path: Path):
    after = rewritten(convolution(LENGTH), tmp_path, image(LENGTH, 15))
    assert [node.name for node in after.graph.node if node.op_type == "MatMul"] == ["encoder/conv"]


def test_one_tap_is_neither_sliced_nor_padded(tmp_path: Path):
    after = kinds(rewritten(convolution((24, 64, 1)), tmp_path, image((24, 64, 1), 15)))
    assert (after["Slice"], after["Concat"], after["Pad"]) == (0, 0, 0)


@pytest.mark.parametrize(
    ("shape", "kernel", "order", "left"),
    [
        ((2, 9, 32), LENGTH, [0, 2, 1], 1),
        ((2, 9, 4, 32), (24, 32, 3, 1), [0, 3, 1, 2], 1),
        ((2, 4, 9, 32), (24, 32, 3, 1), [0, 3, 2, 1], 3),  # undoes no move of channels
    ],
)
def test_a_transpose_in_front_that_is_undone_goes(shape, kernel, order, left, tmp_path: Path):
    g = Sketch()
    made = g.Transpose(g.Neg(g.input(shape=("batch", *shape[1:]))), perm=order)
    model, x = g.output(g.Conv(made, g.constant(numbers(*kernel)))).model(), numbers(*shape)
    after = rewritten(model, tmp_path, x)
    assert kinds(after)["Transpose"] == left
    np.testing.assert_allclose(run(after, x)[0], run(model, x)[0], rtol=1e-4, atol=1e-4)


def test_a_transpose_that_others_read_stays(tmp_path: Path):
    g = Sketch()
    made = g.Transpose(g.input(shape=("batch", 9, 32)), perm=[0, 2, 1])
    g.output(g.Conv(made, g.constant(numbers(*LENGTH)))).output(g.Relu(made))
    model, x = g.model(), numbers(2, 9, 32)
    after = rewritten(model, tmp_path, x)
    assert kinds(after)["Transpose"] == 2
    for found, expected in zip(run(after, x), run(model, x), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


def test_one_behind_the_other_and_weights_that_two_share(tmp_path: Path):
    g = Sketch()
    shared = g.constant(numbers(32, 32, 3))
    first = g.Conv(g.input(shape=("batch", 32, "T")), shared, pads=[1, 1])
    model, x = g.output(g.Conv(first, shared, strides=[2])).model(), numbers(2, 32, 11)
    after = rewritten(model, tmp_path, x)
    assert (kinds(after)["Conv"], kinds(after)["MatMul"]) == (0, 2)
    np.testing.assert_allclose(run(after, x)[0], run(model, x)[0], rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize(
    ("kernel", "attributes"),
    [
        ((24, 32, 3), {"group": 2}),
        ((24, 32, 3, 3), {}),
        ((24, 16, 3), {}),
        ((15, 32, 3), {}),
        ((24, 32, 17), {}),
        ((24, 32, 3), {"auto_pad": "SAME_UPPER"}),
        ((24, 32, 3, 1), {"strides": [1, 2]}),
        ((24, 32, 3, 1), {"pads": [0, 1, 0, 1]}),
        ((24, 64, 1, 1), {"strides": [2, 2]}),
    ],
)
def test_what_is_none_or_not_worth_it_stays(kernel, attributes, tmp_path: Path):
    x = image(kernel, 19, attributes.get("group", 1))
    assert stays(convolution(kernel, **attributes), tmp_path, x)


@pytest.mark.parametrize("varies", ["weight", "bias"])
def test_weights_that_are_not_constant_stay(varies: str, tmp_path: Path):
    g = Sketch()
    weight, bias = g.constant(numbers(24, 32, 3)), g.constant(numbers(24))
    if varies == "weight":
        weight = g.Neg(weight)
    else:
        bias = g.Neg(bias)
    model = g.output(g.Conv(g.input(shape=("batch", 32, "T")), weight, bias)).model()
    assert stays(model, tmp_path, numbers(2, 32, 9))


def test_opsets_without_the_operators_stay(tmp_path: Path):
    g = Sketch(10)
    model = g.output(g.Conv(g.input(shape=("batch", 32, "T")), g.constant(numbers(*LENGTH))))
    assert stays(model.model(), tmp_path, numbers(2, 32, 9))

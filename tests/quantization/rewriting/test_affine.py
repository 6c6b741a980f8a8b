"""Scales and shifts in weights against the operators that they were."""

from __future__ import annotations

import numpy as np
import pytest
from sketch import Sketch, kinds, run

from compress.quantization.rewriting.affine import merge_affine
from compress.quantization.rewriting.folding import infer_shapes

RANDOM = np.random.default_rng(0)


def numbers(*shape):
    return RANDOM.standard_normal(shape).astype(np.float32)


def conv(g, *, bias=True, **settings):
    x = g.input(shape=("batch", 4, 6, 6))
    group = settings.get("group", 1)
    more = [g.constant(numbers(6))] if bias else []
    weight = numbers(6, 4 // group, 3, 3)
    return g.Conv(x, g.constant(weight), *more, **settings), (4, 6, 6), 6, (6, 1, 1)


def conv_transpose(g, group=1):
    x = g.input(shape=("batch", 4, 6, 6))
    weight = g.constant(numbers(4, 6 // group, 2, 2))
    made = g.ConvTranspose(x, weight, g.constant(numbers(6)), group=group, strides=[2, 2])
    return made, (4, 6, 6), 6, (6, 1, 1)


def gemm(g, turned=0, bias=(5,)):
    x = g.input(shape=("batch", 3))
    weight = numbers(5, 3) if turned else numbers(3, 5)
    made = g.Gemm(x, g.constant(weight), g.constant(numbers(*bias)), transB=turned)
    return made, (3,), 5, (5,)


def matmul(g):
    return g.MatMul(g.input(shape=("batch", 3)), g.constant(numbers(3, 5))), (3,), 5, (5,)


LINEAR = {
    "Conv": conv,
    "Conv without bias": lambda g: conv(g, bias=False),
    "Conv in groups": lambda g: conv(g, group=2),
    "ConvTranspose": conv_transpose,
    "ConvTranspose in groups": lambda g: conv_transpose(g, 2),
    "Gemm": gemm,
    "Gemm, turned": lambda g: gemm(g, 1),
    "Gemm, one bias": lambda g: gemm(g, 1, (1,)),
    "MatMul": matmul,
}


def normalization(g, x, channels):
    parts = [numbers(channels) for _ in range(3)] + [np.abs(numbers(channels)) + 0.1]
    return g.BatchNormalization(x, *(g.constant(part) for part in parts), epsilon=1e-3)


BEHIND = {
    "BatchNormalization": lambda g, x, channels, shape: normalization(g, x, channels),
    "Mul": lambda g, x, channels, shape: g.Mul(x, g.constant(numbers(*shape))),
    "Mul and Add": lambda g, x, channels, shape: g.Add(
        g.constant(numbers(1, *shape)), g.Mul(x, g.constant(numbers(*shape)))
    ),
    "Div": lambda g, x, channels, shape: g.Div(x, g.constant(numbers(*shape))),
    "Sub": lambda g, x, channels, shape: g.Sub(x, g.constant(numbers(*shape))),
    "Sub from": lambda g, x, channels, shape: g.Sub(g.constant(numbers(*shape)), x),
    "one number": lambda g, x, channels, shape: g.Mul(g.Add(x, 0.5), 3),
}


def build(linear, behind):
    g = Sketch(18)
    made, shape, channels, by_channel = LINEAR[linear](g)
    model = g.output(g.Relu(behind(g, made, channels, by_channel))).model()
    infer_shapes(model, symbolic=False)
    return model, numbers(3, *shape)


@pytest.mark.parametrize("linear", LINEAR)
@pytest.mark.parametrize("behind", BEHIND)
def test_every_pair(linear, behind):
    model, x = build(linear, BEHIND[behind])
    before = run(model, x)[0]
    assert merge_affine(model) == (2 if behind in ("Mul and Add", "one number") else 1)
    assert sum(kinds(model).values()) == 2
    after = run(model, x)[0]
    np.testing.assert_allclose(after, before, rtol=1e-4, atol=1e-5 * np.abs(before).max())


@pytest.mark.parametrize(
    "behind",
    [
        lambda g, x, channels, shape: g.Mul(x, g.constant(numbers(*shape[::-1]))),
        lambda g, x, channels, shape: g.Mul(x, g.constant(numbers(1, 1, 1, *shape))),
        lambda g, x, channels, shape: g.Mul(x, g.Relu(x)),
        lambda g, x, channels, shape: g.Div(1, x),
        lambda g, x, channels, shape: g.Div(x, g.constant(np.zeros(shape))),
    ],
    ids=["by column", "another rank", "no constant", "quotient of it", "by zero"],
)
def test_what_is_no_scale_of_channels_stays(behind):
    model, _ = build("Conv", behind)
    before = kinds(model)
    assert merge_affine(model) == 0
    assert kinds(model) == before


def test_a_result_that_others_read_stays():
    g = Sketch(18)
    made, *_ = gemm(g)
    g.output(g.Mul(made, 2)).output(made)
    assert merge_affine(g.model()) == 0


def test_a_product_of_more_axes_stays():
    g = Sketch(18)
    made = g.MatMul(g.input(), g.constant(numbers(8, 4)))
    model = g.output(normalization(g, made, 4)).model()
    infer_shapes(model, symbolic=False)
    assert merge_affine(model) == 0


def test_a_weight_of_two_operators_is_kept_for_the_other():
    g = Sketch(18)
    x, weight = g.input(shape=("batch", 3)), g.constant(numbers(3, 5))
    g.output(g.Mul(g.MatMul(x, weight), 2)).output(g.MatMul(x, weight))
    model, feed = g.model(), numbers(4, 3)
    infer_shapes(model, symbolic=False)
    before = run(model, feed)
    assert merge_affine(model) == 1
    for want, got in zip(before, run(model, feed), strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-5)

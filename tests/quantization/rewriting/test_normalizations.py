"""LayerNormalization in pieces, against numpy in float64 and against the pieces."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sketch import Sketch, kinds, run

from compress.quantization.rewriting.normalizations import fuse_layer_normalization

RANDOM = np.random.default_rng(0)
SCALE, BIAS = (RANDOM.standard_normal(8).astype(np.float32) for _ in range(2))
EPSILON = 1e-5


def _guarded(g, square, axes=(-1,), epsilon=EPSILON):
    return g.Add(g.mean(square, *axes), epsilon)


def _power(g, x, axes=(-1,)):
    centred = g.Sub(x, g.mean(x, *axes))
    return centred, _guarded(g, g.Pow(centred, 2), axes)


def _product(g, x):
    centred = g.Sub(x, g.mean(x, -1))
    return centred, _guarded(g, g.Mul(centred, centred))


def _twice(g, x):
    """The difference written down again for the square, as torch 1.x did."""
    mean = g.mean(x, -1)
    return g.Sub(x, mean), _guarded(g, g.Pow(g.Sub(x, mean), 2))


QUOTIENTS = {
    "power": lambda g, x: _quotient(g, *_power(g, x)),
    "product": lambda g, x: _quotient(g, *_product(g, x)),
    "twice": lambda g, x: _quotient(g, *_twice(g, x)),
    "reciprocal": lambda g, x: _times(g, *_power(g, x), lambda v: g.Reciprocal(g.Sqrt(v))),
    "one over": lambda g, x: _times(g, *_product(g, x), lambda v: g.Div(1, g.Sqrt(v))),
    "power of -0.5": lambda g, x: _times(g, *_product(g, x), lambda v: g.Pow(v, -0.5)),
    "power of 0.5": lambda g, x: _divided_by_power(g, *_product(g, x)),
    "axis from the front": lambda g, x: _quotient(g, *_power(g, x, (2,))),
}


def _quotient(g, centred, variance):
    return g.Div(centred, g.Sqrt(variance))


def _divided_by_power(g, centred, variance):
    return g.Div(centred, g.Pow(variance, 0.5))


def _times(g, centred, variance, inverse):
    return g.Mul(inverse(variance), centred)


def sketched(form, opset=18, shape=("batch", 4, 8)):
    g = Sketch(opset)
    x = g.Relu(g.input(shape=shape))
    return g.output(g.Neg(form(g, x))).model()


def inferred(model):
    """With shapes noted, as the step before does."""
    from compress.quantization.rewriting.folding import infer_shapes

    infer_shapes(model, symbolic=False)
    return model


def normalized(x, axes=(-1,), epsilon=EPSILON):
    x = x.astype(np.float64)
    centred = x - x.mean(axes, keepdims=True)
    return centred / np.sqrt((centred**2).mean(axes, keepdims=True) + epsilon)


def compare(form, expected, opset=18, x=None, places=1):
    model = inferred(sketched(form, opset))
    x = RANDOM.standard_normal((3, 4, 8)).astype(np.float32) if x is None else x
    before = run(model, x)[0]
    assert fuse_layer_normalization(model) == places
    after = run(model, x)[0]
    np.testing.assert_allclose(after, before, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(after, -expected(np.maximum(x, 0)), rtol=1e-4, atol=1e-5)
    return kinds(model)


@pytest.mark.parametrize("form", QUOTIENTS)
@pytest.mark.parametrize("opset", [17, 18])
def test_without_scale_and_bias(form, opset):
    found = compare(QUOTIENTS[form], normalized, opset)
    assert found == {"Relu": 1, "LayerNormalization": 1, "Neg": 1}


@pytest.mark.parametrize("form", QUOTIENTS)
def test_with_scale_and_bias(form):
    found = compare(
        lambda g, x: g.Add(g.constant(BIAS), g.Mul(QUOTIENTS[form](g, x), g.constant(SCALE))),
        lambda x: normalized(x) * SCALE + BIAS,
    )
    assert found == {"Relu": 1, "LayerNormalization": 1, "Neg": 1}


@pytest.mark.parametrize(
    ("form", "expected"),
    [
        (lambda g, y: g.Mul(y, g.constant(SCALE)), lambda y: y * SCALE),
        (lambda g, y: g.Add(y, g.constant(BIAS)), lambda y: y + BIAS),
        (lambda g, y: g.Mul(y, g.constant(SCALE.reshape(1, 1, 8))), lambda y: y * SCALE),
        (lambda g, y: g.Add(g.Mul(y, 3), g.constant([0.5])), lambda y: 3 * y + 0.5),
    ],
    ids=["scale alone", "bias alone", "scale of rank 3", "numbers"],
)
def test_scale_or_bias(form, expected):
    found = compare(
        lambda g, x: form(g, QUOTIENTS["power"](g, x)), lambda x: expected(normalized(x))
    )
    assert found == {"Relu": 1, "LayerNormalization": 1, "Neg": 1}


def test_a_scale_before_the_quotient():
    def form(g, x):
        centred, variance = _power(g, x)
        return g.Add(g.Div(g.Mul(g.constant(SCALE), centred), g.Sqrt(variance)), g.constant(BIAS))

    found = compare(form, lambda x: normalized(x) * SCALE + BIAS)
    assert found == {"Relu": 1, "LayerNormalization": 1, "Neg": 1}


@pytest.mark.parametrize("scaled", [True, False])
def test_as_tensorflow_writes_it(scaled):
    """Its moments and its batch normalization: x · s + (bias - mean · s)."""

    def form(g, x):
        mean = g.mean(x, -1)
        difference = g.Sub(x, mean)
        variance = g.mean(g.Mul(difference, difference), -1)
        factor = g.Reciprocal(g.Sqrt(g.Add(variance, EPSILON)))
        factor = g.Mul(factor, g.constant(SCALE)) if scaled else factor
        return g.Add(g.Mul(x, factor), g.Sub(g.constant(BIAS), g.Mul(mean, factor)))

    found = compare(form, lambda x: normalized(x) * (SCALE if scaled else 1) + BIAS)
    assert found == {"Relu": 1, "LayerNormalization": 1, "Neg": 1}


def test_several_axes():
    scale = RANDOM.standard_normal((4, 8)).astype(np.float32)
    found = compare(
        lambda g, x: g.Mul(_quotient(g, *_power(g, x, (-2, -1))), g.constant(scale)),
        lambda x: normalized(x, (-2, -1)) * scale,
    )
    assert found == {"Relu": 1, "LayerNormalization": 1, "Neg": 1}


def test_a_bias_by_row_stays_outside():
    bias = RANDOM.standard_normal((4, 1)).astype(np.float32)
    found = compare(
        lambda g, x: g.Add(QUOTIENTS["power"](g, x), g.constant(bias)),
        lambda x: normalized(x) + bias,
    )
    assert found == {"Relu": 1, "LayerNormalization": 1, "Neg": 1, "Add": 1}


@pytest.mark.parametrize("factor", [1e-6, 1e-3, 1e3, 1e6])
def test_tiny_and_large_values(factor):
    x = (factor * RANDOM.standard_normal((3, 4, 8))).astype(np.float32)
    compare(QUOTIENTS["product"], normalized, x=x)


def _without_epsilon(g, x):
    centred = g.Sub(x, g.mean(x, -1))
    return g.Div(centred, g.Sqrt(g.mean(g.Pow(centred, 2), -1)))


def _epsilon_outside(g, x):
    centred = g.Sub(x, g.mean(x, -1))
    return g.Div(centred, g.Add(g.Sqrt(g.mean(g.Pow(centred, 2), -1)), EPSILON))


def _two_axes(g, x):
    centred = g.Sub(x, g.mean(x, -1))
    return g.Div(centred, g.Sqrt(_guarded(g, g.Pow(centred, 2), (-2, -1))))


def _cube(g, x):
    centred = g.Sub(x, g.mean(x, -1))
    return g.Div(centred, g.Sqrt(_guarded(g, g.Abs(g.Pow(centred, 3)))))


def _unbiased(g, x):
    centred = g.Sub(x, g.mean(x, -1))
    variance = g.Mul(g.mean(g.Pow(centred, 2), -1), 8 / 7)
    return g.Div(centred, g.Sqrt(g.Add(variance, EPSILON)))


def _shifted(g, x):
    centred = g.Sub(x, g.mean(x, -1))
    return g.Div(centred, g.Sqrt(_guarded(g, g.Pow(centred, 2), epsilon=1)))


NEAR = {
    "no epsilon": _without_epsilon,
    "epsilon outside": _epsilon_outside,
    "another axis": lambda g, x: _quotient(g, *_power(g, x, (1,))),
    "axes with a gap": lambda g, x: _quotient(g, *_power(g, x, (0, 2))),
    "two axes": _two_axes,
    "variance of another": lambda g, x: _quotient(g, _power(g, x)[0], _power(g, g.Exp(x))[1]),
    "not centred": lambda g, x: g.Div(x, g.Sqrt(_power(g, x)[1])),
    "cube": _cube,
    "unbiased": _unbiased,
    "variance not guarded but shifted": _shifted,
}


@pytest.mark.parametrize("form", NEAR)
def test_what_is_no_layer_normalization_stays(form):
    model = inferred(sketched(NEAR[form]))
    before = kinds(model)
    assert fuse_layer_normalization(model) == 0
    assert kinds(model) == before


@given(st.integers(0, 7))
@settings(max_examples=8, deadline=None)
def test_values_that_others_read_keep_all(place):
    """Of mean, difference, square, variance, guarded, root, quotient, scaled: the last two may."""
    g = Sketch(18)
    x = g.input()
    values = [g.mean(x, -1)]
    values.append(g.Sub(x, values[-1]))
    values.append(g.Pow(values[-1], 2))
    values.append(g.mean(values[-1], -1))
    values.append(g.Add(values[-1], EPSILON))
    values.append(g.Sqrt(values[-1]))
    values.append(g.Div(values[1], values[-1]))
    values.append(g.Mul(values[-1], g.constant(SCALE)))
    g.output(g.Neg(values[-1])).output(values[place])
    model, feed = inferred(g.model()), RANDOM.standard_normal((2, 4, 8)).astype(np.float32)
    before = run(model, feed)
    assert fuse_layer_normalization(model) == (1 if place >= 6 else 0)
    for want, got in zip(before, run(model, feed), strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)


def test_an_unknown_size_needs_a_scale_of_its_own():
    plain = inferred(sketched(QUOTIENTS["power"], shape=("batch", 4, "width")))
    assert fuse_layer_normalization(plain) == 0
    scaled = inferred(
        sketched(
            lambda g, x: g.Mul(QUOTIENTS["power"](g, x), g.constant(SCALE)),
            shape=("batch", 4, "width"),
        )
    )
    assert fuse_layer_normalization(scaled) == 1


def test_an_older_opset_has_no_such_operator():
    assert fuse_layer_normalization(inferred(sketched(QUOTIENTS["power"], 16))) == 0

"""Activations in the pieces that exporters leave, against scipy and against the pieces."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import erf
from sketch import Sketch, extremes, kinds, run

from compress.quantization.rewriting.activations import (
    fuse_gelu,
    fuse_hard_sigmoid,
    fuse_hard_swish,
)

ROOT, TANH, CUBE = math.sqrt(2), math.sqrt(2 / math.pi), 0.044715

ERF_FORMS = {
    "torch": lambda g, x: g.Mul(g.Mul(x, g.Add(g.Erf(g.Div(x, ROOT)), 1)), 0.5),
    "half first": lambda g, x: g.Mul(g.Mul(0.5, x), g.Add(1, g.Erf(g.Div(x, ROOT)))),
    "half inside": lambda g, x: g.Mul(x, g.Mul(0.5, g.Add(1, g.Erf(g.Mul(x, 1 / ROOT))))),
    "halves added": lambda g, x: g.Mul(g.Add(0.5, g.Mul(g.Erf(g.Mul(x, 0.70710678)), 0.5)), x),
    "divided by two": lambda g, x: g.Div(g.Mul(g.Add(g.Erf(g.Div(x, 1.41421)), 1), x), 2),
    "minus": lambda g, x: g.Mul(g.Mul(x, 0.5), g.Sub(1, g.Neg(g.Erf(g.Div(x, ROOT))))),
}


def _tanh(g, x, inner):
    return g.Mul(g.Mul(x, 0.5), g.Add(g.Tanh(inner), 1))


TANH_FORMS = {
    "power": lambda g, x: _tanh(g, x, g.Mul(g.Add(x, g.Mul(g.Pow(x, 3), CUBE)), TANH)),
    "products": lambda g, x: _tanh(g, x, g.Mul(TANH, g.Add(g.Mul(g.Mul(g.Mul(x, x), x), CUBE), x))),
    "factored": lambda g, x: _tanh(g, x, g.Mul(g.Mul(x, TANH), g.Add(1, g.Mul(g.Mul(x, x), CUBE)))),
    "expanded": lambda g, x: _tanh(g, x, g.Add(g.Mul(x, TANH), g.Mul(g.Pow(x, 3), TANH * CUBE))),
}


def sketched(form, opset=20):
    g = Sketch(opset)
    x = g.Mul(g.input(), 2)  # no input of the graph, but a value like others
    return g.output(g.Add(form(g, x), 1)).model()


def compare(form, change, opset=20):
    """The graph after a change that has to happen once, and its outputs before and after."""
    model, x = sketched(form, opset), extremes((3, 4, 8))
    before = run(model, x)[0]
    assert change(model) == 1
    after = run(model, x)[0]
    # Without anything that cancels, 1 + erf(-6) being the exception: relative to x.
    np.testing.assert_allclose(after, before, rtol=2e-6, atol=2e-6 * np.abs(2 * x).max())
    small = np.abs(x) < 5
    np.testing.assert_allclose(after[small], before[small], rtol=1e-5, atol=1e-6)
    return model, 2 * x.astype(np.float64), after - 1.0


@pytest.mark.parametrize("form", ERF_FORMS)
@pytest.mark.parametrize(("opset", "kind"), [(13, ("com.microsoft", "Gelu")), (20, ("", "Gelu"))])
def test_gelu_by_the_error_function(form, opset, kind):
    model, x, found = compare(ERF_FORMS[form], fuse_gelu, opset)
    assert kinds(model) == {"Mul": 1, "Gelu": 1, "Add": 1}
    assert (model.graph.node[1].domain, model.graph.node[1].op_type) == kind
    expected = 0.5 * x * (1 + erf(x / ROOT))
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("form", TANH_FORMS)
@pytest.mark.parametrize(("opset", "kind"), [(13, "FastGelu"), (20, "Gelu")])
def test_gelu_by_tanh(form, opset, kind):
    model, x, found = compare(TANH_FORMS[form], fuse_gelu, opset)
    assert kinds(model) == {"Mul": 1, kind: 1, "Add": 1}
    expected = 0.5 * x * (1 + np.tanh(TANH * (x + CUBE * x**3)))
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


NEAR_GELU = {
    "another root": lambda g, x: g.Mul(g.Mul(x, g.Add(g.Erf(g.Div(x, 1.4)), 1)), 0.5),
    "another cube": lambda g, x: _tanh(g, x, g.Mul(g.Add(x, g.Mul(g.Pow(x, 3), 0.05)), TANH)),
    "a square": lambda g, x: _tanh(g, x, g.Mul(g.Add(x, g.Mul(g.Pow(x, 2), CUBE)), TANH)),
    "no half": lambda g, x: g.Mul(x, g.Add(g.Erf(g.Div(x, ROOT)), 1)),
    "two added": lambda g, x: g.Mul(g.Mul(x, g.Add(g.Erf(g.Div(x, ROOT)), 2)), 0.5),
    "another x": lambda g, x: g.Mul(g.Mul(g.Relu(x), g.Add(g.Erf(g.Div(x, ROOT)), 1)), 0.5),
    "divided by it": lambda g, x: g.Div(g.Div(x, g.Add(g.Erf(g.Div(x, ROOT)), 1)), 2),
    "a vector": lambda g, x: g.Mul(
        g.Mul(x, g.Add(g.Erf(g.Div(x, ROOT)), g.constant(np.ones(8)))), 0.5
    ),
    "another rank": lambda g, x: g.Mul(
        g.Mul(x, g.Add(g.Erf(g.Div(x, ROOT)), 1)), g.constant(np.full((1, 1, 1, 1), 0.5))
    ),
}


@pytest.mark.parametrize("form", NEAR_GELU)
def test_what_is_no_gelu_stays(form):
    model = sketched(NEAR_GELU[form])
    before = kinds(model)
    assert fuse_gelu(model) == 0
    assert kinds(model) == before


@given(st.sampled_from(range(4)), st.floats(0.6, 1.5).filter(lambda f: abs(f - 1) > 1e-3))
@settings(max_examples=30, deadline=None)
def test_no_factor_may_be_off(place, factor):
    numbers = [ROOT, 1.0, 0.5, 1.0]
    numbers[place] *= factor

    def form(g, x):
        inner = g.Add(g.Erf(g.Div(x, numbers[0])), numbers[1])
        return g.Mul(g.Mul(g.Mul(x, numbers[3]), inner), numbers[2])

    assert fuse_gelu(sketched(form)) == 0


@pytest.mark.parametrize("shared", range(5))
def test_an_intermediate_value_that_others_read_keeps_all(shared):
    """The fourth is the half before the result; the last one is the result itself."""
    g = Sketch(20)
    x = g.input()
    values = [g.Div(x, ROOT)]
    values.append(g.Erf(values[0]))
    values.append(g.Add(values[1], 1))
    values.append(g.Mul(x, values[2]))
    values.append(g.Mul(values[3], 0.5))
    by_node, by_output = g.model, g.model
    g.output(g.Relu(values[4]))
    g.output(g.Sigmoid(values[shared]))
    assert fuse_gelu(by_node()) == (1 if shared == 4 else 0)
    g.nodes.pop()
    g.outputs.pop()
    g.output(values[shared])
    model, feed = by_output(), extremes((2, 4, 8))
    before = run(model, feed)
    assert fuse_gelu(model) == (1 if shared == 4 else 0)
    for want, got in zip(before, run(model, feed), strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6)


HARD_SWISH_FORMS = {
    "torch": lambda g, x: g.Div(g.Mul(x, g.Clip(g.Add(x, 3), 0, 6)), 6),
    "sixth inside": lambda g, x: g.Mul(x, g.Mul(g.Clip(g.Add(x, 3), 0, 6), 1 / 6)),
    "to one": lambda g, x: g.Mul(g.Clip(g.Add(g.Mul(x, 1 / 6), 0.5), 0, 1), x),
    "relu and min": lambda g, x: g.Mul(x, g.Div(g.Min(g.Relu(g.Add(x, 3)), 6), 6)),
    "max and min": lambda g, x: g.Mul(x, g.Div(g.Min(g.Max(g.Add(x, 3), 0), 6), 6)),
    "min and max": lambda g, x: g.Mul(x, g.Div(g.Max(0, g.Min(6, g.Add(x, 3))), 6)),
    "operator": lambda g, x: g.Mul(x, g.HardSigmoid(x, alpha=1 / 6, beta=0.5)),
}


@pytest.mark.parametrize("form", HARD_SWISH_FORMS)
def test_hard_swish(form):
    model, x, found = compare(HARD_SWISH_FORMS[form], fuse_hard_swish, 14)
    assert kinds(model) == {"Mul": 1, "HardSwish": 1, "Add": 1}
    np.testing.assert_allclose(found, x * np.clip(x + 3, 0, 6) / 6, rtol=1e-5, atol=1e-6)


HARD_SIGMOID_FORMS = {
    "torch": (lambda g, x: g.Div(g.Clip(g.Add(x, 3), 0, 6), 6), 1 / 6),
    "relu and min": (lambda g, x: g.Mul(g.Min(g.Relu(g.Add(3, x)), 6), 1 / 6), 1 / 6),
    "keras": (lambda g, x: g.Clip(g.Add(g.Mul(x, 0.2), 0.5), 0, 1), 0.2),
}


@pytest.mark.parametrize("form", HARD_SIGMOID_FORMS)
def test_hard_sigmoid(form):
    build, slope = HARD_SIGMOID_FORMS[form]
    model, x, found = compare(build, fuse_hard_sigmoid)
    assert kinds(model) == {"Mul": 1, "HardSigmoid": 1, "Add": 1}
    np.testing.assert_allclose(found, np.clip(slope * x + 0.5, 0, 1), rtol=1e-5, atol=1e-6)


NEAR_HARD = {
    "another shift": lambda g, x: g.Div(g.Mul(x, g.Clip(g.Add(x, 2), 0, 6)), 6),
    "another top": lambda g, x: g.Div(g.Mul(x, g.Clip(g.Add(x, 3), 0, 5)), 6),
    "another bottom": lambda g, x: g.Div(g.Mul(x, g.Clip(g.Add(x, 3), -1, 6)), 6),
    "no top": lambda g, x: g.Div(g.Mul(x, g.Clip(g.Add(x, 3), 0)), 6),
    "another factor": lambda g, x: g.Div(g.Mul(x, g.Clip(g.Add(x, 3), 0, 6)), 5),
    "max of a relu": lambda g, x: g.Div(g.Mul(x, g.Max(g.Relu(g.Add(x, 3)), 6)), 6),
    "operator's default slope": lambda g, x: g.Mul(x, g.HardSigmoid(x)),
}


@pytest.mark.parametrize("form", NEAR_HARD)
def test_what_is_no_hard_swish_stays(form):
    model = sketched(NEAR_HARD[form])
    before = kinds(model)
    assert fuse_hard_swish(model) == 0
    assert kinds(model) == before


def test_a_hard_swish_needs_its_opset():
    assert fuse_hard_swish(sketched(HARD_SWISH_FORMS["torch"], 13)) == 0


def test_two_in_a_row():
    def twice(g, x):
        return ERF_FORMS["half inside"](g, ERF_FORMS["torch"](g, x))

    model = sketched(twice)
    assert fuse_gelu(model) == 2
    assert kinds(model) == {"Mul": 1, "Gelu": 2, "Add": 1}

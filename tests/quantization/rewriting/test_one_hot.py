"""Products of one-hot vectors against a row of the table, for tokens inside and outside of it."""

from __future__ import annotations

import numpy as np
import pytest
from sketch import Sketch, kinds, run

from compress.quantization.rewriting.folding import infer_shapes
from compress.quantization.rewriting.one_hot import fuse_one_hot
from compress.quantization.rewriting.tidy import tidy

DEPTH, WIDTH = 11, 5
TABLE = np.random.default_rng(0).standard_normal((DEPTH, WIDTH)).astype(np.float32)
FLOAT, INT64 = 1, 7
TOKENS = np.array([[0, 3, 10], [10, 1, 2]])
OUTSIDE = np.array([[-1, -11, -12], [11, 100, -(2**40)]])


def _operator(g, tokens, values=(0, 1), kind=np.float32, **attributes):
    depth = g.constant(DEPTH, np.int64)
    return g.OneHot(tokens, depth, g.constant(values, kind), **attributes)


def _compared(g, tokens, places=None):
    places = np.arange(DEPTH) if places is None else places
    column = g.Unsqueeze(tokens, g.constant([-1], np.int64))
    return g.Equal(column, g.constant(places, np.int64))


FORMS = {
    "operator": _operator,
    "operator, last axis": lambda g, t: _operator(g, t, axis=2),
    "operator, whole numbers": lambda g, t: g.Cast(_operator(g, t, kind=np.int64), to=FLOAT),
    "compared": lambda g, t: g.Cast(_compared(g, t), to=FLOAT),
    "compared, twice cast": lambda g, t: g.Cast(g.Cast(_compared(g, t), to=INT64), to=FLOAT),
    "compared with a matrix": lambda g, t: g.Cast(
        _compared(g, t, np.arange(DEPTH)[None]), to=FLOAT
    ),
    "compared, reshaped": lambda g, t: g.Cast(
        g.Equal(g.Reshape(t, g.constant([0, 0, 1], np.int64)), g.constant(range(DEPTH), np.int64)),
        to=FLOAT,
    ),
    "chosen": lambda g, t: g.Where(_compared(g, t), 1, 0),
}


def sketched(form, table=TABLE, clip=None, product="MatMul"):
    g = Sketch(18)
    tokens = g.input("tokens", ("batch", "time"), np.int64)
    if clip:
        tokens = g.Clip(tokens, *(g.constant(bound, np.int64) for bound in clip))
    vectors = form(g, tokens)
    if product == "Gemm":
        vectors = g.Reshape(vectors, g.constant([-1, DEPTH], np.int64))
    result = getattr(g, product)(vectors, g.constant(table))
    model = g.output(result).model()
    infer_shapes(model, symbolic=False)
    return model


def fused(model):
    """How often, and without what is not used any more."""
    count = fuse_one_hot(model)
    tidy(model, model)
    return count


def rows(tokens, *, from_end):
    """By hand: a row of the table, or zeros."""
    found = np.zeros((*tokens.shape, WIDTH), np.float32)
    for place, token in np.ndenumerate(tokens):
        if 0 <= token < DEPTH:
            found[place] = TABLE[token]
        elif from_end and -DEPTH <= token < 0:
            found[place] = TABLE[token + DEPTH]
    return found


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("tokens", [TOKENS, OUTSIDE], ids=["inside", "outside"])
def test_every_form(form, tokens):
    model = sketched(FORMS[form])
    before = run(model, tokens)[0]
    assert fused(model) == 1
    assert not {"MatMul", "OneHot", "Equal"} & kinds(model).keys()
    after = run(model, tokens)[0]
    np.testing.assert_array_equal(after, before)
    np.testing.assert_array_equal(after, rows(tokens, from_end="operator" in form))


@pytest.mark.parametrize("clip", [(0, DEPTH - 1), (-DEPTH, 4)])
def test_tokens_that_are_known_to_be_rows_need_no_guard(clip):
    model = sketched(FORMS["operator"], clip=clip)
    before = run(model, OUTSIDE)[0]
    assert fused(model) == 1
    assert kinds(model) == {"Clip": 1, "Gather": 1}
    np.testing.assert_array_equal(run(model, OUTSIDE)[0], before)


@pytest.mark.parametrize("clip", [(0, DEPTH), (-DEPTH - 1, 4)])
def test_tokens_one_outside_need_it(clip):
    model = sketched(FORMS["operator"], clip=clip)
    before = run(model, OUTSIDE)[0]
    assert fused(model) == 1
    assert kinds(model)["Clip"] == 2
    np.testing.assert_array_equal(run(model, OUTSIDE)[0], before)


def test_a_product_with_a_bias():
    g = Sketch(18)
    tokens = g.input("tokens", ("batch",), np.int64)
    bias = np.arange(WIDTH)
    g.output(g.Gemm(_operator(g, tokens), g.constant(TABLE.T), g.constant(bias), transB=1))
    model = g.model()
    before = run(model, OUTSIDE.ravel())[0]
    assert fused(model) == 1
    np.testing.assert_allclose(run(model, OUTSIDE.ravel())[0], before, rtol=1e-6)
    np.testing.assert_allclose(before, rows(OUTSIDE.ravel(), from_end=True) + bias, rtol=1e-6)


NEAR = {
    "other values": lambda g, t: _operator(g, t, values=(0, 2)),
    "off is not zero": lambda g, t: _operator(g, t, values=(0.1, 1)),
    "another axis": lambda g, t: g.Transpose(_operator(g, t, axis=1), perm=[0, 2, 1]),
    "places turned": lambda g, t: g.Cast(_compared(g, t, np.arange(DEPTH)[::-1]), to=FLOAT),
    "places from one": lambda g, t: g.Cast(_compared(g, t, np.arange(DEPTH) + 1), to=FLOAT),
    "places of more axes": lambda g, t: g.Squeeze(
        g.Cast(_compared(g, t, np.arange(DEPTH)[None, None, None]), to=FLOAT),
        g.constant([0], np.int64),
    ),
    "not equal": lambda g, t: g.Cast(g.Not(_compared(g, t)), to=FLOAT),
    "chosen the other way": lambda g, t: g.Where(_compared(g, t), 0, 1),
}


@pytest.mark.parametrize("form", NEAR)
def test_what_is_no_one_hot_stays(form):
    model = sketched(NEAR[form])
    before = kinds(model)
    assert fused(model) == 0
    assert kinds(model) == before


def test_a_table_that_is_no_constant_stays():
    g = Sketch(18)
    tokens = g.input("tokens", ("batch", "time"), np.int64)
    table = g.input("table", (DEPTH, WIDTH))
    model = g.output(g.MatMul(_operator(g, tokens), table)).model()
    assert fused(model) == 0


def test_vectors_that_others_read_stay_for_them():
    g = Sketch(18)
    tokens = g.input("tokens", ("batch", "time"), np.int64)
    vectors = _operator(g, tokens)
    products = [g.MatMul(vectors, g.constant(table)) for table in (TABLE, -TABLE)]
    g.output(products[0]).output(products[1]).output(vectors)
    model = g.model()
    before = run(model, OUTSIDE)
    assert fused(model) == 2
    assert (kinds(model)["OneHot"], kinds(model)["Gather"]) == (1, 2)
    for want, got in zip(before, run(model, OUTSIDE), strict=True):
        np.testing.assert_array_equal(got, want)

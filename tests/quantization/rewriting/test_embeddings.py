"""Rows of a changed table against changed rows."""

from __future__ import annotations

import numpy as np
import pytest
from sketch import Sketch, kinds, numbers, run

from compress.quantization.rewriting.embeddings import compute_on_tables
from compress.quantization.rewriting.folding import infer_shapes
from compress.quantization.rewriting.tidy import tidy

TOKENS = np.array([[0, 3, 9], [9, 1, -1]])
FORMS = {
    "scale": (lambda g, x: g.Mul(x, 8), 1),
    "scale in front": (lambda g, x: g.Sub(1, x), 1),
    "bias and activation": (lambda g, x: g.Gelu(g.Add(x, g.constant(numbers(1, 1, 5)))), 2),
    "vectors": (lambda g, x: g.Div(g.Mul(x, g.constant(numbers(5))), g.constant([2])), 2),
}


def sketched(form, table=None, kind=np.int64):
    g = Sketch(20)
    tokens = g.input("tokens", ("batch", "time"), kind)
    table = g.constant(numbers(10, 5)) if table is None else table
    model = g.output(g.MatMul(form(g, g.Gather(table, tokens)), g.constant(numbers(5, 2)))).model()
    infer_shapes(model, symbolic=False)
    return model


@pytest.mark.parametrize("form", FORMS)
def test_what_is_computed_on_the_table(form):
    build, places = FORMS[form]
    model = sketched(build)
    before = run(model, TOKENS)[0]
    assert compute_on_tables(model) == places
    tidy(model, model)
    assert kinds(model) == {"Gather": 1, "MatMul": 1}
    assert len(model.graph.initializer) == 2
    np.testing.assert_allclose(run(model, TOKENS)[0], before, rtol=1e-6, atol=1e-6)


NEAR = {
    "by step": lambda g, x: g.Add(x, g.constant(numbers(3, 5))),
    "another rank": lambda g, x: g.Squeeze(
        g.Add(x, g.constant(numbers(1, 1, 1, 5))), g.constant([0], np.int64)
    ),
    "with itself": lambda g, x: g.Add(x, x),
    "no constant": lambda g, x: g.Add(x, g.Relu(x)),
    "over rows": lambda g, x: g.Softmax(x, axis=1),
}


@pytest.mark.parametrize("form", NEAR)
def test_what_is_not_done_row_by_row_stays(form):
    model = sketched(NEAR[form])
    before = kinds(model)
    assert compute_on_tables(model) == 0
    assert kinds(model) == before


def test_a_table_that_others_read_stays():
    g = Sketch(20)
    table = g.constant(numbers(10, 5))
    rows = g.Mul(g.Gather(table, g.input("tokens", ("batch",), np.int64)), 8)
    g.output(g.MatMul(rows, g.Transpose(table)))
    assert compute_on_tables(g.model()) == 0

"""GatherND of rows as Gather: the same values, for numbers from the end as well."""

from __future__ import annotations

import numpy as np
import pytest
from sketch import Sketch, kinds, numbers, run

from compress.quantization.rewriting.folding import infer_shapes
from compress.quantization.rewriting.rows import gather_rows
from compress.quantization.rewriting.tidy import tidy

INDEX = np.array([[0, 3], [-1, 2]])


def sketched(form, table=None, **attributes):
    g = Sketch(18)
    index = form(g, g.input("index", ("batch", 2), np.int64))
    held = g.constant(numbers(4, 5, 6)) if table is None else g.input("table", table)
    model = g.output(g.GatherND(held, index, **attributes)).model()
    infer_shapes(model, symbolic=False)
    return model


FORMS = {
    "unsqueezed": (lambda g, i: g.Unsqueeze(i, g.constant([-1], np.int64)), {"Gather": 1}),
    "unsqueezed, last axis": (
        lambda g, i: g.Unsqueeze(i, g.constant([2], np.int64)),
        {"Gather": 1},
    ),
    "reshaped": (
        lambda g, i: g.Reshape(i, g.constant([0, 2, 1], np.int64)),
        {"Reshape": 1, "Squeeze": 1, "Gather": 1},
    ),
}


@pytest.mark.parametrize("name", FORMS)
def test_the_same_rows(name):
    form, wanted = FORMS[name]
    model = sketched(form)
    before = run(model, INDEX)[0]
    assert gather_rows(model) == 1
    tidy(model, model)
    assert kinds(model) == wanted
    np.testing.assert_array_equal(run(model, INDEX)[0], before)
    assert before.shape == (2, 2, 5, 6)


@pytest.mark.parametrize(
    ("form", "table", "attributes"),
    [
        (lambda g, i: i, None, {}),
        (lambda g, i: g.Unsqueeze(i, g.constant([0], np.int64)), None, {}),
        (lambda g, i: g.Unsqueeze(i, g.constant([2], np.int64)), ("batch", 4, 6), {}),
        (lambda g, i: g.Unsqueeze(i, g.constant([2], np.int64)), None, {"batch_dims": 1}),
    ],
)
def test_what_picks_no_rows_of_a_constant_stays(form, table, attributes):
    model = sketched(form, table, **attributes)
    assert gather_rows(model) == 0
    assert kinds(model)["GatherND"] == 1

"""Embeddings in front of a recurrent node that stay as they are."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from embedded_layers import HIDDEN, SIZE, WIDTH, axes, copied, embedded, finished, layer
from onnx import helper
from sketch import Sketch, numbers

from compress.quantization.rewriting.vocabularies import fold_vocabularies


def rows_that_others_read(g):
    x = embedded(g)
    return layer(g, "GRU", x, outputs=2)[1], g.Relu(x)


def rows_that_are_an_output(g):
    x = embedded(g)
    return layer(g, "GRU", x, outputs=2)[1], x


def moved_rows_that_others_read(g):
    x = g.Transpose(embedded(g), perm=[1, 0, 2])
    return layer(g, "GRU", x, outputs=2)[1], g.Relu(x)


def rows_that_are_a_state_too(g):
    x = g.Gather(g.constant(numbers(SIZE, HIDDEN)), g.input("tokens", (1, "n"), np.int64))
    weight = g.constant(numbers(1, HIDDEN, HIDDEN))
    return g.RNN(x, weight, weight, "", "", x, hidden_size=HIDDEN, outputs=2)


def rows_of_two_layers(g):
    """A way to fold both is left out: exporters write one node of two directions."""
    x = embedded(g)
    ways = ("forward", "reverse")
    return [layer(g, "GRU", x, outputs=2, direction=way)[1] for way in ways]


def a_table_that_callers_give(g):
    x = g.Gather(g.input("table", (SIZE, WIDTH)), g.input("tokens", ("t", "n"), np.int64))
    return layer(g, "GRU", x, outputs=2)


def a_table_of_three_axes(g):
    table = g.constant(numbers(SIZE, 1, WIDTH))
    x = g.Squeeze(g.Gather(table, g.input("tokens", ("t", "n"), np.int64)), axes(g, 2))
    return layer(g, "GRU", x, outputs=2)


def columns_of_a_table(g):
    places = g.input("places", (WIDTH,), np.int64)
    x = g.Gather(g.constant(numbers(SIZE, WIDTH)), places, axis=1)
    return layer(g, "GRU", g.Unsqueeze(x, axes(g, 1)), outputs=2)


def a_table_with_infinity(g):
    table = numbers(SIZE, WIDTH)
    table[2, 3] = np.inf
    x = g.Gather(g.constant(table), g.input("tokens", ("t", "n"), np.int64))
    return layer(g, "GRU", x, outputs=2)


def products_that_overflow(g):
    table, weight = np.full((SIZE, WIDTH), 1e30), np.full((1, 3 * HIDDEN, WIDTH), 1e30)
    x = g.Gather(g.constant(table), g.input("tokens", ("t", "n"), np.int64))
    return layer(g, "GRU", x, weight=g.constant(weight), outputs=2)


def weights_that_callers_give(g):
    weight = g.input("weight", (1, 3 * HIDDEN, WIDTH))
    return layer(g, "GRU", embedded(g), weight=weight, outputs=2)


def double_precision(g):
    def constant(*shape):
        return g.constant(numbers(*shape), np.float64)

    x = g.Gather(constant(SIZE, WIDTH), g.input("tokens", ("t", "n"), np.int64))
    state = constant(1, HIDDEN, HIDDEN)
    y = g.RNN(x, constant(1, HIDDEN, WIDTH), state, hidden_size=HIDDEN)
    return [g.Cast(y, to=onnx.TensorProto.FLOAT)]


def turned(**attributes):
    """Features and steps change places; there are as many of them."""

    def build(g):
        x = g.Transpose(embedded(g, (WIDTH, "n")), **attributes)
        return layer(g, "GRU", x, outputs=2)

    return build


def turned_behind(axis):
    """No Transpose moves the last axis, but the features are not the last one then."""

    def build(g):
        x = g.Unsqueeze(embedded(g, (WIDTH,)), axes(g, axis))
        x = g.Squeeze(g.Transpose(x, perm=[1, 0, 2]), axes(g, axis))
        return layer(g, "GRU", g.Unsqueeze(x, axes(g, 1)), outputs=2)

    return build


def axes_that_are_not_known(g):
    x = g.Unsqueeze(embedded(g, ("t",)), g.input("axes", (1,), np.int64))
    return layer(g, "GRU", x, outputs=2)


def every_axis_of_one(g):
    x = g.Squeeze(embedded(g, ("t", "n", 1), size=1))
    return layer(g, "GRU", x, outputs=2)


def another_domain(g):
    x = embedded(g)
    return g.GRU(x, g.constant(numbers(1, 3, WIDTH)), domain="mine", outputs=2)


STAYS = {
    "as many tokens as features": lambda g: layer(g, "GRU", embedded(g, size=WIDTH), outputs=2),
    "more": lambda g: layer(g, "GRU", embedded(g, size=WIDTH + 1), outputs=2),
    "no embedding": lambda g: layer(g, "GRU", g.input("x", ("t", "n", WIDTH)), outputs=2),
    "something between": lambda g: layer(g, "GRU", g.Relu(embedded(g)), outputs=2),
    "features turned": turned(perm=[2, 1, 0]),
    "features turned by default": turned(),
    "features turned behind an axis": turned_behind(2),
    "features turned behind an axis, from the end": turned_behind(-1),
    "weights for other features": lambda g: layer(
        g, "GRU", embedded(g), weight=g.constant(numbers(1, 3 * HIDDEN, WIDTH - 1)), outputs=2
    ),
    **{
        build.__name__: build
        for build in (
            rows_that_others_read,
            rows_that_are_an_output,
            moved_rows_that_others_read,
            rows_that_are_a_state_too,
            rows_of_two_layers,
            a_table_that_callers_give,
            a_table_of_three_axes,
            columns_of_a_table,
            a_table_with_infinity,
            products_that_overflow,
            weights_that_callers_give,
            double_precision,
            axes_that_are_not_known,
            every_axis_of_one,
            another_domain,
        )
    },
}


@pytest.mark.parametrize("form", STAYS)
def test_what_stays(form):
    g = Sketch(18)
    for name in STAYS[form](g):
        g.output(name)
    model = g.model()
    before = copied(model)
    assert fold_vocabularies(model) == 0
    assert model == before


@pytest.mark.parametrize("place", [0, 1])
def test_constants_that_callers_may_replace_stay(place):
    """The table is the first constant, the weight the second."""
    g = Sketch(18)
    model = finished(g, *layer(g, "GRU", embedded(g), outputs=2))
    tensor = model.graph.initializer[place]
    model.graph.input.append(
        helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims)
    )
    assert fold_vocabularies(model) == 0

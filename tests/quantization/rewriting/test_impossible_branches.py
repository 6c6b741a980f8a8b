"""If of which one branch alone fits, against the same file, If and all, on onnxruntime."""

from __future__ import annotations

from functools import partial

import nested
import numpy as np
import pytest
from nested import body, branches, model, node, normal, value
from onnx import helper

from compress.quantization.rewriting.impossible_branches import inline_only_branches

AXES = {"axis": np.array([2]), "ends": np.array([-1]), "one": np.array([1])}
WEIGHTS = {"w": normal(1, 16, 3), "r": normal(1, 16, 4)}


inlined = partial(nested.inlined, inline_only_branches)


def squeezed(x, y, prefix=""):
    """y: x (…, 1) without its last size, or as it is where that is another: torch's `squeeze`."""
    then = body([node("Squeeze", [x, "ends"], f"{prefix}less")], [f"{prefix}less"])
    other = body([node("Identity", [x], f"{prefix}same")], [f"{prefix}same"])
    return [
        node("Shape", [x], f"{prefix}sizes"),
        node("Gather", [f"{prefix}sizes", "ends"], f"{prefix}last"),
        node("Equal", [f"{prefix}last", "one"], f"{prefix}c"),
        branches(f"{prefix}c", [y], then, other),
    ]


def lstm(x, y):
    return helper.make_node("LSTM", [x, "w", "r"], [y], hidden_size=4)


def test_only_one_branch_gives_what_an_lstm_takes(tmp_path):
    nodes = [*squeezed("x", "steps"), lstm("steps", "y")]
    source = model(nodes, [value("x", [5, 2, 3, "n"])], [value("y")], AXES | WEIGHTS)
    assert inlined(source, tmp_path, normal(5, 2, 3, 1)) == (1, 0)


def test_the_other_branch(tmp_path):
    nodes = [*squeezed("x", "steps"), lstm("steps", "y")]
    source = model(nodes, [value("x", [5, 2, "n"])], [value("y")], AXES | WEIGHTS)
    assert inlined(source, tmp_path, normal(5, 2, 3)) == (1, 0)


def test_both_stay_where_both_can_be_read(tmp_path):
    nodes = [*squeezed("x", "part"), node("Relu", ["part"], "y")]
    source = model(nodes, [value("x", [5, "n"])], [value("y")], AXES)
    assert inlined(source, tmp_path, normal(5, 1)) == (0, 1)


def test_declared_outputs_decide_nothing(tmp_path):
    """Files are wrong about them, and onnxruntime lets that pass."""
    nodes = [*squeezed("x", "part"), node("Relu", ["part"], "y")]
    source = model(nodes, [value("x", [5, "n"])], [value("y", [5])], AXES)
    assert inlined(source, tmp_path, normal(5, 2)) == (0, 1)


def test_what_fits_with_no_branch_stays():
    nodes = [*squeezed("x", "steps"), lstm("steps", "y")]
    source = model(nodes, [value("x", [2, 3])], [value("y")], AXES | WEIGHTS)
    assert inline_only_branches(source) == 0
    assert "If" in {entry.op_type for entry in source.graph.node}


def test_an_input_of_any_rank_decides_nothing():
    nodes = [*squeezed("x", "steps"), lstm("steps", "y")]
    source = model(nodes, [value("x", None)], [value("y")], AXES | WEIGHTS)
    assert inline_only_branches(source) == 0


@pytest.mark.parametrize("size", [1, 2])
def test_a_branch_that_callers_choose_and_one_inside_of_it(size, tmp_path):
    """The outer If stays; the inner one has one branch that fits."""
    inner = body([*squeezed("x", "steps"), lstm("steps", "inner")], ["inner"])
    other = body([node("Squeeze", ["x", "ends"], "z"), lstm("z", "zero")], ["zero"])
    source = model(
        [branches("choice", ["y"], inner, other)],
        [value("x", [5, 2, 3, "n"]), value("choice", [], bool)],
        [value("y")],
        AXES | WEIGHTS,
    )
    assert inlined(source, tmp_path, normal(5, 2, 3, 1), np.array(size == 1)) == (1, 1)

"""If on a known condition against the same file, If and all, on onnxruntime."""

from __future__ import annotations

from functools import partial

import nested
import numpy as np
import pytest
from nested import body, branches, model, node, normal, run, saved, value
from onnx import helper

from compress.quantization.rewriting.branches import inline_known_branches

X = value("x", [2, 3])


inlined = partial(nested.inlined, inline_known_branches)


def either(condition, output="y", x="x"):
    """2 · x, or x squared."""
    then = body([node("Mul", [x, "w"], "inner")], ["inner"], {"w": np.float32(2)})
    return branches(condition, [output], then, body([node("Mul", [x, x], "inner")], ["inner"]))


@pytest.mark.parametrize("condition", [True, False])
def test_the_branch_of_a_constant_stands_in_its_place(condition, tmp_path):
    source = model([either("c")], [X], [value("y")], {"c": np.array(condition)})
    assert inlined(source, tmp_path, normal(2, 3)) == (1, 0)
    assert [n.output[0] for n in source.graph.node] == ["y"]


def test_a_condition_that_callers_give_leaves_both_branches(tmp_path):
    source = model([either("c")], [X, value("c", [], bool)], [value("y")])
    assert inlined(source, tmp_path, normal(2, 3), np.array(True)) == (0, 1)


def test_a_condition_is_computed_from_constants(tmp_path):
    constant = helper.make_node("Constant", [], ["rate"], value_int=16000)
    nodes = [constant, node("Equal", ["rate", "wanted"], "c"), either("c")]
    source = model(nodes, [X], [value("y")], {"wanted": np.array(16000)})
    assert inlined(source, tmp_path, normal(2, 3)) == (1, 0)


SHAPES = {
    "rank": [node("Shape", ["x"], "s"), node("Size", ["s"], "n")],
    "a size": [node("Shape", ["x"], "s"), node("Gather", ["s", "one"], "n")],
    "a slice": [
        node("Shape", ["x"], "s"),
        node("Slice", ["s", "first", "second"], "part"),
        node("Squeeze", ["part"], "n"),
    ],
    "number of values": [node("Slice", ["w", "first", "second"], "r"), node("Size", ["r"], "n")],
}


@pytest.mark.parametrize("nodes", SHAPES.values(), ids=SHAPES)
def test_a_condition_follows_from_the_sizes_that_are_fixed(nodes, tmp_path):
    constants = {"one": np.array(1), "two": np.array(2), "w": normal(3)}
    constants |= {"first": np.array([1]), "second": np.array([2])}
    nodes = [*nodes, node("Less", ["n", "two"], "c"), either("c")]
    source = model(nodes, [value("x", ["n", 3])], [value("y")], constants)
    assert inlined(source, tmp_path, normal(2, 3)) == (1, 0)


def test_a_size_that_is_open_decides_nothing(tmp_path):
    nodes = [node("Shape", ["x"], "s"), node("Gather", ["s", "zero"], "n")]
    nodes += [node("Equal", ["n", "two"], "c"), either("c")]
    constants = {"zero": np.array(0), "two": np.array(2)}
    source = model(nodes, [value("x", ["n", 3])], [value("y")], constants)
    assert inlined(source, tmp_path, normal(2, 3)) == (0, 1)


def test_a_default_that_callers_may_replace_decides_nothing(tmp_path):
    source = model([either("c")], [X, value("c", [], bool)], [value("y")], {"c": np.array(True)})
    assert inlined(source, tmp_path, normal(2, 3)) == (0, 1)


def test_a_condition_on_what_is_too_large_to_compute_here_stays(tmp_path):
    """A mask of 16 million values, of which the condition takes one."""
    nodes = [
        node("ConstantOfShape", ["large"], "mask"),
        node("ReduceMax", ["mask"], "n", keepdims=0),
        node("Cast", ["n"], "c", to=9),
        either("c"),
    ]
    source = model(nodes, [X], [value("y")], {"large": np.array([4096, 4096])})
    assert inline_known_branches(source) == 0


def test_if_in_if_in_if(tmp_path):
    """The inner conditions follow from shapes that only the outer branch makes."""
    inner = [
        node("Shape", ["turned"], "s"),
        node("Gather", ["s", "zero"], "n"),
        node("Equal", ["n", "three"], "is_three"),
        either("is_three", "z", "turned"),
    ]
    outer = [node("Transpose", ["x"], "turned"), branches("c", ["z2"], body(inner, ["z"]), _same())]
    source = model(
        [branches("c", ["y"], body(outer, ["z2"]), _same())],
        [X],
        [value("y")],
        {"c": np.array(True), "zero": np.array(0), "three": np.array(3)},
    )
    assert inlined(source, tmp_path, normal(2, 3)) == (3, 0)


def _same():
    return body([node("Transpose", ["x"], "same")], ["same"])


def test_a_known_if_in_an_unknown_one(tmp_path):
    then = body([either("known", "z")], ["z"])
    otherwise = body([either("known", "z")], ["z"])
    source = model(
        [branches("c", ["y"], then, otherwise)],
        [X, value("c", [], bool)],
        [value("y")],
        {"known": np.array(False)},
    )
    assert inlined(source, tmp_path, normal(2, 3), np.array(True)) == (2, 1)


def test_names_that_two_branches_and_the_outer_graph_share(tmp_path):
    """`w` is another constant in each branch and outside, `inner` is made in both."""
    shared = {"w": np.float32(5), "c": np.array(True), "d": np.array(False)}
    nodes = [
        either("c", "a"),
        either("d", "b", "a"),
        either("c", "inner", "b"),
        node("Mul", ["inner", "w"], "y"),
    ]
    source = model(nodes, [X], [value("y"), value("b")], shared)
    x = normal(2, 3)
    assert inlined(source, tmp_path, x) == (3, 0)
    np.testing.assert_allclose(run(tmp_path / "b.onnx", x)[0], (2 * x) ** 2 * 10, rtol=1e-6)


def test_what_a_branch_gives_back_without_computing_it(tmp_path):
    """A constant, a value that is given twice, and a result that nothing reads.

    onnxruntime 1.31 does not load the file as it is: it loses `r` when it inlines the branch.
    """
    then = body([node("Neg", ["x"], "n")], ["w", "n", "n", "n"], {"w": np.float32([1, 2])})
    otherwise = body([node("Neg", ["x"], name) for name in "stuv"], list("stuv"))
    source = model(
        [branches("c", ["p", "q", "r", ""], then, otherwise)],
        [X],
        [value("p", [2]), value("q"), value("r")],
        {"c": np.array(True)},
    )
    assert inline_known_branches(source) == 1
    x = normal(2, 3)
    p, q, r = run(saved(source, tmp_path / "b.onnx"), x)
    np.testing.assert_array_equal(p, [1, 2])
    np.testing.assert_array_equal(q, -x)
    np.testing.assert_array_equal(r, -x)


def test_an_if_in_a_loop_on_what_every_step_knows(tmp_path):
    step = body(
        [either("known", "next", "h"), node("Identity", ["more"], "go")],
        [value("go", [], bool), "next"],
        {"known": np.array(True)},
        [value("i", [], np.int64), value("more", [], bool), value("h")],
    )
    loop = helper.make_node("Loop", ["times", "", "x"], ["y"], body=step)
    source = model([loop], [X], [value("y")], {"times": np.array(3)})
    x = normal(2, 3)
    assert inlined(source, tmp_path, x) == (1, 0)
    np.testing.assert_allclose(run(tmp_path / "b.onnx", x)[0], 8 * x, rtol=1e-6)


def test_a_loop_on_its_own_counter_stays(tmp_path):
    step = body(
        [
            node("Equal", ["i", "zero"], "first"),
            either("first", "next", "h"),
            node("Identity", ["more"], "go"),
        ],
        [value("go", [], bool), "next"],
        {"zero": np.array(0)},
        [value("i", [], np.int64), value("more", [], bool), value("h")],
    )
    loop = helper.make_node("Loop", ["times", "", "x"], ["y"], body=step)
    source = model([loop], [X], [value("y")], {"times": np.array(2)})
    x = normal(2, 3)
    assert inlined(source, tmp_path, x) == (0, 1)
    np.testing.assert_allclose(run(tmp_path / "b.onnx", x)[0], (2 * x) ** 2, rtol=1e-6)

"""Loops before and after, on onnxruntime; in the body is a layer with a state, as by tf2onnx."""

from __future__ import annotations

import numpy as np
import pytest
from nested import body, model, node, normal, run, saved, value
from onnx import helper

from compress.export.bodies import graphs
from compress.quantization.rewriting.loops import free_states, multiply_at_once

W, R = normal(3, 4), normal(4, 4)
ONE = {"one": np.array(1), "zero": np.array(0), "w": W, "r": R}


def number(name, kind=np.int64):
    return value(name, [], kind)


def layer(index="place", weight="weight", source="x", more=()):
    """h = tanh(source[index] · weight + h · r); states: place, h, weight; and every h in a list."""
    nodes = [
        node("Identity", ["going"], "still"),
        node("Add", ["place", "one"], "next"),
        node("Gather", [source, index], "row"),
        node("MatMul", ["row", weight], "new"),
        node("MatMul", ["h", "r"], "old"),
        node("Add", ["new", "old"], "sum"),
        node("Tanh", ["sum"], "after"),
        node("Identity", ["weight"], "same"),
        node("Identity", ["after"], "listed"),
        *more,
    ]
    inputs = [number("step"), number("going", bool), number("place"), value("h"), value("weight")]
    outputs = [number("still", bool), number("next"), "after", "same", "listed"]
    return body(nodes, outputs, inputs=inputs)


def looped(inner, constants=ONE, results=("h", "y"), start="zero"):
    """x (T, B, 3) through T steps, from h0 (B, 4)."""
    nodes = [
        node("Shape", ["x"], "sizes"),
        node("Gather", ["sizes", "zero"], "steps"),
        helper.make_node(
            "Loop", ["steps", "", start, "h0", "w"], ["places", "h", "weights", "y"], body=inner
        ),
    ]
    inputs = [value("x", [None, None, 3]), value("h0")]
    outputs = [value(name, [None] * (3 if name == "y" else 2)) for name in results]
    return model(nodes, inputs, outputs, constants)


def changed(source, change, folder, steps=5):
    """Places of a change, kinds of the outer nodes and of the body's; the outputs stay the same."""
    feeds = normal(steps, 2, 3), normal(2, 4)
    before = run(saved(source, folder / "a.onnx"), *feeds)
    count = change(source)
    for want, got in zip(before, run(saved(source, folder / "b.onnx"), *feeds), strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6)
    return count, *([entry.op_type for entry in graph.node] for graph in graphs(source.graph))


@pytest.mark.parametrize("steps", [0, 1, 5])
def test_a_state_that_no_step_changes_is_read_from_outside(tmp_path, steps):
    source = looped(layer(), results=("h", "weights", "y"))
    count, outer, _ = changed(source, free_states, tmp_path, steps)
    assert (count, outer[-2:]) == (1, ["Identity", "Loop"])
    loop = source.graph.node[-1]
    assert (len(loop.input), len(loop.output)) == (4, 3)
    assert "w" in {name for entry in loop.attribute[0].g.node for name in entry.input}


def test_what_is_passed_on_and_read_under_its_other_name(tmp_path):
    more = [node("Mul", ["same", "same"], "square"), node("ReduceSum", ["square"], "total")]
    source = looped(layer(more=more))
    assert changed(source, free_states, tmp_path)[0] == 1


def test_states_that_change_places_stay(tmp_path):
    inner = layer(weight="w")
    inner.output[2].name, inner.output[3].name = "same", "after"  # h and weight by turns
    source = looped(inner, ONE | {"w": normal(3, 4)})
    assert free_states(source) == 0


def test_a_state_that_is_listed_as_well_stays(tmp_path):
    inner = layer()
    inner.output[4].name = "same"
    assert free_states(looped(inner)) == 0


@pytest.mark.parametrize("steps", [0, 1, 5])
@pytest.mark.parametrize("index", ["place", "step"])
def test_products_of_each_step_are_one_in_front_of_the_loop(tmp_path, index, steps):
    source = looped(layer(index, weight="w"))
    count, outer, inner = changed(source, multiply_at_once, tmp_path, steps)
    assert count == 1
    assert outer == ["Shape", "Gather", "MatMul", "Loop"]
    assert inner.count("MatMul") == 1  # of the state


def test_both_together(tmp_path):
    source = looped(layer())
    assert changed(source, multiply_at_once, tmp_path)[0] == 0  # the weight is a state yet
    assert free_states(source) == 1
    assert changed(source, multiply_at_once, tmp_path)[0] == 1


def test_of_a_table_it_is_not_known_which_rows_are_read(tmp_path):
    source = looped(layer(weight="w", source="table"), ONE | {"table": normal(9, 2, 3)})
    assert changed(source, multiply_at_once, tmp_path)[0] == 0


@pytest.mark.parametrize("start", ["one", "steps"])
def test_a_state_that_does_not_start_at_the_first_row_is_no_number_of_a_step(start):
    source = looped(layer(weight="w"), start=start)
    assert multiply_at_once(source) == 0


def test_steps_of_two_are_no_number_of_a_step():
    source = looped(layer(weight="w"), ONE | {"one": np.array(2)})
    assert multiply_at_once(source) == 0


def test_a_file_without_loops_stays():
    source = model([node("MatMul", ["x", "w"], "y")], [value("x")], [value("y")], ONE)
    assert (free_states(source), multiply_at_once(source)) == (0, 0)

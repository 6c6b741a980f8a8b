"""Names in bodies: made unique without another result, captured ones, and the order of nodes."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from nested import body, branches, model, normal, run, saved, value
from onnx import helper

from compress.export.bodies import bodies, graphs
from compress.quantization.scopes import captured, defined_names, sort_nodes, unique_names

X, CONDITION = value("x", ["n", 4]), value("c", [], bool)


def node(kind, inputs, output):
    return helper.make_node(kind, inputs, [output])


def scaled(weight, name):
    """x · w, then · v; `w` and the value between them are the branch's own."""
    nodes = [node("Mul", ["x", "w"], "inner"), node("Mul", ["inner", "v"], name)]
    return body(nodes, [name], {"w": np.float32(weight)})


def shared():
    """`w` is 2 and 3 in the branches and 5 outside, `inner` is made in both."""
    nodes = [branches("c", ["a"], scaled(2, "p"), scaled(3, "q")), node("Mul", ["a", "w"], "y")]
    constants = {"w": np.float32(5), "v": np.float32(7)}
    return model(nodes, [X, CONDITION], [value("y")], constants)


def test_unique_names_say_which_value_is_meant(tmp_path):
    source, x = shared(), normal(3, 4)
    assert unique_names(source) == 3
    counts = Counter(name for graph in graphs(source.graph) for name in defined_names(graph))
    assert set(counts.values()) == {1}
    assert {"x", "c", "w", "v", "a", "y"} <= counts.keys()  # the outer graph's stay
    path = saved(source, tmp_path / "b.onnx")
    for condition, weight in ((True, 2), (False, 3)):
        (found,) = run(path, x, np.array(condition))
        np.testing.assert_allclose(found, x * weight * 7 * 5, rtol=1e-6)
    assert unique_names(source) == 0


def test_a_body_in_a_body_reads_the_nearest(tmp_path):
    """The innermost branch reads `w` of the branch around it, which hides the outer one."""
    inner = body([node("Mul", ["x", "w"], "i")], ["i"])
    same = body([node("Neg", ["x"], "j")], ["j"])
    outer = body([branches("c", ["z"], inner, same)], ["z"], {"w": np.float32(2)})
    plain = body([node("Mul", ["x", "w"], "k")], ["k"])
    source = model(
        [branches("c", ["y"], outer, plain)], [X, CONDITION], [value("y")], {"w": np.float32(5)}
    )
    assert unique_names(source) == 1
    x, path = normal(3, 4), saved(source, tmp_path / "b.onnx")
    np.testing.assert_allclose(run(path, x, np.array(True))[0], 2 * x, rtol=1e-6)
    np.testing.assert_allclose(run(path, x, np.array(False))[0], 5 * x, rtol=1e-6)


def test_captured_is_what_a_body_reads_or_gives_back_and_has_not():
    found = {name: captured(inner) for name, inner in bodies(shared().graph.node[0])}
    assert found == {"then_branch": {"x", "v"}, "else_branch": {"x", "v"}}
    assert captured(body([node("Neg", ["x"], "n")], ["n", "outside"])) == {"x", "outside"}


@pytest.mark.parametrize("turned", [True, False])
def test_nodes_stand_behind_what_their_bodies_read(turned):
    nodes = [
        node("Neg", ["x"], "v"),
        branches("c", ["a"], scaled(2, "p"), scaled(3, "q")),
        node("Neg", ["a"], "y"),
    ]
    source = model(nodes[::-1] if turned else nodes, [X, CONDITION], [value("y")])
    sort_nodes(source.graph)
    assert [found.output[0] for found in source.graph.node] == ["v", "a", "y"]


def test_a_circle_is_left_for_the_checker():
    nodes = [node("Add", ["x", "b"], "a"), node("Neg", ["a"], "b")]
    source = model(nodes, [X], [value("b")])
    sort_nodes(source.graph)
    assert [found.output[0] for found in source.graph.node] == ["a", "b"]

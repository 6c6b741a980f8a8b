"""Whole files, as awkward as third parties write them: in, rewritten, compared, and out."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper
from sketch import (
    Sketch,
    block,
    by_name,
    constants_as_nodes,
    gelu,
    kinds,
    numbers,
    same_outputs,
    save,
)

from compress.errors import ModelFileError
from compress.quantization.rewriting import simplify as module
from compress.quantization.rewriting.simplify import Rewrite, simplify

RANDOM = np.random.default_rng(0)


@pytest.mark.parametrize("opset", [11, 13, 17, 18, 20, 21])
@pytest.mark.parametrize("samples", [True, False])
def test_a_block_in_pieces(opset, samples, tmp_path):
    source = save(constants_as_nodes(block(opset)), tmp_path / "m.onnx")
    given = (numbers(2, 3, 8),) if samples else None
    done = by_name(simplify(source, tmp_path / "out.onnx", given))
    assert all(not rewrite.undone for rewrite in done.values())
    assert all(rewrite.difference < 1e-5 for rewrite in done.values())
    assert done["Constant nodes to initializers"].places >= 8
    found = onnx.load(tmp_path / "out.onnx")
    assert kinds(found) == {"MatMul": 1, "Gelu": 1, "LayerNormalization": 1}
    assert found.opset_import[0].version == max(opset, 20)
    assert all(node.name for node in found.graph.node)
    onnx.checker.check_model(found, full_check=True)
    same_outputs(source, tmp_path / "out.onnx", numbers(5, 7, 8))


def interface(model):
    return list(model.graph.input), list(model.graph.output)


@pytest.mark.parametrize("result", [None, ("batch", "time", 8), ("batch",), (), (None, 3)])
def test_the_interface_stays_as_declared_also_where_that_is_wrong(result, tmp_path):
    source = save(block(result=result), tmp_path / "m.onnx")
    simplify(source, tmp_path / "out.onnx", (numbers(2, 3, 8),))
    found = onnx.load(tmp_path / "out.onnx")
    assert interface(found) == interface(onnx.load(source))
    assert kinds(found)["Gelu"] == 1
    same_outputs(source, tmp_path / "out.onnx", numbers(5, 7, 8))


def test_a_fixed_batch_stays(tmp_path):
    source = save(block(shape=(4, 3, 8), result=(4, 3, 8)), tmp_path / "m.onnx")
    for samples in (None, (numbers(9, 3, 8),), (numbers(1, 3, 8),)):
        simplify(source, tmp_path / "out.onnx", samples)
        assert interface(onnx.load(tmp_path / "out.onnx")) == interface(onnx.load(source))
        same_outputs(source, tmp_path / "out.onnx", numbers(4, 3, 8))


def test_several_inputs_and_outputs_keep_their_order(tmp_path):
    g = Sketch(13)
    b, a = g.input("b", ("n", 8)), g.input("a", ("n", 8))
    tokens = g.input("tokens", ("n",), np.int64)
    total = gelu(g, g.Add(g.Identity(b), a))
    g.output(g.Identity(total)).output(g.Dropout(a)).output(g.Identity(tokens), kind=np.int64)
    source = save(g.model(), tmp_path / "m.onnx")
    simplify(source, tmp_path / "out.onnx")
    found = onnx.load(tmp_path / "out.onnx")
    assert interface(found) == interface(onnx.load(source))
    assert kinds(found)["Gelu"] == 1
    same_outputs(source, tmp_path / "out.onnx", numbers(3, 8), numbers(3, 8), np.arange(3))


def test_a_step_that_goes_wrong_loses_nothing_else(tmp_path, monkeypatch):
    def wrong(model):
        node = next(node for node in model.graph.node if node.op_type == "MatMul")
        node.op_type = "Sub"
        return 1

    def broken(model):
        model.graph.node[0].op_type = "Nothing"
        return 3

    def fails(model):
        raise RuntimeError("not today\nnor tomorrow")

    steps = {"wrong": (wrong,), "broken": (broken,), "fails": (fails,), "second": (fails, wrong)}
    usual = module._steps
    monkeypatch.setattr(module, "_steps", lambda call: steps | usual(call))
    source = save(constants_as_nodes(block(13, ("batch", 8, 8))), tmp_path / "m.onnx")
    done = by_name(simplify(source, tmp_path / "out.onnx"))
    output = onnx.load(source).graph.output[0].name
    assert done["wrong"].undone.startswith(f"output '{output}' differs by ")
    assert done["wrong"] == Rewrite("wrong", 1, None, done["wrong"].undone)
    assert "Nothing" in done["broken"].undone
    assert done["broken"].undone.startswith("does not run any more: ")
    assert done["fails"] == Rewrite("fails", 0, None, "not today")
    assert kinds(onnx.load(tmp_path / "out.onnx")) == {
        "MatMul": 1,
        "Gelu": 1,
        "LayerNormalization": 1,
    }


def test_of_several_ways_the_first_that_works(tmp_path, monkeypatch):
    tried = []

    def way(number, model):
        tried.append(number)
        if number < 2:
            raise RuntimeError("no")
        model.graph.node[0].doc_string = "changed"
        return number

    from functools import partial

    ways = tuple(partial(way, n) for n in range(4))
    monkeypatch.setattr(module, "_steps", lambda call: {"s": ways})
    source = save(block(), tmp_path / "m.onnx")
    assert simplify(source, tmp_path / "out.onnx") == [Rewrite("s", 2, 0.0)]
    assert tried == [0, 1, 2]


def test_what_is_random_keeps_its_place(tmp_path):
    """onnxruntime seeds by the number of the node, so that fewer nodes before it change it."""
    g = Sketch(13)
    x = g.input("x", ("n", 8))
    source = save(g.output(g.Add(gelu(g, x), g.RandomNormalLike(x))).model(), tmp_path / "m.onnx")
    done = by_name(simplify(source, tmp_path / "out.onnx"))
    assert "differs by" in done["GELU"].undone
    assert not done["opset raised"].undone
    assert kinds(onnx.load(tmp_path / "out.onnx")) == kinds(onnx.load(source))


def looped(opset=11):
    """x is bent three times in a Loop, in whose body an If chooses, and read from outside."""
    g = Sketch(opset)
    x = g.MatMul(g.input("x", ("n", 8)), g.constant(numbers(8, 8)))
    scale = g.Identity(g.constant(numbers(8)))
    branch = Sketch(opset)
    branch.nodes = [helper.make_node("Squeeze", ["grown"], ["squeezed"], axes=[0])]
    chosen = branch.output("squeezed").model().graph
    other = Sketch(opset)
    other.nodes = [helper.make_node("Neg", ["state"], ["negated"])]
    negated = other.output("negated").model().graph
    body = Sketch(opset)
    step = body.input("step", (), np.int64)
    going, state = body.input("going", (), bool), body.input("state", None)
    one = numpy_helper.from_array(np.array(1), "one")
    body.nodes = [
        helper.make_node("Mul", [state, scale], ["scaled"]),
        helper.make_node("Unsqueeze", ["scaled"], ["grown"], axes=[0]),
        helper.make_node("Constant", [], ["one"], value=one),
        helper.make_node("Less", [step, "one"], ["first"]),
        helper.make_node("If", ["first"], ["next"], then_branch=chosen, else_branch=negated),
        helper.make_node("Identity", [going], ["still"]),
    ]
    body.output("still", (), bool).output("next")
    count, true = g.constant(3, np.int64), g.constant(True, bool)
    return g.output(gelu(g, g.Loop(count, true, x, body=body.model().graph))).model()


def test_a_loop_with_a_choice_inside(tmp_path):
    source = save(constants_as_nodes(looped()), tmp_path / "m.onnx")
    done = by_name(simplify(source, tmp_path / "out.onnx", (numbers(2, 8),)))
    assert not [rewrite for rewrite in done.values() if rewrite.undone]
    found = onnx.load(tmp_path / "out.onnx")
    assert kinds(found) == {"MatMul": 1, "Loop": 1, "Gelu": 1}
    assert found.opset_import[0].version == 20
    same_outputs(source, tmp_path / "out.onnx", numbers(5, 8))


def scanned():
    g = Sketch(13)
    x, start = g.input("x", ("time", 8)), g.constant(np.zeros(8))
    factor = g.Identity(g.constant(numbers(8)))
    body = Sketch(13)
    state, row = body.input("state", (8,)), body.input("row", (8,))
    body.nodes = [
        helper.make_node("Mul", [state, factor], ["kept"]),
        helper.make_node("Add", ["kept", row], ["next"]),
        helper.make_node("Identity", ["next"], ["out"]),
    ]
    graph = body.output("next", (8,)).output("out", (8,)).model().graph
    last, rows = g.Scan(start, x, outputs=2, body=graph, num_scan_inputs=1)
    return g.output(gelu(g, rows)).output(last).model()


def test_a_scan(tmp_path):
    source = save(constants_as_nodes(scanned()), tmp_path / "m.onnx")
    assert not [r for r in simplify(source, tmp_path / "out.onnx") if r.undone]
    assert kinds(onnx.load(tmp_path / "out.onnx")) == {"Scan": 1, "Gelu": 1}
    same_outputs(source, tmp_path / "out.onnx", numbers(5, 8))


def test_operators_of_onnxruntime_pass_through(tmp_path):
    g = Sketch(13)
    x = g.QuickGelu(gelu(g, g.input("x", ("n", 8))), domain="com.microsoft", alpha=1.7)
    source = save(g.output(gelu(g, x)).model(), tmp_path / "m.onnx")
    assert not [r for r in simplify(source, tmp_path / "out.onnx") if r.undone]
    assert kinds(onnx.load(tmp_path / "out.onnx")) == {"Gelu": 2, "QuickGelu": 1}


def test_operators_that_nobody_knows_are_refused(tmp_path):
    g = Sketch(13)
    model = g.output(g.Mine(g.input("x", ("n", 8)), domain="mine")).model()
    model.opset_import.append(helper.make_opsetid("mine", 1))
    with pytest.raises(ModelFileError, match=r"m.onnx: onnxruntime cannot load it: .*mine.*Mine"):
        simplify(save(model, tmp_path / "m.onnx"), tmp_path / "out.onnx")


def test_what_the_checker_refuses_and_onnxruntime_loads(tmp_path):
    """LayerNormalization came with opset 17; onnxruntime had it before."""
    g = Sketch(13)
    x = gelu(g, g.input("x", ("n", 8)))
    model = g.output(g.LayerNormalization(x, g.constant(numbers(8)))).model()
    with pytest.raises(onnx.checker.ValidationError):
        onnx.checker.check_model(model)
    source = save(model, tmp_path / "m.onnx")
    simplify(source, tmp_path / "out.onnx")
    found = kinds(onnx.load(tmp_path / "out.onnx"))
    assert (found["Gelu"], found["LayerNormalization"]) == (1, 1)
    same_outputs(source, tmp_path / "out.onnx", numbers(3, 8))


def test_constants_that_would_be_larger_than_what_makes_them(tmp_path):
    g = Sketch(13)
    x = g.input("x", ("n", 600))
    grown = g.Expand(g.constant(numbers(600, 1)), g.constant([600, 600], np.int64))
    g.output(gelu(g, g.MatMul(x, grown)))
    source = save(g.model(), tmp_path / "m.onnx")
    simplify(source, tmp_path / "out.onnx")
    found = onnx.load(tmp_path / "out.onnx")
    assert kinds(found) == {"Expand": 1, "MatMul": 1, "Gelu": 1}
    assert (tmp_path / "out.onnx").stat().st_size < 10_000


def test_twice_is_once(tmp_path):
    source = save(block(), tmp_path / "m.onnx")
    simplify(source, tmp_path / "out.onnx")
    again = simplify(tmp_path / "out.onnx", tmp_path / "again.onnx")
    assert [rewrite.name for rewrite in again] == ["shapes inferred"]
    assert kinds(onnx.load(tmp_path / "again.onnx")) == kinds(onnx.load(tmp_path / "out.onnx"))

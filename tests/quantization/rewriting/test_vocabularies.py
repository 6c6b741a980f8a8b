"""One-hot vectors with narrower weights against embeddings, run by onnxruntime."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from embedded_layers import (
    GATES,
    HIDDEN,
    SIZE,
    TOKENS,
    WIDTH,
    axes,
    copied,
    embedded,
    finished,
    layer,
)
from nested import body, branches, normal, saved, value
from nested import model as nested
from onnx import helper
from onnx.reference import ReferenceEvaluator
from sketch import Sketch, by_name, constants_as_nodes, kinds, numbers, run, same_outputs, save

from compress.export.bodies import graphs
from compress.quantization import building
from compress.quantization.rewriting import simplify as module
from compress.quantization.rewriting.in_bodies import in_bodies
from compress.quantization.rewriting.simplify import simplify
from compress.quantization.rewriting.tidy import tidy
from compress.quantization.rewriting.vocabularies import fold_vocabularies
from compress.runtime.isolated import here

STEP = "small vocabularies into recurrent weights"


def widths(model):
    """Columns of the input weights of each recurrent node."""
    tensors = {tensor.name: tensor for tensor in model.graph.initializer}
    return [tensors[n.input[1]].dims[2] for n in model.graph.node if n.op_type in GATES]


def folded(model, *feeds, places=1):
    """The model changed, with the same outputs as before."""
    before, nodes = run(model, *feeds), kinds(model)
    assert fold_vocabularies(model) == places
    tidy(model, model)
    assert kinds(model) == nodes
    onnx.checker.check_model(model, full_check=True)  # no shape of before is left
    for want, got in zip(before, run(model, *feeds), strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)
    return model


FORMS = {
    "LSTM": ("LSTM", {"outputs": 3}),
    "GRU": ("GRU", {"linear_before_reset": 0, "outputs": 2}),
    "GRU as torch's": ("GRU", {"linear_before_reset": 1, "outputs": 2}),
    "RNN": ("RNN", {"outputs": 2, "activations": ["Relu"]}),
}
SETTINGS = {
    "plain": {},
    "reverse": {"direction": "reverse"},
    "both": {"direction": "bidirectional"},
    "lengths": {"lengths": True},
    "states": {"state": True},
    "all": {"direction": "bidirectional", "lengths": True, "state": True},
}


@pytest.mark.parametrize("settings", SETTINGS)
@pytest.mark.parametrize("form", FORMS)
def test_every_node(form, settings):
    kind, attributes = FORMS[form]
    given = {**attributes, **SETTINGS[settings]}
    if "activations" in given and "bidirectional" in given.values():
        given["activations"] = ["Relu", "Relu"]
    g = Sketch(18)
    model = finished(g, *layer(g, kind, embedded(g), **given))
    before = model.graph.node[-1]
    after = folded(copied(model), TOKENS).graph.node[-1]
    assert widths(model) == [WIDTH]
    assert after.input[1] != before.input[1]
    after.input[1] = before.input[1]
    assert after == before


def test_the_weights_are_the_products_with_each_row():
    table, weight = numbers(SIZE, WIDTH), numbers(1, HIDDEN, WIDTH)
    g = Sketch(18)
    x = g.Gather(g.constant(table), g.input("tokens", ("t", "n"), np.int64))
    model = folded(finished(g, *layer(g, "RNN", x, weight=g.constant(weight), outputs=2)), TOKENS)
    tensors = {t.name: onnx.numpy_helper.to_array(t) for t in model.graph.initializer}
    gather, node = model.graph.node
    np.testing.assert_array_equal(tensors[gather.input[0]], np.eye(SIZE, dtype=np.float32))
    by_hand = [[weight[0, unit] @ table[token] for token in range(SIZE)] for unit in range(HIDDEN)]
    np.testing.assert_allclose(tensors[node.input[1]][0], by_hand, rtol=1e-5, atol=1e-6)


BETWEEN = {
    "batch first": (TOKENS, lambda g, x: g.Transpose(x, perm=[1, 0, 2])),
    "columns": (TOKENS[..., None], lambda g, x: g.Squeeze(x, axes(g, 2))),
    "columns, from the end": (TOKENS[..., None], lambda g, x: g.Squeeze(x, axes(g, -2))),
    "one sequence": (TOKENS[0], lambda g, x: g.Unsqueeze(x, axes(g, 1))),
    "one sequence, from the end": (TOKENS[0], lambda g, x: g.Unsqueeze(x, axes(g, -2))),
    "one token": (np.array(TOKENS[1, 2]), lambda g, x: g.Unsqueeze(x, axes(g, 0, 1))),
    "through a matrix": (
        TOKENS[:, :1],
        lambda g, x: g.Unsqueeze(g.Squeeze(g.Transpose(x, perm=[1, 0, 2]), axes(g, 0)), axes(g, 1)),
    ),
    "several": (
        TOKENS[:, None, :, None],
        lambda g, x: g.Transpose(g.Squeeze(x, axes(g, 1, 3)), perm=[1, 0, 2]),
    ),
}


@pytest.mark.parametrize("form", BETWEEN)
def test_what_moves_other_axes_may_lie_between(form):
    tokens, build = BETWEEN[form]
    g = Sketch(18)
    x = build(g, embedded(g, [None if size > 1 else 1 for size in tokens.shape]))
    model = folded(finished(g, *layer(g, "LSTM", x, outputs=3)), tokens)
    assert widths(model) == [SIZE]


def test_axes_that_are_attributes_as_before_opset_13():
    g = Sketch(12)
    x = g.Unsqueeze(g.Squeeze(embedded(g, ("t", 1)), axes=[1]), axes=[1])
    assert widths(folded(finished(g, *layer(g, "GRU", x, outputs=2)), TOKENS[:, :1])) == [SIZE]


def test_a_vocabulary_of_one():
    g = Sketch(18)
    x = g.Unsqueeze(embedded(g, ("t",), size=1), axes(g, 1))
    assert widths(folded(finished(g, *layer(g, "RNN", x, outputs=2)), TOKENS[:, 0] * 0)) == [1]


def test_tokens_of_32_bits_and_an_axis_from_the_end():
    g = Sketch(18)
    tokens = g.Cast(g.input("tokens", ("t", "n"), np.int64), to=onnx.TensorProto.INT32)
    x = g.Gather(g.constant(numbers(SIZE, WIDTH)), tokens, axis=-2)
    assert widths(folded(finished(g, *layer(g, "GRU", x, outputs=2)), TOKENS)) == [SIZE]


def test_sequences_in_front():
    """onnxruntime has no kernel for layout 1."""
    g = Sketch(18)
    model = finished(g, *layer(g, "LSTM", embedded(g), outputs=3, layout=1))
    before = ReferenceEvaluator(model).run(None, {"tokens": TOKENS})
    assert fold_vocabularies(model) == 1
    assert widths(model) == [SIZE]
    after = ReferenceEvaluator(model).run(None, {"tokens": TOKENS})
    for want, got in zip(before, after, strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)


def test_nodes_that_share_a_table_and_weights():
    """And a third, which reads another table; the shared one is read by a product as well."""
    g = Sketch(18)
    tokens, table = g.input("tokens", ("t", "n"), np.int64), g.constant(numbers(SIZE, WIDTH))
    weight = g.constant(numbers(1, 3 * HIDDEN, WIDTH))
    tables = [table, table, g.constant(numbers(SIZE + 2, WIDTH))]
    rows = [g.Gather(each, tokens) for each in tables]
    results = [layer(g, "GRU", x, weight=weight, outputs=2)[1] for x in rows]
    other = g.MatMul(table, g.constant(numbers(WIDTH, 2)))
    model = folded(finished(g, *results, other), np.maximum(TOKENS, 0), places=3)
    assert widths(model) == [SIZE, SIZE, SIZE + 2]


def test_a_token_outside_of_the_vocabulary_still_is_an_error():
    g = Sketch(18)
    model = folded(finished(g, *layer(g, "GRU", embedded(g), outputs=2)), TOKENS)
    for token in (SIZE, -SIZE - 1):
        with pytest.raises(Exception, match="indices element out of data bounds"):
            run(model, np.array([[token]]))


def inner(captured=False):
    """A recurrent node in a branch of an If, behind an embedding in the same branch or outside."""
    nodes = [
        helper.make_node("Gather", ["table", "tokens"], ["rows"]),
        helper.make_node("GRU", ["rows", "w", "r"], ["", "last"], hidden_size=HIDDEN),
    ]
    nodes, outer = (nodes[1:], nodes[:1]) if captured else (nodes, [])
    shape = [1, None, HIDDEN]
    then = body(nodes, [value("last", shape)], {"w": normal(1, 3 * HIDDEN, WIDTH)})
    if not captured:
        then.value_info.append(value("rows", [None, None, WIDTH]))
    other = body([helper.make_node("Neg", ["r0"], ["n"])], [value("n", [None, None, None])])
    return nested(
        [*outer, branches("c", ["y"], then, other)],
        [value("tokens", kind=np.int64), value("c", [], bool)],
        [value("y", [None, None, None])],
        {
            "table": normal(SIZE, WIDTH),
            "r": normal(1, 3 * HIDDEN, HIDDEN),
            "r0": normal(1, 3, HIDDEN),
        },
    )


def test_in_a_body_with_the_table_from_outside(tmp_path):
    source = saved(inner(), tmp_path / "a.onnx")
    model = onnx.load(source)
    assert in_bodies(fold_vocabularies)(model) == 1
    then = next(graph for graph in graphs(model.graph) if graph.node[0].op_type == "Gather")
    assert [list(t.dims)[-1] for t in then.initializer] == [WIDTH, SIZE, SIZE]
    assert not then.value_info
    tidy(model, onnx.load(source))
    target = saved(model, tmp_path / "b.onnx")
    for condition in (True, False):
        same_outputs(source, target, TOKENS, np.array(condition))


def test_rows_that_a_body_reads_stay():
    model = inner(captured=True)
    assert in_bodies(fold_vocabularies)(model) == 0


def tagger(opset):
    """Sequences first, a scaled embedding, two layers, and a result for each token."""
    g = Sketch(opset)
    x = g.Mul(embedded(g, ("batch", "time")), 3)
    x = g.Transpose(x, perm=[1, 0, 2])
    steps, _ = layer(g, "GRU", x, direction="bidirectional", linear_before_reset=1, outputs=2)
    steps = g.Reshape(g.Transpose(steps, perm=[0, 2, 1, 3]), axes(g, 0, 0, 2 * HIDDEN))
    weight = g.constant(numbers(1, 4 * HIDDEN, 2 * HIDDEN))
    steps, _, _ = layer(g, "LSTM", steps, weight=weight, outputs=3)
    result = g.MatMul(steps, g.constant(numbers(HIDDEN, 7)))
    return constants_as_nodes(g.output(result, ("time", 1, "batch", 7)).model())


@pytest.mark.parametrize("opset", [11, 17, 20])
@pytest.mark.parametrize("samples", [True, False])
def test_a_whole_file(opset, samples, tmp_path):
    source, target = save(tagger(opset), tmp_path / "m.onnx"), tmp_path / "out.onnx"
    done = by_name(simplify(source, target, (TOKENS,) if samples else None))
    assert not [rewrite for rewrite in done.values() if rewrite.undone]
    assert done[STEP].places == 1
    assert done[STEP].difference < 1e-5
    found = onnx.load(target)
    assert sorted(widths(found)) == [SIZE, 2 * HIDDEN]
    onnx.checker.check_model(found, full_check=True)
    same_outputs(source, target, TOKENS)
    same_outputs(source, target, TOKENS[:1, :1])
    assert STEP not in by_name(simplify(target, tmp_path / "again.onnx"))


def test_a_file_with_a_choice(tmp_path):
    source, target = saved(inner(), tmp_path / "a.onnx"), tmp_path / "b.onnx"
    done = by_name(simplify(source, target, (TOKENS, np.array(True))))
    assert (done[STEP].places, done[STEP].undone) == (1, "")
    for condition in (True, False):
        same_outputs(source, target, TOKENS, np.array(condition))


def test_it_can_make_a_model_faster_as_others_that_are_steps():
    assert STEP not in building._NEUTRAL
    assert module._steps(here).keys() >= building._NEUTRAL

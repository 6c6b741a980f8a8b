"""Values in bodies brought outside, against the same computed in numpy."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from nested import body, branches, crash, model, node, normal, saved, value
from onnx import helper

from compress.quantization.calibration import observed
from compress.quantization.calibration.collecting import CannotRun, collect
from compress.quantization.calibration.inside import bring_out
from compress.quantization.calibration.shared import Calibration
from compress.quantization.config import QuantizeConfig
from compress.quantization.rewriting.simplify import simplify
from compress.quantization.scopes import unique_names
from compress.quantization.static import quantize_static_int8

CONDITION = value("c", [], bool)
#: The body of a Loop begins with these.
STEP = [value("i", [], np.int64), value("more", [], bool)]


def brought(source, wanted, **given):
    """Outputs by name of a model whose inner values are brought out."""
    unique_names(source)
    bring_out(source, wanted)
    session = ort.InferenceSession(source.SerializeToString())
    names = [entry.name for entry in session.get_outputs()]
    return dict(zip(names, session.run(None, given), strict=True))


def either():
    then = body([node("Neg", ["x"], "p"), node("Abs", ["p"], "z")], ["z"])
    return branches("c", ["y"], then, body([node("Exp", ["x"], "q")], ["q"]), "either")


def test_of_a_branch_that_is_taken_and_of_one_that_is_not():
    x = normal(2, 3)
    for taken in (True, False):
        source = model([either()], [value("x"), CONDITION], [value("y")])
        found = brought(source, {"p", "q"}, x=x, c=np.array(taken))
        np.testing.assert_array_equal(found["p"], -x.ravel() if taken else [])
        assert len(found["q"]) == (0 if taken else 6)
        np.testing.assert_allclose(found["y"], np.abs(x) if taken else np.exp(x), rtol=1e-6)


def test_a_branch_that_gives_the_wanted_value_itself():
    source = model([either()], [value("x"), CONDITION], [value("y")])
    x = normal(2, 3)
    found = brought(source, {"q", "nothing of that name"}, x=x, c=np.array(False))
    assert set(found) == {"y", "q"}
    np.testing.assert_array_equal(found["q"], found["y"].ravel())


def loop(inner=(), results=()):
    """Doubles its state; each step also gives the state before."""
    nodes = [*inner, node("Add", ["h", "h"], "twice"), node("Identity", ["more"], "go")]
    nodes.append(node("Identity", ["h"], "each"))
    outputs = [value("go", [], bool), value("twice"), value("each"), *results]
    step = body(nodes, outputs, {}, [*STEP, value("h")])
    return helper.make_node("Loop", ["times", "", "x"], ["last", "all"], name="loop", body=step)


@pytest.mark.parametrize("steps", [0, 3])
def test_of_all_steps_of_a_loop(steps):
    """Its own outputs stay what they are: the state, then what the steps gave."""
    source = model(
        [loop()],
        [value("x")],
        [value("last"), value("all", [None, None, None])],
        {"times": np.array(steps)},
    )
    x = normal(2, 3)
    found = brought(source, {"h", "twice"}, x=x)
    np.testing.assert_array_equal(found["last"], x * 2**steps)
    before = np.array([x * 2**step for step in range(steps)], np.float32)
    np.testing.assert_array_equal(found["h"], before.ravel())
    np.testing.assert_array_equal(found["twice"], 2 * before.ravel())
    if steps:
        np.testing.assert_array_equal(found["all"], before)


def test_of_a_loop_whose_state_nobody_reads():
    source = model(
        [loop()], [value("x")], [value("all", [None, None, None])], {"times": np.array(2)}
    )
    x = normal(2, 3)
    found = brought(source, {"h"}, x=x)
    np.testing.assert_array_equal(found["h"], np.ravel([x, 2 * x]))
    np.testing.assert_array_equal(found["all"], [x, 2 * x])


def test_of_a_loop_whose_values_grow():
    """Attention over what came before: each step has another shape."""
    nodes = [node("Concat", ["h", "x"], "longer", axis=0), node("Identity", ["more"], "go")]
    step = body(nodes, [value("go", [], bool), value("longer")], {}, [*STEP, value("h")])
    grown = helper.make_node("Loop", ["times", "", "x"], ["y"], body=step)
    source = model([grown], [value("x")], [value("y")], {"times": np.array(2)})
    x = normal(2, 3)
    found = brought(source, {"longer"}, x=x)
    np.testing.assert_array_equal(found["longer"], [*x.ravel()] * 5)


def test_of_a_scan():
    nodes = [node("Mul", ["row", "row"], "square"), node("Add", ["h", "square"], "next")]
    nodes.append(node("Identity", ["next"], "each"))
    step = body(
        nodes, [value("next", [3]), value("each", [3])], {}, [value("h", [3]), value("row", [3])]
    )
    settings = {"num_scan_inputs": 1, "scan_output_directions": [0]}
    scan = helper.make_node("Scan", ["zero", "x"], ["last", "y"], body=step, **settings)
    source = model([scan], [value("x")], [value("y")], {"zero": np.zeros(3, np.float32)})
    x = normal(4, 3)
    found = brought(source, {"square"}, x=x)
    np.testing.assert_array_equal(found["square"], (x * x).ravel())
    np.testing.assert_allclose(found["y"], np.cumsum(x * x, axis=0), rtol=1e-6)


def summed(nodes, result):
    """A Scan over rows of three that adds a value of each to its state; `x` is what it reads."""
    nodes = [*nodes, node("ReduceSum", [result], "sum", keepdims=0), node("Add", ["h", "sum"], "n")]
    step = body(nodes, [value("n", [])], {}, [value("h", []), value("row", [3])])
    return helper.make_node("Scan", ["zero", "a"], ["y"], body=step, num_scan_inputs=1)


def test_of_an_if_in_a_scan_nothing_comes_out():
    """Each step would give another number of values, which a Scan cannot stack."""
    chosen = branches(
        "c",
        ["z"],
        body([node("Neg", ["row"], "p")], [value("p", [3])]),
        body([node("Exp", ["row"], "q")], [value("q", [3])]),
    )
    nodes = [node("ReduceMean", ["row"], "m", keepdims=0), node("Greater", ["m", "zero"], "c")]
    scan = summed([*nodes, chosen, node("Mul", ["z", "z"], "s")], "s")
    source = model(
        [node("Relu", ["x"], "a"), scan],
        [value("x")],
        [value("y", [])],
        {"zero": np.float32(0)},
    )
    x = normal(4, 3)
    found = brought(source, {"p", "s"}, x=x)
    assert found.keys() == {"y", "s"}
    assert len(found["s"]) == 12


def test_where_steps_of_a_scan_differ_in_shape_the_rest_is_still_seen(tmp_path):
    nodes = [
        node("Greater", ["row", "zero"], "above"),
        node("Compress", ["row", "above"], "some"),
        node("Mul", ["some", "some"], "s"),
    ]
    source = model(
        [node("Relu", ["x"], "a"), summed(nodes, "s")],
        [value("x")],
        [value("y", [])],
        {"zero": np.float32(0)},
    )
    path, samples = saved(source, tmp_path / "a.onnx"), [(normal(4, 3),), (normal(4, 3),)]
    simplify(path, tmp_path / "b.onnx", samples[0])
    with pytest.raises(CannotRun, match="onnxruntime fails on calibration batch 1"):
        collect(tmp_path / "b.onnx", samples)
    found = Calibration(samples, QuantizeConfig()).ranges(tmp_path / "b.onnx")
    assert found.keys() == {"x", "a"}


def test_of_an_if_in_a_loop_every_second_step():
    """Steps that take the other branch add nothing."""
    odd = [node("Mod", ["i", "two"], "m"), node("Equal", ["m", "one"], "odd")]
    inner = branches(
        "odd",
        ["z"],
        body([node("Neg", ["h"], "p")], ["p"]),
        body([node("Identity", ["h"], "q")], ["q"]),
    )
    steps = loop([*odd, inner])
    source = model(
        [steps],
        [value("x")],
        [value("last")],
        {"times": np.array(4), "two": np.array(2), "one": np.array(1)},
    )
    x = normal(2, 3)
    found = brought(source, {"p"}, x=x)
    np.testing.assert_array_equal(found["p"], -np.ravel([2 * x, 8 * x]))


def convolution(name, source, weight):
    nodes = [node("Conv", [source, "k"], name, pads=[1, 1, 1, 1])]
    return body(nodes, [value(name, [None, 8, None, None])], {"k": weight})


def either_convolution(source, channels):
    weights = [normal(8, channels, 3, 3) for _ in range(2)]
    then, otherwise = (convolution(*each) for each in zip("pq", [source] * 2, weights, strict=True))
    return branches("c", ["y"], then, otherwise)


def test_calibration_sees_what_bodies_compute(tmp_path):
    """Ranges of all samples: those of one branch come from the samples that take it."""
    above = [
        node("ReduceMean", ["x"], "m", keepdims=0),
        node("Greater", ["m", "zero"], "c"),
    ]
    chosen = either_convolution("x", 3)
    image = value("x", ["n", 3, 8, 8])
    source = model([*above, chosen], [image], [value("y", ["n", 8, 8, 8])], {"zero": np.float32(0)})
    path = saved(source, tmp_path / "a.onnx")
    samples = [(normal(1, 3, 8, 8) + offset,) for offset in (1, 1, -1)]
    simplify(path, tmp_path / "b.onnx", samples[0])
    found = collect(tmp_path / "b.onnx", samples).tensors
    assert (found["p"].count, found["q"].count) == (2 * 512, 512)
    outputs = [ort.InferenceSession(path).run(None, {"x": x})[0] for (x,) in samples]
    assert found["p"].high == pytest.approx(max(y.max() for y in outputs[:2]), rel=1e-5)
    assert found["q"].low == pytest.approx(outputs[2].min(), rel=1e-5)


def test_where_onnxruntime_crashes_over_it_bodies_have_no_ranges(tmp_path, monkeypatch):
    monkeypatch.setattr(observed, "_try", crash)
    step = node("Conv", ["x", "k"], "first", pads=[1, 1, 1, 1])
    chosen = either_convolution("first", 8)
    image = value("x", ["n", 3, 8, 8])
    source = model(
        [step, chosen], [image, CONDITION], [value("y", ["n", 8, 8, 8])], {"k": normal(8, 3, 3, 3)}
    )
    given = (normal(1, 3, 8, 8), np.array(True))
    simplify(saved(source, tmp_path / "a.onnx"), tmp_path / "b.onnx", given)
    assert set(collect(tmp_path / "b.onnx", [given]).ranges()) == {"x", "first"}


def test_a_branch_that_no_sample_takes_stays_fp32(tmp_path):
    chosen = either_convolution("x", 3)
    image = value("x", ["n", 3, 8, 8])
    source = model([chosen], [image, CONDITION], [value("y", ["n", 8, 8, 8])])
    path, given = saved(source, tmp_path / "a.onnx"), (normal(1, 3, 8, 8), np.array(True))
    ready, int8 = tmp_path / "b.onnx", tmp_path / "c.onnx"
    simplify(path, ready, given)
    ranges = collect(ready, [given]).ranges()
    assert "q" not in ranges
    quantize_static_int8(ready, int8, ranges, QuantizeConfig())
    kinds = {
        entry.name: [n.op_type for n in entry.g.node]
        for entry in onnx.load(int8).graph.node[0].attribute
    }
    assert kinds["else_branch"] == ["Conv"]
    assert "DequantizeLinear" in kinds["then_branch"]

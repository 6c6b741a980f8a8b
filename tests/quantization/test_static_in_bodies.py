"""Static int8 of what stands in If and Loop, and all that is told and chosen by layer there."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import onnx
import pytest
from nested import RANDOM, body, branches, model, node, normal, run, saved, value
from onnx import TensorProto, helper

from compress.errors import UnknownName
from compress.export.bodies import graphs
from compress.export.graph import operators
from compress.export.loading import load_onnx
from compress.quantization import slower_layers as slower_layers_module
from compress.quantization.account import account_of_nodes
from compress.quantization.calibration.collecting import collect
from compress.quantization.config import QuantizeConfig
from compress.quantization.layers import by_operator, layers
from compress.quantization.rewriting.simplify import simplify
from compress.quantization.saturation import emulate
from compress.quantization.sensitivity import sensitivities
from compress.quantization.slower_layers import slower_layers
from compress.quantization.static import quantize_static_int8
from compress.quantization.switches import with_switches
from compress.report.profile_schema import ProfiledNode

IMAGES = [None, 8, None, None]
CONFIG = QuantizeConfig()


@pytest.fixture(autouse=True)
def same_numbers():
    """Each test draws the same, whichever tests ran before it in its process."""
    RANDOM.bit_generator.state = np.random.default_rng(0).bit_generator.state


def conv(source, weight, result, name):
    return helper.make_node("Conv", [source, weight], [result], name=name, pads=[1, 1, 1, 1])


def branch(name, weight, constants=None):
    nodes = [conv("a", weight, f"{name}c", name), node("Relu", [f"{name}c"], name)]
    return body(nodes, [value(name, IMAGES)], constants)


def network(shared=False):
    """A convolution, another one in each branch of an If, one in three steps, and a last one.

    Args:
        shared: whether the branches read one weight from outside, with or without a ReLU of it.
    """
    kernel = [normal(8, 8, 3, 3) / 9 for _ in range(4)]
    if shared:
        chosen = branches("c", ["r"], branch("p", "k"), branch("q", "k"), "either")
    else:
        each = [branch(name, "k", {"k": kernel[place]}) for place, name in enumerate("pq")]
        chosen = branches("c", ["r"], *each, "either")
    nodes = [
        conv("h", "k", "s", "step"),
        node("Tanh", ["s"], "next"),
        node("Identity", ["more"], "go"),
    ]
    states = [value("i", [], np.int64), value("more", [], bool), value("h", IMAGES)]
    step = body(nodes, [value("go", [], bool), value("next", IMAGES)], {"k": 2 * kernel[2]}, states)
    loop = helper.make_node("Loop", ["times", "", "r"], ["l"], name="loop", body=step)
    return model(
        [
            conv("x", "first", "a", "conv"),
            node("ReduceMean", ["x"], "m", keepdims=0),
            node("Greater", ["m", "zero"], "c"),
            chosen,
            loop,
            conv("l", "k", "y", "last"),
        ],
        [value("x", ["n", 3, 12, 12])],
        [value("y", IMAGES)],
        {
            "first": normal(8, 3, 3, 3) / 4,
            "k": kernel[3],
            "zero": np.float32(0),
            "times": np.array(3),
        },
    )


def ready(folder, **settings):
    """The file that candidates start from, samples of both branches, and their ranges."""
    path = saved(network(**settings), folder / "a.onnx")
    samples = [(normal(2, 3, 12, 12) + offset,) for offset in (0.5, -0.5, 0.5, -0.5)]
    simplify(path, folder / "b.onnx", samples[0])
    return folder / "b.onnx", samples, collect(folder / "b.onnx", samples).ranges()


@pytest.mark.parametrize("shared", [False, True])
def test_every_convolution_becomes_int8_wherever_it_stands(shared, tmp_path):
    source, samples, ranges = ready(tmp_path, shared=shared)
    target = tmp_path / "c.onnx"
    quantize_static_int8(source, target, ranges, CONFIG)
    onnx.checker.check_model(onnx.load(target), full_check=True)
    assert operators(load_onnx(target)) == {"Conv": {"int8 (static)": 5}}
    for sample in samples:
        (found,), (expected,) = run(target, *sample), run(source, *sample)
        assert np.abs(found - expected).max() < 0.08 * np.abs(expected).max()
    stored = [t for g in graphs(onnx.load(target).graph) for t in g.initializer]
    weights = [t for t in stored if len(t.dims) == 4]
    assert {t.data_type for t in weights} == {TensorProto.INT8}
    assert len(weights) == 5


def test_a_large_weight_that_branches_share_is_stored_once(tmp_path):
    weight = normal(128, 96)
    products = [body([node("MatMul", ["x", "w"], name)], [value(name)]) for name in ("p", "q")]
    source = model(
        [branches("c", ["y"], *products)],
        [value("x", ["n", 128]), value("c", [], bool)],
        [value("y", ["n", 96])],
        {"w": weight},
    )
    path, x = saved(source, tmp_path / "a.onnx"), normal(6, 128)
    simplify(path, tmp_path / "b.onnx", (x, np.array(True)))
    samples = [(x, np.array(True)), (x, np.array(False))]
    ranges = collect(tmp_path / "b.onnx", samples).ranges()
    quantize_static_int8(tmp_path / "b.onnx", tmp_path / "c.onnx", ranges, CONFIG)
    found = onnx.load(tmp_path / "c.onnx")
    stored = [t for g in graphs(found.graph) for t in g.initializer if len(t.dims) == 2]
    assert [t.data_type for t in stored] == [TensorProto.INT8]
    assert operators(load_onnx(tmp_path / "c.onnx")) == {"MatMul": {"int8 (static)": 2}}
    for sample in samples:
        (got,), (want,) = run(tmp_path / "c.onnx", *sample), run(path, *sample)
        assert np.abs(got - want).max() < 0.03 * np.abs(want).max()


def test_layers_in_bodies_can_be_left_in_fp32(tmp_path):
    source, _, ranges = ready(tmp_path)
    target = tmp_path / "c.onnx"
    quantize_static_int8(source, target, ranges, CONFIG, ("step", "q"))
    found = {e["name"].rpartition("/")[2]: e for e in account_of_nodes(load_onnx(target))}
    assert {name for name, entry in found.items() if entry["precision"] == "fp32"} == {"step", "q"}
    assert found["step"]["why"] == (
        "left in fp32 by the choice: in int8 it was slower or lost too much, or no range is known "
        "there"
    )
    config = CONFIG.model_copy(update={"keep_fp32": ("stp",)})
    with pytest.raises(UnknownName, match=r"node \(keep_fp32\) named 'stp'.* mean 'step'"):
        quantize_static_int8(source, target, ranges, config)


def test_layers_and_kinds(tmp_path):
    source, _, _ = ready(tmp_path)
    found = onnx.load(source)
    assert set(layers(found)) == {"conv", "p", "q", "step", "last"}
    assert by_operator(found) == {"convolutions": frozenset(layers(found))}


def test_switches_in_bodies_give_what_a_file_for_each_layer_gives(tmp_path):
    source, samples, ranges = ready(tmp_path)
    every, target = layers(onnx.load(source)), tmp_path / "c.onnx"
    quantize_static_int8(source, target, ranges, CONFIG)
    switched = with_switches(onnx.load(source), onnx.load(target), every)
    assert switched is not None
    found, order = switched
    onnx.checker.check_model(found)
    onnx.save(found, tmp_path / "switches.onnx")
    for name in order:
        built = tmp_path / "one.onnx"
        quantize_static_int8(source, built, ranges, CONFIG, tuple(set(order) - {name}))
        on = np.array([each == name for each in order])
        for sample in samples[:2]:
            (want,), (got,) = run(built, *sample), run(tmp_path / "switches.onnx", *sample, on)
            (fp32,) = run(source, *sample)
            assert np.abs(got - want).max() <= 0.02 * np.abs(want - fp32).max() + 1e-5


def test_sensitivities_tell_of_layers_in_bodies(tmp_path):
    """The one whose range is far too small comes first."""
    source, samples, ranges = ready(tmp_path)
    ranges = dict(ranges)
    spoiled = next(n for g in graphs(onnx.load(source).graph) for n in g.node if n.name == "step")
    low, high = ranges[spoiled.output[0]]
    ranges[spoiled.output[0]] = (low / 20, high / 20)
    groups = layers(onnx.load(source))

    def make(kept, path):
        quantize_static_int8(source, path, ranges, CONFIG, tuple(kept))

    found = sensitivities(source, make, groups, samples, tmp_path)
    assert {entry.name for entry in found} == set(groups)
    assert found[0].name == "step"


def test_conversions_in_bodies_count_for_the_layers_that_they_are_for(tmp_path, monkeypatch):
    source, _, _ = ready(tmp_path)
    names = layers(onnx.load(source))
    nodes = {n.name: n for g in graphs(onnx.load(source).graph) for n in g.node}
    conversion = f"{nodes['step'].input[0]}_QuantizeLinear"

    def profiled(*times):
        found = [
            ProfiledNode.model_construct(name=name, operator=kind, us=us)
            for name, kind, us in times
        ]
        return SimpleNamespace(nodes=found)

    told = {
        "fp32": profiled(("step", "Conv", 2.0), ("p", "Conv", 2.0)),
        "int8": profiled(
            ("step", "QLinearConv", 1.0),
            ("p", "QLinearConv", 1.0),
            (conversion, "QuantizeLinear", 5.0),
        ),
    }
    monkeypatch.setattr(slower_layers_module, "profile", lambda *_, **__: told)
    assert slower_layers(source, source, names) == {"step"}


def test_saturating_sums_in_bodies(tmp_path):
    source, samples, _ = ready(tmp_path)
    ranges = collect(source, samples).ranges()
    target, cut = tmp_path / "c.onnx", tmp_path / "cut.onnx"
    quantize_static_int8(source, target, ranges, CONFIG)
    found = emulate(target, cut)
    assert {"step", "p", "q"} <= set(found.at_risk)
    assert run(cut, *samples[0])[0].shape == run(target, *samples[0])[0].shape

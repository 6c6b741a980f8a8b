"""Lossless rewrites inside of bodies, and steps that make onnxruntime crash."""

from __future__ import annotations

import signal

import numpy as np
import onnx
import pytest
from nested import body, branches, model, normal, run, saved, value
from onnx import helper
from sketch import by_name

from compress.errors import ModelFileError
from compress.export.bodies import graphs
from compress.quantization.rewriting import agreement
from compress.quantization.rewriting import simplify as module
from compress.quantization.rewriting.activations import fuse_gelu
from compress.quantization.rewriting.in_bodies import in_bodies
from compress.quantization.rewriting.simplify import simplify
from compress.quantization.rewriting.tidy import tidy
from compress.runtime.isolated import Crashed


def node(kind, inputs, output, **settings):
    return helper.make_node(kind, inputs, [output], **settings)


def gelu(x, y, half="half"):
    return [
        node("Div", [x, "root"], f"{y}1"),
        node("Erf", [f"{y}1"], f"{y}2"),
        node("Add", [f"{y}2", "one"], f"{y}3"),
        node("Mul", [x, f"{y}3"], f"{y}4"),
        node("Mul", [f"{y}4", half], y),
    ]


CONSTANTS = {"root": np.float32(2**0.5), "one": np.float32(1), "half": np.float32(0.5)}


def kinds(path):
    return [[n.op_type for n in graph.node] for graph in graphs(onnx.load(path).graph)]


def changed(change, source, target):
    """In how many places; what is not used any more is dropped, as behind every step."""
    made = onnx.load(source)
    count = in_bodies(change)(made)
    tidy(made, onnx.load(source))
    saved(made, target)
    return count


def same(source, target, *feeds):
    for want, got in zip(run(source, *feeds), run(target, *feeds), strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6)


def test_a_pattern_is_found_in_both_branches_with_constants_from_outside(tmp_path):
    """In the one branch all numbers are captured; in the other `half` is its own, and no half."""
    then = body(gelu("x", "g"), ["g"])
    otherwise = body(gelu("x", "h"), ["h"], {"half": np.float32(0.25)})
    source = model(
        [branches("c", ["y"], then, otherwise)],
        [value("x"), value("c", [], bool)],
        [value("y")],
        CONSTANTS,
        opset=20,
    )
    source, target = saved(source, tmp_path / "a.onnx"), tmp_path / "b.onnx"
    assert changed(fuse_gelu, source, target) == 1
    assert kinds(target) == [["If"], ["Div", "Erf", "Add", "Mul", "Mul"], ["Gelu"]]
    for condition in (True, False):
        same(tmp_path / "a.onnx", target, normal(3, 4), np.array(condition))


def test_a_pattern_is_found_in_a_loop_in_a_branch(tmp_path):
    step = body(
        [*gelu("h", "next"), node("Identity", ["more"], "go")],
        [value("go", [], bool), "next"],
        {},
        [value("i", [], np.int64), value("more", [], bool), value("h")],
    )
    loop = helper.make_node("Loop", ["times", "", "x"], ["z"], body=step)
    source = model(
        [branches("c", ["y"], body([loop], ["z"]), body([node("Neg", ["x"], "n")], ["n"]))],
        [value("x"), value("c", [], bool), value("times", [], np.int64)],
        [value("y")],
        CONSTANTS,
        opset=20,
    )
    source, target = saved(source, tmp_path / "a.onnx"), tmp_path / "b.onnx"
    assert changed(fuse_gelu, source, target) == 1
    assert kinds(target) == [["If"], ["Neg"], ["Loop"], ["Gelu", "Identity"]]
    same(source, target, normal(3, 4), np.array(True), np.array(3))


def test_a_scale_of_an_outer_weight_is_merged_in_the_body_alone(tmp_path):
    """The weight is captured and used outside as well, where it stays what it is."""
    inner = [node("MatMul", ["x", "w"], "p"), node("Mul", ["p", "scale"], "z")]
    source = model(
        [
            branches("c", ["a"], body(inner, ["z"]), body([node("Neg", ["x"], "n")], ["n"])),
            node("MatMul", ["a", "w"], "y"),
        ],
        [value("x", ["n", 4]), value("c", [], bool)],
        [value("y")],
        {"w": normal(4, 4), "scale": np.float32([1, 2, 3, 4])},
    )
    target = tmp_path / "b.onnx"
    done = by_name(simplify(saved(source, tmp_path / "a.onnx"), target))
    assert done["scales and shifts merged into weights"].places == 1
    assert sorted(map(tuple, kinds(target))) == [("If", "MatMul"), ("MatMul",), ("Neg",)]
    for condition in (True, False):
        same(tmp_path / "a.onnx", target, normal(3, 4), np.array(condition))


def test_names_that_a_rewrite_gives_in_two_bodies_stay_apart(tmp_path):
    def inner(name):
        nodes = [node("MatMul", ["x", "w"], f"{name}p"), node("Mul", [f"{name}p", "s"], name)]
        return body(nodes, [name], {"s": np.float32(len(name))})

    source = model(
        [branches("c", ["y"], inner("a"), inner("bb"))],
        [value("x", ["n", 4]), value("c", [], bool)],
        [value("y")],
        {"w": normal(4, 4)},
    )
    target = tmp_path / "b.onnx"
    simplify(saved(source, tmp_path / "a.onnx"), target)
    assert sorted(map(tuple, kinds(target))) == [("If",), ("MatMul",), ("MatMul",)]
    names = [t.name for graph in graphs(onnx.load(target).graph) for t in graph.initializer]
    assert len(set(names)) == len(names) == 2
    for condition in (True, False):
        same(tmp_path / "a.onnx", target, normal(3, 4), np.array(condition))


def test_a_step_that_crashes_onnxruntime_is_undone_and_told(monkeypatch, tmp_path):
    def steps(call):
        def crash(model):
            call(signal.raise_signal, signal.SIGSEGV)
            return 1

        return {"crashes": (crash,), **usual(call)}

    usual = module._steps
    monkeypatch.setattr(module, "_steps", steps)
    source = model(
        [branches("c", ["y"], body(gelu("x", "g"), ["g"]), body(gelu("x", "h"), ["h"]))],
        [value("x"), value("c", [], bool)],
        [value("y")],
        CONSTANTS,
    )
    done = by_name(simplify(saved(source, tmp_path / "a.onnx"), tmp_path / "b.onnx"))
    assert done["crashes"].undone == "onnxruntime crashes (SIGSEGV)"
    assert kinds(tmp_path / "b.onnx") == [["If"], ["Gelu"], ["Gelu"]]


def test_a_file_that_crashes_onnxruntime_is_told_in_one_line(tmp_path):
    def call(function, *arguments):
        raise Crashed("onnxruntime crashes (SIGSEGV)")

    with pytest.raises(ModelFileError, match=r"m: onnxruntime crashes \(SIGSEGV\) as it loads"):
        agreement.reference(tmp_path / "m", None, call)

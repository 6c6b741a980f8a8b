"""`compress quantize` on networks that stand inside of If and Loop."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import nested
import numpy as np
import onnx
import pytest
from nested import RANDOM, body, branches, model, normal, saved, value
from onnx import helper

from compress import cli
from compress.quantization.dynamic import quantize_dynamic_int8
from compress.quantization.rewriting import crashing
from compress.runtime.onnxruntime import Session

QUICK = ["benchmark.batch=4", "benchmark.threads=1", "benchmark.workers=2", "benchmark.rounds=2"]
QUICK += ["benchmark.block_ms=0.1", "samples=16", "--minimise", "size", "--agreement", "error"]


@pytest.fixture
def call(monkeypatch, capsys, tmp_path):
    """The command in a folder with `net.onnx` and `rows.npz`; gives its exit code and prints."""
    monkeypatch.chdir(tmp_path)
    # The same whichever tests ran before: the condition must not turn over by a rounding.
    RANDOM.bit_generator.state = np.random.default_rng(0).bit_generator.state
    np.savez("rows.npz", x=normal(24, 128))
    saved(network(), Path("net.onnx"))

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["compress", "quantize", "net.onnx", *arguments])
        with pytest.raises(SystemExit) as stop:
            cli.main()
        printed = capsys.readouterr()
        return int(stop.value.code or 0), printed.out, printed.err

    return run


def network():
    """Products in a loop in the branch of a known condition, and in both of an unknown one."""
    step = body(
        [
            helper.make_node("MatMul", ["h", "w"], ["p"], name="step"),
            helper.make_node("Tanh", ["p"], ["next"]),
            helper.make_node("Identity", ["more"], ["go"]),
        ],
        [value("go", [], bool), "next"],
        {"w": normal(128, 128) / 8},
        [value("i", [], np.int64), value("more", [], bool), value("h")],
    )
    loop = helper.make_node("Loop", ["times", "", "x"], ["z"], name="loop", body=step)
    known = branches("yes", ["a"], body([loop], ["z"]), chosen("u"), "known")
    mean = helper.make_node("ReduceMean", ["a"], ["m"], keepdims=0)
    above = helper.make_node("Greater", ["m", "zero"], ["c"])
    return model(
        [known, mean, above, branches("c", ["y"], chosen("s"), chosen("t"), "unknown")],
        [value("x", ["n", 128])],
        [value("y", ["n", 128])],
        {"yes": np.array(True), "times": np.array(3), "zero": np.float32(0)},
    )


def chosen(name):
    node = helper.make_node("MatMul", ["a" if name != "u" else "x", "v"], [name], name=name)
    return body([node], [name], {"v": normal(128, 128) / 8})


def test_products_in_a_loop_and_in_branches_become_int8(call, monkeypatch):
    """onnxruntime loads the file; that it crashes over an outer If is made up."""
    monkeypatch.setattr(crashing, "_open", nested.crash_over_known)
    code, out, err = call(
        *QUICK, "--data", "npz:rows.npz", "--max-drop", "0.2", "--out", "q", "method=dynamic"
    )
    assert (code, err) == (0, "")
    assert re.search(r"^  kept    dynamic ", out, re.M)
    assert "onnxruntime crashes as it loads net.onnx: a copy in which each If on a known" in out
    evidence = json.loads(Path("q/card.json").read_text())["evidence"]
    nodes = {entry["name"]: entry["precision"] for entry in evidence["nodes"]}
    assert sorted(name.rpartition("/")[0] for name in nodes) == [
        *["loop/body", "unknown/else_branch", "unknown/then_branch"],
    ]
    assert set(nodes.values()) == {"int8 (dynamic)"}
    x = np.load("rows.npz")["x"]
    (found,), (expected,) = (
        Session(Path(p)).every_output((x,)) for p in ("q/model.onnx", "net.onnx")
    )
    assert np.abs(found - expected).max() < 0.1 * np.abs(expected).max()


def test_static_int8_reaches_into_bodies(call):
    code, out, err = call(
        *QUICK, "--data", "npz:rows.npz", "--max-drop", "0.2", "--out", "q", "method=static"
    )
    assert (code, err) == (0, "")
    assert re.search(r"^  kept    static ", out, re.M)
    evidence = json.loads(Path("q/card.json").read_text())["evidence"]
    found = {entry["name"].rpartition("/")[0]: entry for entry in evidence["nodes"]}
    assert found["loop/body"]["precision"] == "int8 (static)"
    branches_of_unknown = [found[f"unknown/{name}_branch"] for name in ("then", "else")]
    assert "int8 (static)" in {entry["precision"] for entry in branches_of_unknown}


def test_integers_in_a_body_are_a_quantized_model(call):
    quantize_dynamic_int8(Path("net.onnx"), Path("int8.onnx"))
    onnx.save(onnx.load("int8.onnx"), "net.onnx")
    code, _, err = call(*QUICK, "--data", "npz:rows.npz", "--out", "q")
    assert code == 1
    assert err == (
        "compress: net.onnx: is already quantized (4 MatMul in integers); give the model in fp32 "
        "that it was made from.\n"
    )

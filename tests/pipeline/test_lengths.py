"""Lengths of made-up inputs: each is measured, told, and compared with itself only."""

from __future__ import annotations

import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from test_check import Machine

from compress import cli
from compress.errors import InputError, RecipeError, ShapeMismatch
from compress.export.graph import open_dimensions
from compress.measure.config import BenchConfig
from compress.measure.latency import measure
from compress.measure.measured import Cell, from_report
from compress.measure.profile import ProfileConfig
from compress.measure.profile import profile as measure_profile
from compress.pipeline import timing
from compress.pipeline.bench import bench
from compress.pipeline.check import CheckConfig, check
from compress.pipeline.profile import profile
from compress.recipe import parse_recipe
from compress.report import load_report, render_html, render_markdown
from compress.report.benchmark_action import render_benchmark_action

QUICK = BenchConfig(
    batch=(1, 3), length=(2, 9), threads=(1,), workers=1, rounds=2, block_ms=0.1, warm_up_s=0.002
)


def write(path: Path, products: int = 1, step: int = 0, time: int | str = "time") -> Path:
    """Products over (n, time, 4), of which one step is taken; and a length of each sequence."""
    shape = ["n", time, 4]
    given = [
        helper.make_tensor_value_info("x", TensorProto.FLOAT, shape),
        helper.make_tensor_value_info("lengths", TensorProto.INT64, ["n"]),
    ]
    made = [
        helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 4]),
        helper.make_tensor_value_info("same", TensorProto.INT64, ["n"]),
    ]
    names = ["x", *(f"v{at}" for at in range(products))]
    nodes = [
        helper.make_node("MatMul", [before, "w"], [after]) for before, after in pairwise(names)
    ]
    nodes += [helper.make_node("Gather", [names[-1], "step"], ["y"], axis=1)]
    nodes += [helper.make_node("Identity", ["lengths"], ["same"])]
    stored = [
        numpy_helper.from_array(np.eye(4, dtype=np.float32), "w"),
        numpy_helper.from_array(np.array(step), "step"),
    ]
    graph = helper.make_graph(nodes, "g", given, made, stored)
    opset = [helper.make_opsetid("", 18)]
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=9), path)
    return path


@pytest.fixture
def models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    monkeypatch.chdir(tmp_path)
    return [write(Path("a.onnx")), write(Path("b.onnx"), products=3)]


def test_which_dimensions_are_open(tmp_path: Path):
    assert open_dimensions(onnx.load(write(tmp_path / "a.onnx"))) == ["time of x"]
    assert open_dimensions(onnx.load(write(tmp_path / "b.onnx", time=7))) == []


def test_every_cell_is_measured_at_its_length(models: list[Path], tmp_path: Path):
    measured = measure({"a": models[0]}, QUICK.model_copy(update={"control": False}))
    assert list(measured.blocks) == [
        Cell("a", batch, 1, length) for batch in (1, 3) for length in (2, 9)
    ]
    assert measured.sizes() == [(1, 2), (1, 9), (3, 2), (3, 9)]
    assert [(point.batch, point.length) for point in measured.latency("a")] == measured.sizes()
    # A model that takes the seventh step runs at length 9 and fails at length 2.
    late = write(tmp_path / "late.onnx", step=6)
    only = QUICK.model_copy(update={"length": (9,)})
    assert measure({"a": models[0], "late": late}, only, keep_going=True).failed == {}
    assert measure({"a": models[0], "late": late}, QUICK, keep_going=True).failed.keys() == {"late"}


def test_a_benchmark_tells_each_length(models: list[Path], tmp_path: Path):
    report = bench(models, QUICK, out=tmp_path / "out")
    stored = load_report(tmp_path / "out" / "report.json")
    assert report.notes == [
        "No data was given: inputs are random, accuracy was not measured.",
        "Open dimensions (time of x) were 2, 9.",
    ]
    assert stored.measurement["length"] == [2, 9]
    assert stored.command == (
        "compress bench a.onnx b.onnx 'batch=[1,3]' 'length=[2,9]' 'threads=[1]' workers=1 "
        "rounds=2 block_ms=0.1 warm_up_s=0.002"
    )
    assert {"control_batch_1_length_2", "control_batch_3_length_9"} <= stored.measurement.keys()
    for batch in (1, 3):
        for length in (2, 9):
            entry = stored.comparison("b.onnx", "latency", batch, length)
            ratio, _, _ = from_report(stored).ratio("a.onnx", "b.onnx", batch, length)
            assert entry.ratio == ratio
    assert stored.comparison("b.onnx", "latency", 1) is None
    page, text = render_html(stored), render_markdown(stored)
    assert "Latency and throughput against batch size and length" in page
    assert "Latency in ms at length 2" in page
    assert "Latency in ms at batch 1" in page
    for shown in (page, text):
        assert all(f"batch {batch}, length {length}" in shown for batch, length in ((1, 2), (3, 9)))
    assert '"Latency, batch 3, length 9, candidate / baseline"' in render_benchmark_action(stored)
    raw = stored.raw
    assert raw.worker_ratios("a.onnx", "b.onnx", 3, 9) == pytest.approx(
        np.exp(from_report(stored).logs("a.onnx", "b.onnx", 3, 9)).tolist(), rel=0.05
    )


def test_without_a_length_the_note_says_what_it_was(models: list[Path]):
    report = bench(models, QUICK.model_copy(update={"length": None, "batch": (1,)}))
    assert report.notes[1] == (
        "Open dimensions (time of x) were 1, which makes a sequence one step long; name a task, "
        "or set `length`."
    )
    assert [point.length for point in report.arms[0].latency] == [None]
    assert "length" not in report.measurement


def test_a_length_that_would_change_nothing_is_refused(models: list[Path], tmp_path: Path):
    with pytest.raises(InputError, match=r"^length: the samples of 'tiny:sequences' have lengths"):
        bench(models, QUICK, data="tiny:sequences")
    fixed = write(tmp_path / "fixed.onnx", time=2)
    for call in (
        lambda: bench([models[0], fixed], QUICK),
        lambda: check(models[0], fixed, CheckConfig(length=5)),
    ):
        with pytest.raises(InputError, match="leaves no dimension open behind the batch"):
            call()
    with pytest.raises(InputError, match=r"^length: the samples of 'tiny:task'"):
        profile(models[0], None, ProfileConfig(length=4), data="tiny:task")
    stages = ["train", {"benchmark": {"length": 5}}]
    with pytest.raises(RecipeError) as caught:
        parse_recipe({"task": "mnist", "model": "cnn", "stages": stages}, "r.yaml")
    assert caught.value.errors == [
        "stages[1].benchmark.length: a recipe's task gives the samples; length is for "
        "`compress bench` without data."
    ]


def test_a_check_at_a_length(models: list[Path], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(timing, "measure", Machine(1.2).measure)
    report = check(*models, CheckConfig(length=64, size_margin=9))
    (entry,) = (entry for entry in report.comparisons if entry.what == "latency")
    assert (entry.verdict, entry.batch, entry.length) == ("regressed", 1, 64)
    assert "latency at batch 1, length 64 1.20" in report.gate.explanation
    assert report.command == "compress check a.onnx b.onnx --size-margin 9 length=64"
    assert "Open dimensions (time of x) were 64." in report.notes
    assert "Latency, batch 1, length 64" in render_markdown(report)
    late = write(Path("late.onnx"), step=6)
    with pytest.raises(ShapeMismatch, match="without data an open dimension is 1, and the two"):
        check(models[0], write(Path("part.onnx"), time=3), CheckConfig(length=None))
    monkeypatch.setattr(timing, "measure", Machine(1.0).measure)
    assert check(models[0], late, CheckConfig(length=64, size_margin=9)).gate.verdict == "ok"


def test_a_profile_at_a_length(models: list[Path]):
    config = ProfileConfig(workers=1, batch=3, length=9)
    found = measure_profile({"a": models[0]}, config)["a"]
    assert found.length == 9
    assert any("fp32 3×9×4" in shape for node in found.nodes for shape in node.shapes)


def test_the_command_shows_each_length(
    models: list[Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    quick = ["batch=1", "threads=1", "workers=1", "rounds=2", "block_ms=0.1", "warm_up_s=0.002"]
    argv = ["compress", "bench", *map(str, models), "length=[2,9]", *quick]
    monkeypatch.setattr(sys, "argv", argv)
    with pytest.raises(SystemExit) as stop:
        cli.main()
    assert stop.value.code == 0
    header = capsys.readouterr().out.splitlines()[0]
    assert "ms at 1 × 2" in header
    assert "ms at 1 × 9" in header

"""`bench`: arms on several runtimes, and what becomes of one that fails."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import tiny

from compress.artifact import WEIGHTS
from compress.errors import InputError, ShapeMismatch, UnknownName, WorkerFailed
from compress.measure.config import BenchConfig
from compress.measure.measured import from_report
from compress.pipeline.bench import bench
from compress.report import load_report, render_html, render_markdown

QUICK = BenchConfig(batch=(1,), threads=(1,), workers=1, rounds=2, block_ms=0.1, warm_up_s=0.002)


def test_one_model_on_several_runtimes(base: Path, tmp_path: Path):
    arms = [Path(f"{base}{runtime}") for runtime in ("", "@torch", "@torchscript")]
    report = bench(arms, QUICK, data="tiny:task", out=tmp_path / "out")
    assert [arm.name for arm in report.arms] == list(map(str, arms))
    assert [arm.runtime for arm in report.arms] == ["onnxruntime", "torch", "torchscript"]
    first, eager, script = report.arms
    assert eager.quality.value == first.quality.value == script.quality.value > 0.5
    assert eager.size_bytes == (base / WEIGHTS).stat().st_size
    assert (eager.file, eager.precision) == (str(base / WEIGHTS), "fp32")
    assert all(arm.latency and arm.latency[0].load_ms for arm in report.arms)
    stored = load_report(tmp_path / "out" / "report.json")
    entry = stored.comparison(str(arms[1]), "latency", 1)
    ratio, _, workers = from_report(stored).ratio(str(arms[0]), str(arms[1]), 1)
    assert (entry.ratio, entry.n) == (ratio, workers)
    assert "First call" in render_html(stored)


def test_openvino_beside_onnxruntime(trained_onnx: Path):
    pytest.importorskip("openvino")
    arms = [trained_onnx, Path(f"{trained_onnx}@openvino")]
    report = bench(arms, QUICK, data="tiny:task")
    first, second = report.arms
    assert (second.name, second.runtime) == (f"{trained_onnx}@openvino", "openvino")
    assert second.quality.value == first.quality.value
    assert second.operators == first.operators
    assert second.latency


def test_an_arm_that_fails_is_left_out_with_a_note(trained_onnx: Path, tmp_path: Path):
    bad, copy = tiny.out_of_range(tmp_path / "bad.onnx"), tmp_path / "copy.onnx"
    shutil.copyfile(trained_onnx, copy)
    report = bench([trained_onnx, bad, copy], QUICK, out=tmp_path / "out")
    assert [arm.name for arm in report.arms] == [str(trained_onnx), str(copy)]
    assert report.failed.keys() == {str(bad)}
    assert "indices" in report.failed[str(bad)]
    (note,) = (note for note in report.notes if "left out" in note)
    assert note.startswith(f"{bad}: left out, ")
    assert "left out" in render_markdown(load_report(tmp_path / "out" / "report.json"))


def test_the_baseline_cannot_be_left_out(trained_onnx: Path, tmp_path: Path):
    bad = tiny.out_of_range(tmp_path / "bad.onnx")
    with pytest.raises(WorkerFailed, match=r"measuring .*bad\.onnx: "):
        bench([bad, trained_onnx], QUICK)
    with pytest.raises(ShapeMismatch, match="the data is"):
        bench([trained_onnx], QUICK, data="tiny:tokens")


def test_what_cannot_be_run_is_told_before_anything_runs(base: Path, trained_onnx: Path):
    with pytest.raises(UnknownName, match="No runtime named 'onnx'"):
        bench([Path(f"{base}@onnx")], QUICK)
    with pytest.raises(InputError, match=r"@torch: holds no torch weights"):
        bench([trained_onnx, Path(f"{trained_onnx}@torch")], QUICK)

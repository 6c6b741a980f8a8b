"""One calibration serves all that starts from a file, and all static candidates do."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest
from small_graphs import convolutions, whole

from compress.data.task import Task
from compress.measure.judge import TaskJudge
from compress.progress import Progress
from compress.quantization import candidates
from compress.quantization.building import build
from compress.quantization.calibration import shared
from compress.quantization.calibration.shared import Calibration
from compress.quantization.config import QuantizeConfig


def test_files_that_compute_the_same_share_one_calibration(tmp_path: Path):
    prepared = convolutions(tmp_path / "prepared.onnx")
    batches = [(whole(4, 2, 8, 8),), (whole(3, 2, 8, 8, seed=1),)]
    rewritten, other = tmp_path / "rewritten.onnx", tmp_path / "other.onnx"
    model = onnx.load(prepared)
    model.doc_string = "the same"
    onnx.save(model, rewritten)
    last = model.graph.node[-1]
    identity = onnx.helper.make_node("Identity", ["inner"], [last.output[0]], "last")
    last.output[0] = "inner"
    model.graph.node.append(identity)
    onnx.save(model, other)
    steps: list[tuple[str, int, int]] = []
    shared = Calibration(
        batches,
        QuantizeConfig(),
        progress=lambda label, done, total: steps.append((label, done, total)),
    )
    first = shared.ranges(prepared)
    assert shared.ranges(prepared) is first
    assert shared.ranges(rewritten, rewritten_from=prepared) is first
    assert len(steps) == 2
    assert "inner" in shared.ranges(other, rewritten_from=prepared)
    assert len(steps) == 4


def test_all_static_candidates_share_one_pass(
    trained_onnx: Path, tiny_task: Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    passes: list[Path] = []
    plain = shared.collect

    def collect(source: Path, *given: object, **settings: object) -> object:
        passes.append(source)
        return plain(source, *given, **settings)

    monkeypatch.setattr(shared, "collect", collect)
    monkeypatch.setattr(candidates, "slower_layers", lambda fp32, int8, names, **_: {names[0]})
    judge = TaskJudge(tiny_task)
    steps: list[str] = []
    config = QuantizeConfig(samples=40)
    progress: Progress = lambda label, done, total: steps.append(f"{label} {done}/{total}")  # noqa: E731
    made = build(trained_onnx, tmp_path, judge, config, progress=progress)
    assert steps == ["calibration 1/2", "calibration 2/2"]
    assert made.failures == {}
    assert [name for name in made.files if name.startswith("static")] == [
        "static",
        "static, slower layers fp32",
    ]
    assert passes == [tmp_path / "prepared.onnx"]
    build(trained_onnx, tmp_path, judge, QuantizeConfig(method="dynamic"))
    assert len(passes) == 1

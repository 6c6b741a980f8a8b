"""`compress profile` and `profile=true`, from the command line to the page."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import onnx
import pytest
from onnx import helper

from compress import cli
from compress.measure.profile import ProfileConfig
from compress.report import load_report

Call = Callable[..., tuple[int, str, str]]
CODE = str(Path(cli.__file__).parents[2])


@pytest.fixture
def call(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Call:
    """The command line in this process, in an empty folder, with one worker a model."""
    monkeypatch.chdir(tmp_path)
    # Workers run the same code as this process, wherever they start.
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([CODE, os.environ.get("PYTHONPATH", "")]))

    class OneWorker(ProfileConfig):
        workers: int = 1

    monkeypatch.setattr("compress.measure.profile.ProfileConfig", OneWorker)

    def run(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["compress", *map(str, arguments)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as stop:
            cli.main()
        return stop.value.code, *capsys.readouterr()

    return run


@pytest.fixture(scope="module")
def renamed(trained_onnx: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The trained model with a node of an evil name, which is one more."""
    model = onnx.load(trained_onnx)
    last = model.graph.output[0].name
    producer = next(node for node in model.graph.node if last in node.output)
    producer.output[:] = ["inner" if name == last else name for name in producer.output]
    model.graph.node.append(
        helper.make_node("Softmax", ["inner"], [last], name="<script>x</script>")
    )
    path = tmp_path_factory.mktemp("renamed") / "model.onnx"
    onnx.save(model, path)
    return path


def test_two_models_end_to_end(call: Call, trained_onnx: Path, renamed: Path, tmp_path: Path):
    command = ("profile", trained_onnx, renamed, "--data", "tiny:task", "--batch", 3)
    code, out, err = call(*command, "--out", "found")
    assert (code, err) == (0, "")
    for text in ("Operator", "Share", "Conv", "Softmax new", "<script>x</script>", "Whole call,"):
        assert text in out
    assert out.endswith("report: found/report.html\n")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["found"]
    report = load_report(tmp_path / "found" / "report.json")
    assert [arm.name for arm in report.arms] == [str(trained_onnx), str(renamed)]
    assert (report.baseline, report.final) == (str(trained_onnx), str(renamed))
    found = report.arms[1].profile
    assert found is not None
    assert (found.batch, found.threads) == (3, 1)
    assert "fp32 3×1×12×12" in {shape for node in found.nodes for shape in node.shapes}
    assert found.operator("Softmax") is not None
    assert report.command == (
        f"compress profile {trained_onnx} {renamed} --data tiny:task --batch 3"
    )
    page = (tmp_path / "found" / "report.html").read_text()
    assert "Where the time goes" in page
    assert page.count("<script") == 1  # the page's own, for sorting
    assert "&lt;script&gt;x&lt;/script&gt;" in page


def test_a_run_folder_means_its_final_model_and_json_is_the_report(
    call: Call, trained_onnx: Path, tmp_path: Path
):
    code, out, _ = call("bench", trained_onnx, "batch=1", "threads=1", "workers=1", "rounds=2",
                        "block_ms=0.1", "profile=true", "--out", "run")  # fmt: skip
    assert code == 0
    report = load_report(tmp_path / "run" / "report.json")
    assert report.arms[0].profile is not None
    assert report.arms[0].profile.operator("Conv") is not None
    code, out, err = call("profile", "run", "--json")
    assert (code, err) == (0, "")
    (arm,) = json.loads(out)["arms"]
    assert (arm["name"], json.loads(out)["final"]) == ("run", None)
    assert arm["profile"]["operators"][0]["us"] >= 0
    assert json.loads(out)["notes"][0].startswith("No data was given: inputs are random")


def test_bad_input_is_one_line_and_code_2(call: Call, trained_onnx: Path, tmp_path: Path):
    shutil.copy(trained_onnx, tmp_path / "good.onnx")
    (tmp_path / "bad.onnx").write_bytes(b"no model")
    cases = {
        ("missing.onnx",): "missing.onnx: no such model; expected an ONNX file, an artifact",
        ("bad.onnx",): "bad.onnx: not a valid ONNX model:",
        ("good.onnx", "good.onnx"): "profile: good.onnx is named twice;",
        ("good.onnx", "--data", "tiny:sequences"): "good.onnx: takes input tensor(float)",
        ("good.onnx", "--batch", "0"): "compress profile: Invalid value for '--batch'",
    }
    for arguments, message in cases.items():
        code, out, err = call("profile", *arguments)
        assert (code, out) == (2, "")
        assert message in err
        assert err.count("\n") == 1


def test_a_model_that_kills_its_process_is_one_line(
    call: Call, trained_onnx: Path, monkeypatch: pytest.MonkeyPatch
):
    kill = "import os, signal; os.kill(os.getpid(), signal.SIGSEGV)"
    monkeypatch.setattr("compress.measure.profile._PROGRAM", ("-c", kill))
    code, out, err = call("profile", trained_onnx)
    assert (code, out) == (1, "")
    assert err == f"compress: measuring {trained_onnx}: the process was killed by SIGSEGV.\n"


RECIPE = """
task: tiny:task
model: {name: cnn-small, widths: [8, 16], blocks: 1}
budget: {max_drop: 1.0, minimise: size}
stages:
  - train: {epochs: 1, batch_size: 24, precision: fp32}
  - quantize: {method: weight-only, samples: 32}
  - benchmark: {batch: [2, 1], threads: 1, workers: 1, rounds: 2, block_ms: 0.1, profile: true}
"""


def test_a_recipe_profiles_its_baseline_and_its_final_model(call: Call, tmp_path: Path):
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    code, _, err = call("run", "recipe.yaml", "--out", "run")
    assert code == 0, err
    report = load_report(tmp_path / "run" / "report.json")
    profiled = [arm.name for arm in report.arms if arm.profile is not None]
    assert profiled == [report.baseline, report.final] == ["1-train", "2-quantize"]
    assert report.arms[0].profile is not None
    assert report.arms[0].profile.batch == 2
    assert "2-quantize against 1-train" in (tmp_path / "run" / "report.html").read_text()

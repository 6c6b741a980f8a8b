"""`compress quantize` a second time: statistics of the calibration are used again.

Nothing is timed: all models are told to be as fast, so that the smallest is chosen.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import yaml

from compress import cli
from compress.artifact import load_artifact
from compress.data.task import Task
from compress.measure import latency
from compress.quantization import prepared
from compress.quantization.calibration import Statistics, shared

SETTINGS = [
    *["benchmark.batch=[1]", "benchmark.threads=1", "benchmark.workers=2"],
    *["benchmark.rounds=2", "benchmark.block_ms=0.1", "samples=16", "method=static"],
    *["--data", "npz:rows.npz", "--minimise", "size", "--max-drop", "1"],
]

Call = Callable[..., dict[str, Any]]


def as_fast_as_all(job: dict[str, Any], *_: object) -> Any:
    """What a worker would answer to which all models took as long."""
    if job["what"] == "footprint":
        return {"bytes": 2**20, "seconds": 1e-6}
    cell = {"batch": 1, "threads": 1, "length": None, "single_ns": [1000], "unstable": False}
    cell |= {"blocks_ns": [1000] * job["rounds"][0], "calls_per_block": 1}
    cell |= {"load_ns": 1, "first_call_ns": 1}
    cells = [cell | {"arm": arm["name"]} for arm in job["arms"]]
    order = [(1, None, [(arm["name"], 1) for arm in job["arms"]])]
    noise = {"seconds": 1.0, "calibration_ns": [9, 9]}
    found = {"cells": cells, "order": order, "noise": noise, "cpus": [0]}
    return found | {"rounds": job["rounds"]}


@pytest.fixture(autouse=True)
def _nothing_is_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(latency, "run_worker", as_fast_as_all)


@pytest.fixture
def passes(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Files that samples were run through."""
    found: list[Path] = []
    plain = shared.collect

    def counted(source: Path, *given: object, **settings: object) -> Statistics:
        found.append(source)
        return plain(source, *given, **settings)

    monkeypatch.setattr(shared, "collect", counted)
    return found


@pytest.fixture
def call(
    monkeypatch: pytest.MonkeyPatch, trained_onnx: Path, tiny_task: Task, tmp_path: Path
) -> Call:
    """The command in a folder with `net.onnx` and `rows.npz`; gives what the card says."""
    monkeypatch.chdir(tmp_path)
    Path("net.onnx").write_bytes(trained_onnx.read_bytes())
    np.savez("rows.npz", x=tiny_task.validation.inputs.numpy())

    def run(*arguments: str, out: str = "q", code: int = 0) -> dict[str, Any]:
        command = ["compress", "quantize", "net.onnx", *SETTINGS, *arguments, "--out", out]
        monkeypatch.setattr(sys, "argv", command)
        with pytest.raises(SystemExit) as stop:
            cli.main()
        assert int(stop.value.code or 0) == code
        if code:
            return {}
        found: dict[str, Any] = load_artifact(Path(out)).card.evidence["calibration"]
        return found

    return run


def test_another_method_needs_no_pass_and_gives_the_same_model(
    call: Call, passes: list[Path], capsys: pytest.CaptureFixture[str]
):
    first = call()
    assert (first["samples"], first["reused"], first["passes"]) == (16, False, 1)
    assert "earlier run" not in capsys.readouterr().out
    again = call("calibration=percentile", "percentile=95")
    assert (again["samples"], again["reused"], again["passes"]) == (16, True, 0)
    assert len(passes) == 1
    assert "calibration: statistics of an earlier run serve" in capsys.readouterr().out
    call("calibration=percentile", "percentile=95", out="fresh")
    assert len(passes) == 2
    models = [Path(folder, "model.onnx").read_bytes() for folder in ("q", "fresh")]
    assert models[0] == models[1]
    # A cache is none of the files that make a model what it is.
    assert load_artifact(Path("q")).identity == load_artifact(Path("fresh")).identity
    assert not list(Path().glob(".*"))


def test_another_model_and_other_samples_need_a_pass(call: Call, passes: list[Path]):
    call()
    assert call("samples=8")["reused"] is False
    assert call("--seed", "1")["reused"] is False
    model = onnx.load("net.onnx")
    (bias,) = [t for t in model.graph.initializer if list(t.dims) == [4]]
    bias.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(bias) + 1, bias.name))
    onnx.save(model, "net.onnx")
    assert call()["reused"] is False
    assert len(passes) == 4
    assert call()["reused"] is True


def test_a_truncated_file_is_told_and_made_anew(call: Call, passes: list[Path]):
    call()
    file = Path("q/calibration.npz")
    file.write_bytes(file.read_bytes()[:1000])
    found = call()
    assert (found["reused"], len(passes)) == (False, 2)
    assert found["note"].startswith("not used: q/calibration.npz: not saved statistics (")
    assert call()["reused"] is True


def test_what_does_not_calibrate_keeps_it_for_what_does(call: Call, passes: list[Path]):
    call()
    assert call("method=dynamic") == {}
    assert call()["reused"] is True
    assert len(passes) == 1


def test_after_a_refusal_it_is_there(call: Call, passes: list[Path]):
    call("--max-drop", "0", "--agreement", "error", code=1)
    assert not Path("q").exists()
    assert Path(".q.cache/calibration.npz").exists()
    assert call()["reused"] is True
    assert len(passes) == 1
    assert not Path(".q.cache").exists()


def test_after_an_interrupt_it_is_there(
    call: Call, passes: list[Path], monkeypatch: pytest.MonkeyPatch
):
    def interrupted(*given: object, **settings: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(prepared, "quantize_static_int8", interrupted)
        call(code=130)
    assert [path.name for path in Path().glob(".q*")] == [".q.cache"]
    assert call()["reused"] is True
    assert len(passes) == 1


def test_a_recipe_keeps_it_in_its_cache(
    passes: list[Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    monkeypatch.chdir(tmp_path)
    recipe = {
        "task": "tiny:task",
        "model": {"name": "cnn-small", "widths": [8, 16], "blocks": 1},
        "budget": {"max_drop": 1.0, "minimise": "size"},
        "stages": [
            {"train": {"epochs": 1, "patience": 0}},
            {"quantize": {"method": "static", "samples": 16}},
            {"benchmark": {"batch": [1], "workers": 2, "rounds": 2, "block_ms": 0.1}},
        ],
    }
    Path("r.yaml").write_text(yaml.safe_dump(recipe))

    def run(*overrides: str) -> dict[str, Any]:
        command = ["compress", "run", "r.yaml", "--out", "r", *overrides]
        monkeypatch.setattr(sys, "argv", command)
        with pytest.raises(SystemExit) as stop:
            cli.main()
        assert not stop.value.code
        found: dict[str, Any] = load_artifact(Path("r/2-quantize")).card.evidence["calibration"]
        return found

    assert run()["reused"] is False
    assert run("quantize.calibration=mse")["reused"] is True
    assert len(passes) == 1

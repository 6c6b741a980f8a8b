"""A run whose benchmark meets a model that cannot be measured: all else is kept, and it says so."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from compress import cli
from compress.errors import WorkerFailed
from compress.measure import processes
from compress.pipeline import Outcome, run
from compress.recipe import parse_recipe
from compress.report import load_report, render_html, render_markdown

RECIPE: dict[str, Any] = {
    "task": "tiny:task",
    "model": {"name": "cnn-small", "widths": [8, 16], "blocks": 1},
    "budget": {"max_drop": 1.0, "minimise": "size"},
    "stages": [
        {"train": {"epochs": 1, "batch_size": 24, "precision": "fp32"}},
        {"export": {"opset": 18}},
        {
            "prune": {
                "from": "train",
                "ratio": 0.3,
                "round_to": 4,
                "epochs": 1,
                "batch_size": 24,
                "precision": "fp32",
            }
        },
        {"benchmark": {"batch": 1, "threads": 1, "workers": 1, "rounds": 2, "block_ms": 0.2}},
    ],
}
#: A worker that is killed as soon as it loads a model of that name, as the kernel does it.
KILLED = """
import os, signal
from compress.measure import worker
load = worker._open
def killed(arm, *rest):
    if arm["name"] == NAME:
        os.kill(os.getpid(), signal.SIGKILL)
    return load(arm, *rest)
worker._open = killed
worker.main()
"""
REASON = "the process was killed by SIGKILL, as happens where memory runs out"


def killing(name: str) -> tuple[str, str]:
    return ("-c", KILLED.replace("NAME", repr(name)))


@pytest.fixture(scope="module")
def outcome(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Outcome]:
    """The run in which the pruned model's workers are killed."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(processes, "_WORKER", killing("3-prune"))
        yield run(parse_recipe(RECIPE), tmp_path_factory.mktemp("run") / "killed", command="again")
    torch.set_num_threads(threads)


def test_the_others_are_measured_and_one_of_them_is_final(outcome: Outcome):
    report = outcome.report
    assert report.failed == {"3-prune": REASON}
    assert f"3-prune: left out, {REASON}." in report.notes
    assert [arm.name for arm in report.arms if arm.latency] == ["1-train", "2-export"]
    assert report.comparison("2-export", "latency", 1) is not None
    sizes = {arm.name: arm.size_bytes for arm in report.arms}
    assert min(sizes, key=lambda name: sizes[name]) == "3-prune"  # it would be the final one
    assert report.final != "3-prune"
    assert outcome.exit_code != 0


def test_what_is_known_without_a_clock_is_kept(outcome: Outcome):
    arm = outcome.report.arm("3-prune")
    assert arm.quality is not None
    assert (arm.latency, arm.peak_memory_bytes) == ([], None)
    assert outcome.report.comparison("3-prune", "quality") is not None
    assert outcome.report.comparison("3-prune", "latency", 1) is None


def test_the_pages_say_so(outcome: Outcome):
    stored = load_report(outcome.folder / "report.json")
    assert stored.failed == {"3-prune": REASON}
    for page in (render_html(stored), render_markdown(stored)):
        assert "not timed" in page
        assert REASON in page


def test_the_command_says_so_and_does_not_end_with_0(
    outcome: Outcome,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):
    monkeypatch.setattr("compress.pipeline.run", lambda *_, **__: outcome)
    monkeypatch.setattr("compress.recipe.load_recipe", lambda *_: parse_recipe(RECIPE))
    monkeypatch.setattr(sys, "argv", ["compress", "run", "any.yaml"])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    assert stop.value.code in (1, 2)
    assert f"3-prune: left out, {REASON}.\n" in capsys.readouterr().out


@pytest.mark.parametrize(("status", "code"), [("met", 2), ("proven", 2), ("missed", 1)])
def test_the_exit_code(outcome: Outcome, status: str, code: int):
    assert outcome.report.budget is not None
    budget = outcome.report.budget.model_copy(update={"status": status})
    report = outcome.report.model_copy(update={"budget": budget})
    assert Outcome(outcome.folder, report, 0, 3).exit_code == code


def test_the_next_run_tries_it_again_and_makes_nothing_else(
    outcome: Outcome, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(processes, "_WORKER", ("-m", "compress.measure.worker"))
    again = run(parse_recipe(RECIPE), outcome.folder, command="again")
    assert (again.reused, again.report.failed, again.report.final) == (3, {}, "3-prune")
    monkeypatch.setattr(processes, "_WORKER", killing("1-train"))
    third = run(parse_recipe(RECIPE), outcome.folder, command="again")
    assert third.report == again.report  # stored: nothing was started that could be killed


def test_the_baseline_cannot_be_left_out(outcome: Outcome, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(processes, "_WORKER", killing("1-train"))
    (outcome.folder / "report.json").unlink()
    with pytest.raises(WorkerFailed) as caught:
        run(parse_recipe(RECIPE), outcome.folder, command="again")
    assert str(caught.value) == f"measuring 1-train: {REASON}."

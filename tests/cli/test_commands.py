"""Every command: what it writes, what it prints, its JSON, and its exit code."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from torch import nn

import compress
from compress import cli, gate
from compress.artifact import ONNX, Card, finish, load_artifact, writing
from compress.data.task import Task
from compress.gate import Look
from compress.models.build import count_parameters
from compress.models.references import REFERENCES, ModelSpec
from compress.pipeline import Outcome, timing
from compress.pipeline import check as pipeline_check
from compress.report import load_report
from compress.runtime.onnxruntime import Session

HERE = Path(__file__).parent
TINY = HERE / "tiny.yaml"
QUICK = ["batch=1", "threads=1", "workers=1", "rounds=2", "block_ms=0.1"]
FIT = ["epochs=1", "batch_size=8", "precision=fp32"]
COMMANDS = [
    *["run", "validate", "report", "train", "prune", "distill", "quantize", "export", "bench"],
    *["check", "profile"],
]


@dataclass
class Result:
    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        assert (self.code, self.err) == (0, "")
        return json.loads(self.out)


Call = Callable[..., Result]
Ran = tuple[Path, subprocess.CompletedProcess[str]]


@pytest.fixture
def call(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Call:
    """The command line in this process, in an empty folder."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: object) -> Result:
        monkeypatch.setattr(sys, "argv", ["compress", *map(str, arguments)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as stop:
            cli.main()
        return Result(stop.value.code, *capsys.readouterr())

    return run


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> Ran:
    """The tiny recipe, run by the installed command in a process of its own."""
    folder = tmp_path_factory.mktemp("cli") / "run"
    environment = {**os.environ, "PYTHONPATH": str(HERE.parent), "OMP_NUM_THREADS": "1"}
    command = [Path(sys.executable).with_name("compress"), "run", TINY, "--out", folder]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    return folder, done


@pytest.fixture
def base(
    trained: nn.Module,
    tiny_spec: ModelSpec,
    trained_onnx: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """The trained model of all tests as an artifact."""
    folder = tmp_path_factory.mktemp("artifact") / "base"
    with writing(folder) as scratch:
        shutil.copyfile(trained_onnx, scratch / ONNX)
        card = Card(kind="train", name="train", task="tiny:task", key="base", model=tiny_spec)
        finish(scratch, card, trained)
    return folder


def test_run_ends_with_the_table_and_the_path_of_the_report(ran: Ran):
    folder, done = ran
    assert done.returncode == 0, done.stderr
    report = load_report(folder / "report.json")
    lines = done.stdout.splitlines()
    header = "stage|precision|quality (test)|95 % interval|ms at 1|faster|ms at 2|faster"
    assert "|".join(re.split(r"  +", lines[0])).startswith(header)
    for arm in report.arms:
        (line,) = (line for line in lines if line.startswith(f"{arm.name} "))
        assert f"{arm.quality.value:.4f}" in line
        assert ("← final" in line) == (arm.name == report.final)
    assert lines[-1] == f"report: {folder / 'report.html'}"
    assert f"budget {report.budget.status}: {report.budget.explanation}" in lines
    told = done.stderr.splitlines()
    assert [line.split()[:2] for line in told] == [
        [f"[{number}/7]", name]
        for number, name in enumerate(
            ["train", "prune", "distill", "quantize", "student", "alone", "export"], start=1
        )
    ]
    assert report.command == f"compress run {TINY} --out {folder}"


def test_run_again_is_done_before_and_json_is_the_report(ran: Ran, call: Call):
    folder, _ = ran
    found = call("run", TINY, "--out", folder, "--json")
    assert found.json == json.loads((folder / "report.json").read_text())
    plain = call("run", TINY, "--out", folder)
    assert re.search(r"^\d+ s, 7 of 7 stages were done before$", plain.out, re.MULTILINE)
    assert plain.err.count("done before") == 7


def test_a_missed_budget_is_exit_code_1(
    ran: Ran,
    call: Call,
    monkeypatch: pytest.MonkeyPatch,
):
    folder, _ = ran
    report = load_report(folder / "report.json")
    budget = report.budget.model_copy(update={"status": "missed", "explanation": "Too far."})
    missed = Outcome(folder, report.model_copy(update={"budget": budget}), 0, 7)
    monkeypatch.setattr("compress.pipeline.run", lambda *_, **__: missed)
    found = call("run", TINY)
    assert found.code == 1
    assert "budget missed: Too far." in found.out
    assert call("run", TINY, "--json").code == 1


def test_report_renders_the_pages_anew(ran: Ran, call: Call, tmp_path: Path):
    folder, _ = ran
    shutil.copyfile(folder / "report.json", tmp_path / "report.json")
    found = call("report", tmp_path)
    assert (found.code, found.out) == (0, f"report: {tmp_path / 'report.html'}\n")
    for page in ("report.html", "report.md"):
        assert (tmp_path / page).read_bytes() == (folder / page).read_bytes()
    assert call("report", tmp_path / "report.json", "--json").json == (
        json.loads((folder / "report.json").read_text())
    )


def test_train_with_cross_validation(call: Call, tmp_path: Path, tiny_task: Task):
    found = call(
        "train", "tiny:model", "model.width=4", *FIT, "folds=2", "--data", "tiny:task", "--out", "t"
    )
    assert (found.code, found.err) == (0, "")
    artifact = load_artifact(tmp_path / "t")
    folds = artifact.card.evidence["cross_validation"]
    assert len(folds["folds"]) == 2
    assert folds["mean"] == pytest.approx(np.mean(folds["folds"]))
    assert folds["deviation"] == pytest.approx(np.std(folds["folds"], ddof=1))
    count = count_parameters(artifact.load_model())
    assert f"  parameters {count:,}\n" in found.out
    assert "  cross-validation " in found.out
    assert artifact.card.model.config == {"width": 4}
    assert [path.name for path in tmp_path.iterdir()] == ["t"]


def test_prune(call: Call, base: Path, tmp_path: Path):
    card = call(
        "prune", base, "ratio=0.3", "round_to=4", "epochs=0", "--out", "p", "--seed", 3, "--json"
    ).json
    before, after = card["evidence"]["parameters"]
    assert after < before == 5020
    assert count_parameters(load_artifact(tmp_path / "p").load_model()) == after
    origin = load_artifact(base).identity
    assert (card["kind"], card["seed"], card["parents"]["from"]) == ("prune", 3, origin)


def test_distill_into_a_new_student_and_into_an_artifact(call: Call, base: Path, tmp_path: Path):
    found = call(
        "distill", base, "tiny:model", "model.width=4", *FIT, "views=1", "--out", "student"
    )
    assert (found.code, found.err) == (0, "")
    assert found.out.startswith("student: distill done in ")
    student = load_artifact(tmp_path / "student")
    assert student.card.model.config == {"width": 4}
    more = call(
        "distill", base / ONNX, "student", *FIT, "views=1", "--data", "tiny:task", "--out", "more",
        "--json",
    ).json  # fmt: skip
    assert more["parents"]["from"] == student.identity
    assert more["model"] == student.card.model.model_dump(mode="json")


def test_quantize(call: Call, base: Path, tmp_path: Path):
    quick = [f"benchmark.{setting}" for setting in QUICK]
    found = call(
        *["quantize", base, "method=weight-only", *quick],
        *["--minimise", "size", "--max-drop", 1, "--out", "q"],
    )
    assert (found.code, found.err) == (0, "")
    assert re.search(r"^  kept    weight-only .* × as fast .* smallest within", found.out, re.M)
    assert re.search(r"^q +fp32, int8 weights +.* ← final|^q ← final", found.out, re.M)
    assert found.out.endswith("report: q/report.html\n")
    assert re.search(r"^  refused the input .* weight-only is faster or smaller$", found.out, re.M)
    card = load_artifact(tmp_path / "q").card
    assert card.evidence["operators"]["Conv"] == {"fp32, int8 weights": 4, "fp32": 2}
    assert card.evidence["size_bytes"] == [
        (base / ONNX).stat().st_size,
        (tmp_path / "q" / ONNX).stat().st_size,
    ]


def test_export(call: Call, base: Path, tmp_path: Path, tiny_task: Task):
    found = call("export", base, "out/model.onnx", "opset=18", "--json").json
    assert found["opset"] == 18
    rows = tiny_task.test.inputs.numpy()
    np.testing.assert_allclose(
        Session(tmp_path / "out" / "model.onnx").run(rows),
        Session(base / ONNX).run(rows),
        rtol=1e-4,
        atol=1e-4,
    )
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["model.onnx"]
    versions = onnx.load(tmp_path / "out" / "model.onnx").opset_import
    assert [entry.version for entry in versions if not entry.domain] == [18]


def test_bench_without_and_with_data(call: Call, base: Path, tmp_path: Path):
    bare = call("bench", base, base / ONNX, *QUICK, "--json").json
    assert [arm["name"] for arm in bare["arms"]] == [str(base), str(base / ONNX)]
    assert all(arm["quality"] is None and arm["latency"] for arm in bare["arms"])
    assert bare["notes"] == ["No data was given: inputs are random, accuracy was not measured."]
    found = call("bench", base, base / ONNX, *QUICK, "--data", "tiny:task", "--out", "b")
    assert (found.code, found.err) == (0, "")
    assert found.out.endswith("report: b/report.html\n")
    report = load_report(tmp_path / "b" / "report.json")
    quality = report.comparison(str(base / ONNX), "quality")
    assert (quality.difference, quality.n) == (0.0, 60)
    assert report.arms[0].quality.value > 0.5
    assert report.measurement["workers"] == 1


def test_bench_goes_on_without_an_arm_that_fails(call: Call, base: Path, tmp_path: Path):
    model = onnx.load(base / ONNX)
    model.graph.input[0].type.tensor_type.shape.dim[1].dim_value = 3  # what its weights do not take
    onnx.save(model, tmp_path / "odd.onnx")
    arms = (f"{base}@torch", "odd.onnx", base)
    found = call("bench", *arms, *QUICK, "--data", "tiny:task", "--out", "b")
    assert (found.code, found.err) == (2, "")
    *_, note, last = found.out.splitlines()
    assert note.startswith("odd.onnx: left out, ")
    assert last == "report: b/report.html"
    report = load_report(tmp_path / "b" / "report.json")
    assert [arm.name for arm in report.arms] == [f"{base}@torch", str(base)]
    assert [arm.runtime for arm in report.arms] == ["torch", "onnxruntime"]
    assert report.failed.keys() == {"odd.onnx"}


@pytest.mark.parametrize(
    ("verdict", "extra", "code"),
    [
        ("ok", [], 0),
        ("improved", [], 0),
        ("regressed", [], 1),
        ("inconclusive", [], 3),
        ("inconclusive", ["--inconclusive", "pass"], 0),
        ("regressed", ["--inconclusive", "pass"], 1),
    ],
)
def test_check_ends_with_the_verdict_and_its_code(
    call: Call,
    base: Path,
    monkeypatch: pytest.MonkeyPatch,
    verdict: str,
    extra: list[str],
    code: int,
):
    verdicts = [(dict.fromkeys((1, 2), verdict) if verdict != "inconclusive" else {})] * 3
    monkeypatch.setattr(pipeline_check, "decide", lambda *_: verdicts.pop())
    monkeypatch.setattr(timing, "machine_is_fit", lambda *_: True)
    monkeypatch.setattr(gate, "LOOKS", (Look(1, 1.0), Look(2, 1.0)))
    words = ["--batch", 1, "--batch", 2, "rounds=2", "warm_up_s=0.01", *extra, "--out", "gate"]
    found = call("check", base, base / ONNX, *words)
    lines = found.out.splitlines()
    assert (found.code, found.err) == (
        code,
        "1 or 2 processes, as many as a verdict needs\n",
    )
    assert re.split(r"  +", lines[0]) == ["Compared", "Baseline", "Candidate", "Change", "Verdict"]
    rows = [re.split(r"  +", line) for line in lines[2:5]]
    assert [(row[0], row[-1]) for row in rows] == [
        ("Latency, batch 1", verdict),
        ("Latency, batch 2", verdict),
        ("File", "ok"),
    ]
    assert lines[-3].startswith(f"{verdict}: ")
    assert lines[-2].startswith("No data was given: accuracy was not compared")
    assert lines[-1] == "report: gate/report.html"
    assert load_report(Path("gate/report.json")).gate.verdict == verdict


def test_validate(call: Call, tmp_path: Path):
    (tmp_path / "bad.yaml").write_text("task: mnits\nmodel: cnn\nstages: [train]\n")
    assert call("validate", TINY).out == f"{TINY}: ok\n"
    found = call("validate", "bad.yaml", TINY)
    known = "co2, kjv, mnist, reviews, spoken-digits"
    line = f"task: No task named 'mnits'. Known: {known}. Did you mean 'mnist'?"
    assert (found.code, found.out) == (2, f"bad.yaml: {line}\n{TINY}: ok\n")
    assert json.loads(call("validate", "bad.yaml", TINY, "--json").out) == {"bad.yaml": [line]}
    assert call("validate", TINY, "--json").json == {}


def test_a_gate_file_is_checked_and_validated(call: Call, base: Path):
    entry = "{compare: candidate, with: baseline, metric: %s}"
    bounds = ["size, at_most: same", "size, at_most: 0.5", "accuracy, max_drop: 0.5"]
    Path("gates.yaml").write_text(f"gates: [{', '.join(entry % bound for bound in bounds)}]")
    assert call("validate", "gates.yaml").out == "gates.yaml: ok\n"
    found = call("check", base, base, "--gates", "gates.yaml", "--data", "tiny:task")
    lines = [re.split(r"  +", line) for line in found.out.splitlines()]
    assert (found.code, found.err) == (1, "")
    assert lines[0] == ["Gate", "Promised", "Found", "Outcome"]
    assert [(line[0], line[1], line[-1]) for line in lines[2:5]] == [
        ("candidate size", "at most baseline's", "kept"),
        ("candidate size", "at most 0.5 × baseline", "broken"),
        ("candidate accuracy", "at most 0.5 worse than baseline", "kept"),
    ]
    assert lines[5][0].startswith("regressed: of 3 gates 2 kept, 1 broken. Broken: candidate size")
    again = call("check", base, base, "--gates", "gates.yaml", "--data", "tiny:task", "--json")
    assert [promise["outcome"] for promise in json.loads(again.out)["promises"]] == [
        "kept",
        "broken",
        "kept",
    ]
    Path("gates.yaml").write_text("gates: [{compare: a, metric: siz, at_most: 9}]")
    assert call("validate", "gates.yaml").code == 2


def test_list_and_doctor(call: Call, tmp_path: Path):
    (tmp_path / "recipes").mkdir()
    (tmp_path / "recipes" / "a.yaml").write_text("# What it is for.\ntask: x\n")
    everything = call("list", "--json").json
    assert everything.keys() == {"models", "data", "recipes"}
    assert everything["models"].keys() == REFERENCES.keys()
    assert everything["recipes"] == {"recipes/a.yaml": "What it is for."}
    assert "mnist" in call("list", "data").out
    facts = call("doctor", "--json").json
    assert facts["cuda"] == torch.cuda.is_available()
    assert facts["versions"]["torch"]
    assert facts["reference data"] == dict.fromkeys(everything["data"], True)
    assert call("doctor").out.startswith("processor ")


@pytest.mark.parametrize("command", ["", *COMMANDS, "list", "doctor"])
def test_help(call: Call, command: str):
    found = call(*command.split(), "--help")
    assert (found.code, found.err) == (0, "")
    assert f"compress {command}".strip() + " [OPTIONS]" in found.out.replace(
        ".compress", " compress"
    )
    assert call(*command.split(), "-h").out == found.out


def test_help_and_mistakes_load_no_framework():
    script = (
        "import sys; from compress import cli\n"
        "for line in (['--help'], ['run', '--help'], ['nonsense'], ['validate', sys.argv[1]]):\n"
        "    sys.argv[1:] = line\n"
        "    try: cli.main()\n"
        "    except SystemExit: pass\n"
        "print({'torch', 'onnx', 'onnxruntime', 'sklearn', 'scipy', 'numpy'} & set(sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, TINY], capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines()[-1] == "set()"


def test_the_public_names_are_there():
    for name in compress.__all__:
        assert getattr(compress, name) is not None
    with pytest.raises(AttributeError, match="has no attribute 'nonsense'"):
        _ = compress.nonsense

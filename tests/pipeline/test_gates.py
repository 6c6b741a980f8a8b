"""Gates of a file on latencies that are given, and once through real workers."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from scipy.special import softmax
from sklearn.metrics import f1_score, log_loss
from test_check import write

from compress.data.task import Task
from compress.errors import InputError, RecipeError, ShapeMismatch
from compress.measure.config import BenchConfig
from compress.measure.latency import CONTROL, Measured
from compress.pipeline import gates as pipeline
from compress.pipeline import promises, timing
from compress.pipeline.gates import check_gates
from compress.recipe.gate_file import load_gates
from compress.report import render_html, render_markdown
from compress.report.schema import Report
from compress.runtime.onnxruntime import Session

MODELS = "models: {old: old.onnx, new: new.onnx}\n"
LATENCY = "{{compare: new, with: old, metric: latency, batch: {}, at_most: {}}}"


class Machine:
    """Stands for `measure`: each model's time, which every worker finds within 0.2 %."""

    def __init__(self, **times: float) -> None:
        self.times, self.asked = {CONTROL: times["old"], **times}, list[int]()
        self.configs = list[BenchConfig]()

    def measure(
        self, files: dict[str, Path], config: BenchConfig, *, first: int, **_: object
    ) -> Measured:
        self.asked.append(config.workers)
        self.configs.append(config)
        places = np.arange(first, first + config.workers)
        strays = 0.002 * (1 + places / 100) * np.where(places % 2, 1, -1)
        blocks = {}
        for batch in config.batch:
            for number, arm in enumerate([*files, CONTROL]):
                rows = 1e6 * self.times[arm] * np.exp(number * strays)[:, None]
                blocks[arm, batch, config.threads[0], config.lengths[0]] = rows * np.ones(
                    (1, config.rounds)
                )
        return Measured(blocks, dict.fromkeys(blocks, config.workers))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write(tmp_path / "old.onnx", products=3)
    write(tmp_path / "new.onnx", products=1)
    return tmp_path


def run(folder: Path, gates: str, data: str | None = None, **settings: object) -> Report:
    path = folder / "gates.yaml"
    path.write_text(MODELS + "gates:\n" + "".join(f"  - {line}\n" for line in gates.split("\n")))
    return check_gates(load_gates(path, {}, data), **settings)


def outcomes(report: Report) -> list[str]:
    return [promise.outcome for promise in report.promises]


@pytest.mark.parametrize(
    ("bound", "outcome", "verdict"),
    [(0.5, "kept", "ok"), (0.3, "broken", "regressed"), (0.4, "inconclusive", "inconclusive")],
)
def test_a_ratio_is_tested_against_its_own_bound(
    bound: float, outcome: str, verdict: str, folder: Path, monkeypatch: pytest.MonkeyPatch
):
    machine = Machine(old=1.0, new=0.4)
    monkeypatch.setattr(timing, "measure", machine.measure)
    report = run(folder, LATENCY.format(1, bound))
    (promise,) = report.promises
    assert (promise.outcome, report.gate.verdict) == (outcome, verdict)
    assert promise.value == pytest.approx(0.4, rel=0.01)
    assert promise.promised == f"at most {bound} × old"
    assert machine.asked == ([8, 4, 6] if outcome == "inconclusive" else [8])
    assert promise.reason == ("18 processes cannot tell" if outcome == "inconclusive" else "")


def test_three_gates_take_twelve_processes_at_once(folder: Path, monkeypatch: pytest.MonkeyPatch):
    machine, told = Machine(old=1.0, new=0.4), list[str]()
    monkeypatch.setattr(timing, "measure", machine.measure)
    lines = "\n".join(LATENCY.format(batch, 0.5) for batch in (1, 8, 32))
    report = run(folder, lines, tell=told.append)
    assert outcomes(report) == ["kept"] * 3
    assert machine.asked == [12]  # 2⁻⁸ is above 0.01 / 3
    assert told == ["3 latency gates: 12 or 18 processes, as many as a verdict needs"]


def test_the_file_says_how_latencies_are_taken(folder: Path, monkeypatch: pytest.MonkeyPatch):
    machine, path = Machine(old=1.0, new=0.4), folder / "gates.yaml"
    monkeypatch.setattr(timing, "measure", machine.measure)
    cpu = min(os.sched_getaffinity(0))
    timed = f"affinity: {cpu}\nwarm_up_s: 0.3\ntimeout: 20\n"
    path.write_text(f"{MODELS}{timed}gates: [{LATENCY.format(4, 0.5)}]")
    report = check_gates(load_gates(path, {}))
    (config,) = machine.configs
    assert (config.affinity, config.warm_up_s, config.timeout) == ((cpu,), 0.3, 20.0)
    assert (config.batch, config.warm_up_cap_s) == ((4,), 1.0)
    settings = {name: report.recipe[name] for name in ("affinity", "warm_up_s", "margin")}
    assert settings == {"affinity": [cpu], "warm_up_s": 0.3, "margin": 0.05}
    missing = "models: {old: no.onnx, new: no.onnx}\naffinity: [9999]\n"
    path.write_text(f"{missing}gates: [{LATENCY.format(1, 1)}]")
    with pytest.raises(InputError, match=r"affinity: CPUs \[9999\] are not among"):
        check_gates(load_gates(path, {}))


def test_another_machine_is_skipped_and_nothing_passes_by_that(
    folder: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(timing, "measure", None)
    gate = LATENCY.format(1, 0.5)[:-1] + ", only_on: [amx_int8]}"
    facts = pipeline.machine() | {"instruction_sets": []}
    monkeypatch.setattr(pipeline, "machine", lambda: facts)
    report = run(folder, gate)
    (promise,) = report.promises
    assert (promise.outcome, promise.reason) == ("skipped", "this processor has no amx_int8")
    assert report.gate.verdict == "inconclusive"
    assert report.gate.explanation == "inconclusive: of 1 gate 1 skipped."
    both = run(folder, gate + "\n{compare: new, with: old, metric: size, at_most: 1}")
    assert (outcomes(both), both.gate.verdict) == (["skipped", "kept"], "ok")
    text = render_markdown(both)
    assert "✅ **No regression. 1 of 2 gates kept**" in text
    assert "| new latency, batch 1 | at most 0.5 × old | – | **skipped**<br>this processor" in text
    assert "<h2>Gates</h2>" in render_html(both)


def test_an_unfit_machine_decides_no_latency(folder: Path, monkeypatch: pytest.MonkeyPatch):
    machine = Machine(old=1.0, new=0.4)
    machine.times[CONTROL] = 1.1
    monkeypatch.setattr(timing, "measure", machine.measure)
    report = run(folder, LATENCY.format(1, 0.5))
    assert report.promises[0].reason == "the machine is unfit"
    assert report.gate.explanation.endswith("the baseline against itself came out at 1.100 ×.")


def test_exact_gates(folder: Path):
    small, large = ((folder / f"{name}.onnx").stat().st_size for name in ("new", "old"))
    gates = f"""{{compare: new, with: old, metric: size, at_most: same}}
{{compare: new, with: old, metric: size, at_least: same}}
{{compare: new, with: old, metric: size, at_most: {small / large}}}
{{compare: new, metric: size, at_most: {small}}}
{{compare: new, metric: size, at_most: {small - 1}}}
{{compare: new, with: old, metric: operators, precision: fp32, at_least: same}}
{{compare: new, with: old, metric: operators, precision: int8, at_least: same}}
{{compare: new, metric: operators, type: MatMul, precision: fp32, at_most: 1}}
{{compare: new, with: old, metric: outputs, at_most: 0}}"""
    report = run(folder, gates)
    assert outcomes(report) == ["kept", "broken", "kept", "kept", "broken", "broken", "kept",
                                "kept", "kept"]  # fmt: skip
    found = [promise.found for promise in report.promises]
    assert found[0] == f"{small / large:.3f} × ({small:,} of {large:,})"
    assert found[3] == f"{small:,}"
    assert found[5] == "MatMul 3 → 1"
    assert found[6] == "0, type by type the same"
    assert [promise.metric for promise in report.promises[5:8]] == [
        "operators in fp32",
        "operators in int8",
        "MatMul in fp32",
    ]


def test_what_cannot_be_decided_is_refused_before_anything_is_timed(
    folder: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(timing, "measure", None)
    with pytest.raises(RecipeError) as stop:
        run(folder, "{compare: new, metric: parameters, at_most: 9}")
    assert stop.value.errors == [
        f"gates[0]: the parameters of 'new' are not known: {folder / 'new.onnx'} has no card that "
        "tells them; name the artifact's folder."
    ]
    with pytest.raises(RecipeError, match=r"gates\[0\].type: no operator 'Cnv'.*mean 'Conv'"):
        run(folder, "{compare: new, metric: operators, type: Cnv, precision: int8, at_most: 9}")
    (folder / "new.onnx").unlink()
    with pytest.raises(RecipeError, match=r"gates.yaml: models.new: .*new.onnx: no such file"):
        run(folder, LATENCY.format(1, 0.5))
    write(folder / "new.onnx", name="x")
    with pytest.raises(ShapeMismatch, match="take different inputs"):
        run(folder, LATENCY.format(1, 0.5))


def shifted(trained: Path, logit: float) -> onnx.ModelProto:
    """The trained model, but so much more for the first class."""
    model = onnx.load(trained)
    head = next(node for node in model.graph.node if node.op_type == "Gemm")
    (bias,) = (entry for entry in model.graph.initializer if entry.name == head.input[2])
    values = numpy_helper.to_array(bias) + np.array([logit, 0, 0, 0], np.float32)
    bias.CopyFrom(numpy_helper.from_array(values, bias.name))
    return model


def test_gates_on_quality(trained_onnx: Path, tmp_path: Path):
    onnx.save(onnx.load(trained_onnx), tmp_path / "old.onnx")
    onnx.save(shifted(trained_onnx, 50.0), tmp_path / "new.onnx")
    gates = """{compare: new, with: old, metric: accuracy, max_drop: 0.1}
{compare: old, with: new, metric: quality, max_drop: 0.1}
{compare: new, with: old, metric: accuracy, max_drop: 3.0, relative: true}
{compare: old, metric: accuracy, at_least: 0.5}
{compare: new, metric: accuracy, at_least: 0.9}
{compare: new, with: old, metric: macro_f1, max_drop: 0.1}
{compare: old, with: new, metric: cross_entropy, max_drop: 0.1}
{compare: new, with: old, metric: outputs, at_most: 0.1}"""
    report = run(tmp_path, gates, data="tiny:task")
    assert outcomes(report) == ["broken", "kept", "kept", "kept", "broken", "broken", "kept",
                                "broken"]  # fmt: skip
    old, new = report.arms
    f1 = report.promises[5]
    drop = old.quality.details["macro_f1"] - new.quality.details["macro_f1"]
    assert f1.value == pytest.approx(drop)
    assert f1.interval[0] < drop < f1.interval[1]
    assert f1.n == old.quality.n
    known = "Known: quality, accuracy, cross_entropy, macro_f1"
    with pytest.raises(RecipeError, match=f"has no metric 'perplexity'. {known}"):
        run(tmp_path, "{compare: new, with: old, metric: perplexity, max_drop: 1}", "tiny:task")


def test_bounds_on_further_metrics(trained_onnx: Path, tmp_path: Path, tiny_task: Task):
    for name in ("old", "new"):
        onnx.save(shifted(trained_onnx, 2.0), tmp_path / f"{name}.onnx")
    outputs = Session(tmp_path / "new.onnx").run(tiny_task.test.inputs.numpy())
    targets = tiny_task.test.targets.numpy()
    f1 = f1_score(targets, outputs.argmax(axis=1), average="macro")
    assert 0.5 < f1 < 1
    gates = f"""{{compare: new, metric: macro_f1, at_least: 0.3}}
{{compare: new, metric: macro_f1, at_least: {f1}}}
{{compare: new, metric: macro_f1, at_most: 0.3}}
{{compare: new, metric: cross_entropy, at_most: 9}}
{{compare: new, metric: cross_entropy, at_least: 9}}
{{compare: new, metric: accuracy, at_least: 0.3}}"""
    report = run(tmp_path, gates, data="tiny:task")
    assert outcomes(report) == ["kept", "inconclusive", "broken", "kept", "broken", "kept"]
    found, loss = report.promises[1], report.promises[3]
    assert (found.value, found.n, found.baseline) == (pytest.approx(f1), 60, None)
    assert found.interval[0] < f1 < found.interval[1]
    assert found.promised == f"at least {f1:g}"
    assert loss.value == pytest.approx(log_loss(targets, softmax(outputs, axis=1)), rel=1e-4)
    accuracy = report.arm("new").quality
    assert report.promises[5].interval == pytest.approx(accuracy.interval)


def test_what_no_resample_can_tell_is_not_kept(
    trained_onnx: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    for name in ("old", "new"):
        (tmp_path / f"{name}.onnx").write_bytes(trained_onnx.read_bytes())
    monkeypatch.setattr(promises, "metric_level", lambda *_: (1.0, (1.0, 1.0), 60))
    report = run(tmp_path, "{compare: new, metric: macro_f1, at_least: 0.9}", data="tiny:task")
    (found,) = report.promises
    assert found.outcome == "inconclusive"
    assert found.reason == "no resample of 60 samples differs: they cannot tell how sure this is"
    below = run(tmp_path, "{compare: new, metric: accuracy, at_most: 0.9}", data="tiny:task")
    assert outcomes(below) == ["broken"]


def test_through_real_workers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("compress.gate.LOOKS", pipeline_looks())
    write(tmp_path / "old.onnx", products=8, width=256)
    write(tmp_path / "new.onnx", products=2, width=256)
    report = run(tmp_path, LATENCY.format(16, 0.6), out=tmp_path / "out")
    assert outcomes(report) == ["kept"]
    assert Report.model_validate_json((tmp_path / "out/report.json").read_bytes()) == report


def pipeline_looks() -> tuple[object, ...]:
    """One look at two processes: enough to see that all parts fit together."""
    from compress.gate import Look

    return (Look(2, 1.0),)

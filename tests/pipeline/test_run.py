"""A whole run of the tiny recipe: stopped in every stage, resumed, reused, damaged and mended."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
import torch
import yaml

from compress.artifact import load_artifact
from compress.data.task import Task
from compress.errors import InputError, NoEffect
from compress.models.build import count_macs, count_parameters
from compress.pipeline import Outcome, run
from compress.pipeline import benchmark as benchmark_module
from compress.recipe import load_recipe
from compress.runtime.onnxruntime import Session
from compress.training import precision

TINY = Path(__file__).parents[1] / "cli" / "tiny.yaml"
NAMES = ["train", "prune", "distill", "quantize", "student", "alone", "export"]
FOLDERS = [f"{number}-{name}" for number, name in enumerate(NAMES, start=1)]


@dataclass
class Attempt:
    """One call of `run`: what it told, and what it ended with."""

    made: list[str] = field(default_factory=list)
    reused: list[str] = field(default_factory=list)
    stopped_in: str = ""
    there: list[str] = field(default_factory=list)
    outcome: Outcome | None = None


def attempt(folder: Path, *overrides: str, stop_after: int | None = None) -> Attempt:
    """Run the tiny recipe; Ctrl-C at the first sign of progress behind so many stages."""
    found = Attempt()

    def progress(label: str, done: int, total: int) -> None:
        assert 1 <= done <= total
        if stop_after is not None and len(found.made) + len(found.reused) >= stop_after:
            found.stopped_in = label
            raise KeyboardInterrupt

    def tell(stage: Any, artifact: Any, was_there: bool) -> None:
        assert artifact.card.name == stage.name
        (found.reused if was_there else found.made).append(stage.name)

    recipe = load_recipe(TINY, overrides)
    try:
        found.outcome = run(recipe, folder, command="again", progress=progress, on_stage=tell)
    except KeyboardInterrupt:
        assert stop_after is not None
    found.there = sorted(path.name for path in folder.iterdir() if path.is_dir())
    return found


@pytest.fixture(scope="module", autouse=True)
def steady() -> Iterator[None]:
    """One thread, and the memory layout of training not chosen by the clock."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(precision, "WORTHWHILE", float("inf"))
        yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def attempts(tmp_path_factory: pytest.TempPathFactory) -> list[Attempt]:
    """Stopped in stage 1, then in stage 2, …, in the benchmark, and at last left to end."""
    folder = tmp_path_factory.mktemp("run") / "tiny"
    stops = [attempt(folder, stop_after=number) for number in range(len(NAMES) + 1)]
    return [*stops, attempt(folder)]


@pytest.fixture(scope="module")
def finished(attempts: list[Attempt]) -> Outcome:
    assert attempts[-1].outcome is not None
    return attempts[-1].outcome


@pytest.fixture
def copied(finished: Outcome, tmp_path: Path) -> Path:
    """The finished run, with equal times, for a test to change."""
    return Path(shutil.copytree(finished.folder, tmp_path / "copy"))


def times(folder: Path, names: list[str]) -> dict[str, int]:
    paths = (path for name in names for path in (folder / name).rglob("*"))
    return {str(path.relative_to(folder)): path.stat().st_mtime_ns for path in paths}


def weights(folder: Path) -> bytes:
    return (folder / "model.safetensors").read_bytes()


def test_what_this_machine_cannot_measure_is_told_before_the_first_stage(tmp_path: Path):
    with pytest.raises(InputError, match=r"affinity: CPUs \[9999\] are not among those allowed"):
        attempt(tmp_path / "run", "benchmark.affinity=[9999]")
    assert not (tmp_path / "run").exists()


def test_metrics_beside_the_budget_are_told_with_their_intervals(finished: Outcome):
    report = finished.report
    (note,) = (note for note in report.notes if note.startswith("Beside the budget, "))
    assert f"{report.final} against {report.baseline} on the test split" in note
    assert "macro_f1 drop" in note
    assert "cross_entropy rise" in note


def test_a_stop_in_any_stage_keeps_the_finished_ones(attempts: list[Attempt]):
    answers = "teacher's answers"
    assert [entry.stopped_in for entry in attempts] == [
        "training",
        "recovery",
        answers,
        "calibration",
        answers,
        "training",
        "benchmark",  # an export tells nothing of its progress
        "benchmark",
        "",
    ]
    for number, entry in enumerate(attempts[:6]):
        assert [name for name in entry.there if name != ".cache"] == FOLDERS[:number]
        assert entry.reused + entry.made == NAMES[:number]
    for entry in attempts[6:]:
        assert [name for name in entry.there if name != ".cache"] == FOLDERS
    assert [entry.made for entry in attempts] == [
        [],
        *([name] for name in NAMES[:5]),
        NAMES[5:],
        [],
        [],
    ]


def test_the_last_run_makes_nothing_but_the_report(attempts: list[Attempt], finished: Outcome):
    assert attempts[-1].reused == NAMES
    assert (finished.reused, finished.stages) == (7, 7)
    assert yaml.safe_load((finished.folder / "recipe.yaml").read_text()) == (
        load_recipe(TINY).resolved()
    )


def test_a_second_run_makes_and_measures_nothing(
    finished: Outcome, monkeypatch: pytest.MonkeyPatch
):
    before = times(finished.folder, FOLDERS)
    report = (finished.folder / "report.json").read_bytes()
    monkeypatch.setattr("compress.pipeline.runner.load_task", lambda name: pytest.fail("loaded"))
    again = attempt(finished.folder)
    assert again.reused == NAMES
    assert times(finished.folder, FOLDERS) == before
    assert (finished.folder / "report.json").read_bytes() == report
    assert again.outcome is not None
    assert again.outcome.report == finished.report


def test_a_changed_setting_reruns_that_stage_and_what_follows(finished: Outcome, copied: Path):
    others = [name for name in FOLDERS if name not in ("3-distill", "4-quantize")]
    before = times(copied, others)
    found = attempt(copied, "distill.alpha=0.5")
    assert found.made == ["distill", "quantize"]
    assert times(copied, others) == before == times(finished.folder, others)
    assert weights(copied / "3-distill") != weights(finished.folder / "3-distill")
    assert found.outcome is not None
    assert found.outcome.report.key != finished.report.key
    assert json.loads((copied / "4-quantize" / "card.json").read_text())["parents"]["from"] == (
        load_artifact(copied / "3-distill").identity
    )


def test_what_is_damaged_is_made_again_with_identical_weights(finished: Outcome, copied: Path):
    raw = weights(copied / "1-train")
    (copied / "1-train" / "model.safetensors").write_bytes(raw[:-1] + b"\xaa")
    (copied / "2-prune" / "card.json").write_text("{")
    (copied / "3-distill" / "model.onnx").unlink()
    shutil.rmtree(copied / "5-student")
    leftover = copied / ".5-student.999999999.partial"  # of a process that was killed
    leftover.mkdir()
    others = ["4-quantize", "6-alone", "7-export"]
    before = times(copied, others)
    found = attempt(copied)
    assert found.made == ["train", "prune", "distill", "student"]
    assert times(copied, others) == before
    assert not leftover.exists()
    for name in ("1-train", "2-prune", "3-distill", "5-student"):
        assert weights(copied / name) == weights(finished.folder / name)
        assert load_artifact(copied / name).card.files == (
            load_artifact(finished.folder / name).card.files
        )


def test_a_stage_without_effect_is_an_error_with_its_name(
    finished: Outcome, copied: Path, monkeypatch: pytest.MonkeyPatch
):
    def prune(*_: object, **__: object) -> None:
        raise NoEffect("pruning removed no parameter.")

    monkeypatch.setattr("compress.pipeline.stages.prune", prune)
    with pytest.raises(NoEffect, match="removed no parameter") as caught:
        attempt(copied, "prune.ratio=0.2")
    assert caught.value.__notes__ == ["stage 2 (prune)"]
    assert weights(copied / "2-prune") == weights(finished.folder / "2-prune")


def test_a_stage_that_needs_weights_says_which_stage_has_none(copied: Path):
    with pytest.raises(InputError) as caught:
        attempt(copied, "export.from=quantize")
    assert caught.value.__notes__ == ["stage 7 (export)"]
    assert str(caught.value).startswith(
        f"{copied / '4-quantize'}: holds an ONNX file and no torch weights; "
    )


def test_every_card_carries_its_evidence(finished: Outcome, tiny_task: Task):
    sample = (tiny_task.train.inputs[:1],)
    cards, identities = {}, {}
    for name in FOLDERS:
        artifact = load_artifact(finished.folder / name)
        card = cards[name] = artifact.card
        identities[name] = artifact.identity
        assert (card.task, card.seed, card.name) == ("tiny:task", 0, name[2:])
        if card.model is not None:
            model = artifact.load_model()
            assert card.evidence["parameters"][-1] == count_parameters(model)
            assert card.evidence["macs"][-1] == count_macs(model, sample)
        facts = card.evidence if card.kind == "quantize" else card.evidence["export"]
        assert sum(sum(counts.values()) for counts in facts["operators"].values()) > 0
        assert (card.metrics["test"]["n"], card.metrics["validation"]["n"]) == (60, 40)
        assert card.versions["torch"]
    prune = cards["2-prune"].evidence
    assert prune["parameters"] == [5020, cards["3-distill"].evidence["parameters"][0]]
    assert prune["parameters"][1] < 5020
    assert prune["macs"][1] < prune["macs"][0]
    assert cards["2-prune"].parents == {"from": identities["1-train"]}
    assert cards["3-distill"].parents == {
        "from": identities["2-prune"],
        "teacher": identities["1-train"],
    }
    assert cards["6-alone"].parents == {"like": identities["5-student"]}


def test_the_change_of_outputs_is_what_onnxruntime_gives(finished: Outcome, tiny_task: Task):
    rows = tiny_task.validation.inputs.numpy()
    for name, parent in (("2-prune", "1-train"), ("4-quantize", "3-distill")):
        child = Session(finished.folder / name / "model.onnx").run(rows)
        change = np.abs(child - Session(finished.folder / parent / "model.onnx").run(rows))
        found = load_artifact(finished.folder / name).card.evidence["output_change"]
        assert found["max"] == pytest.approx(change.max(), rel=1e-4)
        assert found["mean"] == pytest.approx(change.mean(), rel=1e-4)
        assert found["max"] > 0


def test_the_report_fits_its_published_schema(finished: Outcome):
    content = json.loads((finished.folder / "report.json").read_text())
    schema = json.loads((files("compress.report") / "report.schema.json").read_text())
    jsonschema.validate(content, schema)
    assert (content["baseline"], content["command"]) == ("1-train", "again")
    assert [arm["name"] for arm in content["arms"]] == FOLDERS
    assert {arm["name"]: arm["size_bytes"] for arm in content["arms"]} == {
        name: (finished.folder / name / "model.onnx").stat().st_size for name in FOLDERS
    }
    assert {entry["stage"] for entry in content["candidates"]} == {"4-quantize"}
    assert all((finished.folder / f"report.{kind}").is_file() for kind in ("html", "md"))


def test_the_final_model_is_the_smallest_within_the_budget(finished: Outcome):
    report = finished.report
    assert report.budget is not None
    base = report.arm("1-train").validation
    allowed = [
        arm
        for arm in report.arms
        if arm.control_of is None and base.value - arm.validation.value <= 0.3 + 1e-9
    ]
    assert report.final == min(allowed, key=lambda arm: arm.size_bytes).name
    assert finished.exit_code == (report.budget.status == "missed")


def test_a_control_is_neither_timed_nor_chosen(
    finished: Outcome, copied: Path, monkeypatch: pytest.MonkeyPatch
):
    offered = []
    real = benchmark_module.choose_final

    def choose(arms: list[Any], *rest: Any) -> Any:
        offered.extend(arm.name for arm in arms)
        return real(arms, *rest)

    monkeypatch.setattr(benchmark_module, "choose_final", choose)
    found = attempt(copied, "benchmark.rounds=3")
    assert found.reused == NAMES
    assert offered == [name for name in FOLDERS if name != "6-alone"]
    report = found.outcome.report
    control = report.arm("6-alone")
    assert (control.control_of, control.latency) == ("5-student", [])
    assert report.arm("5-student").latency
    (gift,) = (entry for entry in report.comparisons if entry.baseline == "6-alone")
    assert gift.candidate == "5-student"
    taught, alone = report.arm("5-student").quality, control.quality
    assert gift.difference == pytest.approx(alone.value - taught.value)

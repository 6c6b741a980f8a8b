"""The whole way for recurrent networks and Transformers, on tasks of every kind."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from compress.artifact import load_artifact
from compress.cli.app import app
from compress.data.references import load_task
from compress.errors import InputError, ShapeMismatch
from compress.measure.quality import run_onnx
from compress.pipeline import Outcome, run
from compress.recipe import parse_recipe
from compress.runtime.onnxruntime import Session

FIT = {"batch_size": 24, "optimizer": "adamw", "learning_rate": 0.01, "precision": "fp32"}
BENCH = {"batch": [1, 2], "threads": 1, "workers": 2, "rounds": 2, "block_ms": 0.5}
SMALL = {"width": 16, "heads": [2, 2], "head_width": 8, "feed_forward": [32, 16], "dropout": 0.0}

RECIPES: dict[str, dict[str, Any]] = {
    "bilstm": {
        "task": "tiny:sequences",
        "model": {"name": "bilstm", "widths": [16, 16], "dropout": 0.1},
        "student": {"name": "rnn", "widths": [8], "front_width": 8},
    },
    "gru": {
        "task": "tiny:series",
        "model": {
            "name": "gru",
            "widths": [32],
        },  # weights of 256 values or more are stored as int8
        "student": {"name": "lstm", "widths": [8]},
        "budget": {"max_drop": 5.0, "relative": True, "minimise": "size"},
    },
    "transformer": {
        "task": "tiny:tokens",
        "model": {"name": "transformer", **SMALL, "ngrams": {2: 32, 3: 16}, "wide": {1: 12, 2: 40}},
        "student": {"name": "lstm", "widths": [8], "embedding": 8},
        "pretrain": True,
    },
    "gpt": {
        "task": "tiny:language",
        "model": {"name": "gpt", **SMALL, "positions": "sinusoidal"},
        "student": {"name": "gpt", **SMALL, "heads": [2], "feed_forward": [16]},
        "budget": {"max_drop": 0.5, "relative": True, "minimise": "size"},
    },
}


def recipe(name: str) -> dict[str, Any]:
    entry = RECIPES[name]
    first: list[dict[str, Any]] = (
        [{"pretrain": {**FIT, "epochs": 2}}] if "pretrain" in entry else []
    )
    return {
        "task": entry["task"],
        "model": entry["model"],
        "budget": entry.get("budget", {"max_drop": 0.6, "minimise": "size"}),
        "stages": [
            *first,
            {"train": {**FIT, "epochs": 6}},
            {"prune": {**FIT, "ratio": 0.3, "round_to": 4, "epochs": 1, "batches": 2}},
            {"distill": {**FIT, "epochs": 2, "views": 2}},
            {"quantize": {"samples": 16}},
            {
                "distill": {
                    **FIT,
                    "name": "student",
                    "student": entry["student"],
                    "epochs": 2,
                    "views": 0,
                }
            },
            {"train": {**FIT, "name": "alone", "like": "student", "epochs": 1}},
            {"benchmark": BENCH},
        ],
    }


@pytest.fixture(scope="module", params=RECIPES)
def finished(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        folder = tmp_path_factory.mktemp(request.param) / "run"
        return run(parse_recipe(recipe(request.param)), folder)
    finally:
        torch.set_num_threads(threads)


def stages(outcome: Outcome) -> dict[str, Any]:
    paths = sorted(path for path in outcome.folder.iterdir() if path.name[0].isdigit())
    found = [load_artifact(path) for path in paths]
    return {artifact.card.name: artifact for artifact in found}


def test_every_stage_leaves_a_model_of_its_own(finished: Outcome):
    made = stages(finished)
    assert made["prune"].card.evidence["groups"]
    before, after = made["prune"].card.evidence["parameters"]
    assert after < before
    assert made["prune"].card.model.config != made["train"].card.model.config
    assert made["prune"].card.model.plan == {}
    names = [arm.name.partition("-")[2] for arm in finished.report.arms]
    assert names == ["train", "prune", "distill", "quantize", "student", "alone"]
    assert finished.report.arms[0].name == finished.report.baseline


def test_weights_and_onnx_say_the_same_at_every_length(finished: Outcome):
    made, task = stages(finished), load_task(finished.report.recipe["task"])
    for name in ("train", "prune", "distill", "student"):
        model, session = made[name].load_model(), Session(made[name].onnx)
        for time in {1, 2, task.train.inputs.shape[1]}:
            inputs = [task.test.inputs[:5, :time]]
            if task.test.lengths is not None:
                inputs.append(task.test.lengths[:5].clamp(max=time))
            with torch.inference_mode():
                expected = model(*inputs)
            found = session.run(tuple(part.numpy() for part in inputs))
            np.testing.assert_allclose(found, expected, atol=2e-5)


def test_the_card_says_what_was_matched(finished: Outcome):
    evidence = stages(finished)["student"].card.evidence
    assert evidence["matched"].endswith("asked for every batch")
    task = load_task(finished.report.recipe["task"])
    made = stages(finished)
    taught, told = (run_onnx(Session(made[n].onnx), task.validation) for n in ("student", "train"))
    if task.kind == "regression":
        agreement = 1 - ((taught - told) ** 2).mean() / told.var()
    else:
        agreement = (taught.argmax(axis=-1) == told.argmax(axis=-1)).mean()
    assert evidence["teacher_agreement"] == pytest.approx(agreement, abs=0.01)
    kept = stages(finished)["distill"].card.evidence["matched"]
    assert "of the training split" in kept


def test_quality_points_the_right_way(finished: Outcome):
    report, task = finished.report, load_task(finished.report.recipe["task"])
    for arm in report.arms:
        assert arm.quality is not None
        assert arm.quality.higher_is_better == task.metric.higher_is_better
        entry = report.comparison(arm.name, "quality")
        if entry:
            base = report.arms[0].quality.value
            worse = (
                base - arm.quality.value
                if arm.quality.higher_is_better
                else arm.quality.value - base
            )
            assert entry.difference == pytest.approx(worse, abs=1e-9)


def test_a_relative_budget_is_a_share_of_the_baselines_metric(finished: Outcome):
    report = finished.report
    budget = report.recipe["budget"]
    assert report.budget is not None
    base = report.arms[0].quality.value
    limit = budget["max_drop"] * (base if budget["relative"] else 1)
    assert report.budget.max_drop == pytest.approx(limit)
    assert report.budget.relative_drop == (budget["max_drop"] if budget["relative"] else None)


def test_what_needs_no_model_stands_beside_it(finished: Outcome):
    simple = load_task(finished.report.recipe["task"]).simple
    notes = " ".join(finished.report.notes)
    assert all(f"{name} {value:.4g}" in notes for name, value in simple.items())


def test_int8_models_were_built_and_measured(finished: Outcome):
    built = [c for c in finished.report.candidates if c.latency_ratio and c.name != "the input"]
    assert "weight-only" in [candidate.name for candidate in built]
    fused = {"static, fused", "dynamic, fused"} & {candidate.name for candidate in built}
    whole = finished.report.recipe["model"]["name"]
    assert bool(fused) == (whole in ("transformer", "gpt"))
    assert (finished.folder / "report.html").stat().st_size > 1000


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    content = recipe("transformer")
    content["stages"] = [content["stages"][0], content["stages"][1], content["stages"][-1]]
    content["stages"][0]["pretrain"]["epochs"] = 8
    return run(parse_recipe(content), tmp_path_factory.mktemp("pretrained") / "run")


def test_training_goes_on_from_the_pretrained_weights(pretrained: Outcome):
    made = stages(pretrained)
    before, after = made["pretrain"].card.evidence["masked"]["accuracy"]
    assert after > before
    assert made["train"].card.parents["from"] == made["pretrain"].identity
    assert "model.onnx" not in made["pretrain"].card.files
    assert [arm.name for arm in pretrained.report.arms] == ["2-train"]


def test_another_vocabulary_is_told_before_the_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    import dataclasses

    import tiny

    def words(vocabulary: str) -> Any:
        return dataclasses.replace(tiny.tokens(), preprocessing={"vocabulary": list(vocabulary)})

    content = recipe("transformer")
    content["stages"] = [content["stages"][1], content["stages"][-1]]
    content["task"] = "tiny:words"
    monkeypatch.setattr(tiny, "words", lambda: words("abcdefghijkl"), raising=False)
    run(parse_recipe(content), tmp_path / "one")
    monkeypatch.setattr(tiny, "words", lambda: words("lkjihgfedcba"))
    student = {**FIT, "student": {"name": "lstm", "widths": [8]}, "epochs": 1}
    student["teacher"] = str(tmp_path / "one" / "1-train")
    content["stages"].insert(1, {"distill": student})
    with pytest.raises(ShapeMismatch, match="was made with a vocabulary of 12 tokens"):
        run(parse_recipe(content), tmp_path / "two")


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        (
            {"model": "cnn"},
            "model 'cnn' takes images, but the task gives sequences. Models for it: rnn",
        ),
        ({"task": "tiny:task"}, "model 'gpt' takes sequences, but the task gives images"),
        (
            {"model": "transformer"},
            "without `causal` every step sees the one that it has to predict",
        ),
        ({"model": "bilstm"}, "a bidirectional model sees the step that it has to predict"),
        (
            {"model": {"name": "gpt", "heads": [2, 2], "feed_forward": [8]}},
            "one value for each layer",
        ),
    ],
    ids=str,
)
def test_a_model_that_does_not_fit_its_task(changes: dict[str, Any], text: str, tmp_path: Path):
    content = {**recipe("gpt"), **changes}
    with pytest.raises(InputError, match=text):
        run(parse_recipe(content), tmp_path / "run")


def test_numbers_cannot_be_masked(tmp_path: Path):
    content = recipe("bilstm")
    content["stages"].insert(0, {"pretrain": {}})
    with pytest.raises(InputError, match="are no tokens, so none can be masked"):
        run(parse_recipe(content), tmp_path / "run")


def test_generate_and_attention_refuse_what_is_not_text(finished: Outcome):
    folder = str(finished.folder / finished.report.baseline)
    for command in (["generate", folder], ["attention", folder, "--text", "x"]):
        result = CliRunner().invoke(app, command)
        assert isinstance(result.exception, InputError)
        assert "was not trained on text; its card has no vocabulary" in str(result.exception)

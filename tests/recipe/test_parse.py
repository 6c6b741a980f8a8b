"""Recipes: defaults, the tree of stages, and every error at once."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from compress.errors import InputError, RecipeError
from compress.measure.config import BenchConfig
from compress.recipe import check_settings, load_recipe, parse_recipe

RECIPES = sorted((Path(__file__).parents[2] / "recipes").glob("*.yaml"))


def recipe(*stages: Any, **changes: Any) -> dict[str, Any]:
    return {"task": "mnist", "model": "cnn", "stages": list(stages) or ["train"], **changes}


def errors_of(content: Any) -> list[str]:
    with pytest.raises(RecipeError) as caught:
        parse_recipe(content, "r.yaml")
    error = caught.value
    assert str(error) == "\n".join(f"r.yaml: {line}" for line in error.errors)
    assert error.exit_code == 2
    return error.errors


def only_error_of(content: Any) -> str:
    (line,) = errors_of(content)
    return line


def test_the_least_recipe_has_all_defaults():
    found = parse_recipe(recipe("train"))
    assert found.resolved() == {
        "task": "mnist",
        "model": {"name": "cnn"},
        "seed": 0,
        "budget": {"max_drop": 0.01, "relative": False, "minimise": "latency"},
        "stages": [
            {"train": {"name": "train", "from": None} | check_settings("train", {}).model_dump()},
            {
                "benchmark": {"name": "benchmark", "from": None}
                | BenchConfig().model_dump(mode="json")
            },
        ],
    }


def test_a_benchmark_is_added_only_where_left_out():
    assert [stage.kind for stage in parse_recipe(recipe("train")).stages] == ["train", "benchmark"]
    found = parse_recipe(recipe("train", {"benchmark": {"batch": 7}}))
    assert [stage.kind for stage in found.stages] == ["train", "benchmark"]
    assert found.stage("benchmark").config.batch == (7,)
    with pytest.raises(KeyError):
        found.stage("bench")


def test_stages_form_a_tree():
    found = parse_recipe(
        recipe(
            "train",
            {"prune": {"ratio": 0.5}},
            {"distill": None},
            {"quantize": {"name": "int8"}},
            {"quantize": {"name": "whole-int8", "from": "train", "method": "static"}},
            {"distill": {"name": "student", "student": "cnn-tiny"}},
            {"quantize": {"name": "student-int8"}},
            {"train": {"name": "alone", "like": "student"}},
            {"export": {"from": "prune"}},
        )
    )
    assert {stage.name: stage.parent for stage in found.stages} == {
        "train": None,
        "prune": "train",
        "distill": "prune",
        "int8": "distill",
        "whole-int8": "train",
        "student": None,
        "student-int8": "student",
        "alone": None,
        "export": "prune",
        "benchmark": None,
    }
    assert found.stage("distill").config.teacher == "train"
    assert found.stage("alone").config.like == "student"


def test_all_errors_are_told_at_once_each_with_its_place():
    content = recipe(
        {"train": {"epochs": 0, "colour": "red"}},
        {"prune": {}},
        {"pruning": {"ratio": 0.5}},
        {"quantize": {"from": "prun", "method": "statik"}},
        {"distill": {"teacher": "trian", "student": "cnn-tinny"}},
        task="mnits",
        model={"name": "cnn", "width": [8]},
        budget={"max_drop": -1, "minimize": "size"},
        seed=-1,
        stage=[],
    )
    known = "batch_size"
    found = errors_of(content)
    assert [line for line in found if known not in line] == [
        "no key 'stage'. Known: budget, model, seed, stages, task. Did you mean 'stages'?",
        "stages[2]: no stage 'pruning'. Known: pretrain, train, prune, distill, quantize, qat, "
        "export, benchmark. Did you mean 'prune'?",
        "model: model 'cnn': no setting named 'width'. Known: in_channels, image_size, classes, "
        "dropout, widths, blocks, stem_stride. Did you mean 'widths'?",
        "task: No task named 'mnits'. Known: co2, kjv, mnist, reviews, spoken-digits. "
        "Did you mean 'mnist'?",
        "seed: expected a whole number from 0, found -1.",
        "budget.max_drop: Input should be greater than or equal to 0, found -1.",
        "budget: no setting 'minimize'. Known: max_drop, relative, minimise. "
        "Did you mean 'minimise'?",
        "stages[0].train.epochs: Input should be greater than or equal to 1, found 0.",
        "stages[1].prune: give either ratio (share of channels to remove) or macs (share to keep).",
        "stages[3].quantize.from: no earlier stage 'prun'. Known: train, prune. "
        "Did you mean 'prune'?",
        "stages[3].quantize.method: Input should be 'best', 'static', 'dynamic', 'weight-only' or "
        "'fp16', found 'statik'.",
        "stages[4].distill.teacher: no earlier stage 'trian'. Known: train, prune, quantize. "
        "Did you mean 'train'?",
        "stages[4].distill.student: No model named 'cnn-tinny'. Known: bilstm, cnn, cnn-small, "
        "cnn-tiny, gpt, gpt-small, gru, lenet, lstm, lstm-small, rnn, transformer, "
        "transformer-small. Did you mean 'cnn-tiny'?",
    ]
    (typo,) = (line for line in found if known in line)
    assert typo.startswith("stages[0].train: no setting 'colour'. Known: epochs, batch_size, ")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "expected a mapping with task, model and stages, found nothing."),
        ([1], "expected a mapping with task, model and stages, found list."),
        (
            recipe(stages=[]),
            "stages: expected a list of stages, such as [{train: {epochs: 15}}].",
        ),
        (
            recipe({"train": {}, "prune": {}}),
            "stages[0]: expected one stage such as {train: {epochs: 15}}, "
            "found {'train': {}, 'prune': {}}.",
        ),
        (recipe({"train": 5}), "stages[0].train: expected a mapping of settings, found 5."),
        (
            recipe("train", "train"),
            "stages[1].train: a second stage named 'train'; give it another with `name`.",
        ),
        (
            recipe({"train": {"name": "a/b"}}),
            "stages[0].train.name: expected one word without / . or spaces, found 'a/b'.",
        ),
        (
            recipe({"train": {"name": "seed"}}),
            "stages[0].train.name: expected one word without / . or spaces, found 'seed'.",
        ),
        (
            recipe({"distill": {"student": "cnn", "teacher": "a/b"}}),
            "stages: begin with distill; the first stage trains the baseline.",
        ),
        (
            recipe("train", {"benchmark": {}}, {"benchmark": {"name": "b"}}),
            "stages: more than one benchmark; a run measures all its models together.",
        ),
        (recipe("train", budget=5), "budget: expected a mapping such as {max_drop: 0.01}."),
        (
            recipe("train", task=3),
            "task: expected the name of a task, found 3; see `compress list data`.",
        ),
        (
            recipe("train", model={"widths": [8]}),
            "model: expected the name of a model, found {'widths': [8]}; "
            "see `compress list models`.",
        ),
        (
            recipe("train", {"prune": {"ratio": 1.0}}),
            "stages[1].prune.ratio: Input should be less than 1, found 1.0.",
        ),
        (
            recipe("train", {"prune": {"ratio": 0.5, "macs": 0.5}}),
            "stages[1].prune: give either ratio (share of channels to remove) "
            "or macs (share to keep).",
        ),
        (
            recipe("train", {"train": {"name": "b", "like": "c"}}),
            "stages[1].train.like: no earlier stage 'c'. Known: train.",
        ),
        (
            recipe("train", {"benchmark": {"threads": []}}),
            "stages[1].benchmark.threads: Tuple should have at least 1 item after validation, "
            "not 0, found [].",
        ),
    ],
)
def test_one_wrong_thing_gives_one_error(content: Any, message: str):
    assert only_error_of(content) == message


@pytest.mark.parametrize("seed", [True, 1.5, "x", None, -3])
def test_a_seed_is_a_whole_number(seed: Any):
    assert only_error_of(recipe("train", seed=seed)) == (
        f"seed: expected a whole number from 0, found {seed!r}."
    )


@settings(max_examples=60, deadline=None)
@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=5),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from(["task", "model", "stages", "budget", "seed", "train", "name"]),
                inner,
                max_size=4,
            )
        ),
        max_leaves=12,
    )
)
def test_whatever_stands_in_the_file_gives_errors_and_never_another_exception(content: Any):
    before, errors = copy.deepcopy(content), []
    try:
        assert parse_recipe(content).stages[0].kind == "train"
    except RecipeError as error:
        errors = [error.errors, str(error).splitlines()]
    assert content == before
    assert not errors or 0 < len(errors[0]) == len(errors[1])


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_every_recipe_of_the_project_validates_and_resolves_to_itself(path: Path):
    found = load_recipe(path)
    again = parse_recipe(yaml.safe_load(yaml.safe_dump(found.resolved())))
    assert again.resolved() == found.resolved()
    assert found.stages[-1].kind == "benchmark"
    assert path.read_text(encoding="utf-8").startswith("# ")


def test_there_are_recipes():
    assert RECIPES


def test_files_that_cannot_be_read(tmp_path: Path):
    missing = tmp_path / "no.yaml"
    with pytest.raises(InputError) as caught:
        load_recipe(missing)
    assert str(caught.value) == (
        f"{missing}: cannot be read: No such file or directory; expected a recipe."
    )
    for raw in (b"task: [", b"\xff\xfe\xff", b"a: b: c"):
        path = tmp_path / "r.yaml"
        path.write_bytes(raw)
        with pytest.raises(RecipeError) as wrong:
            load_recipe(path)
        assert str(wrong.value).startswith(f"{path}: not YAML: ")
        assert "\n" not in str(wrong.value)


def test_settings_of_one_stage_are_checked_alike():
    assert check_settings("quantize", {"samples": 3}).samples == 3
    with pytest.raises(RecipeError) as caught:
        check_settings("quantize", {"samples": 0, "sample": 3})
    assert str(caught.value) == (
        "settings: quantize.samples: Input should be greater than or equal to 1, found 0.\n"
        "settings: quantize: no setting 'sample'. Known: method, calibration, "
        "percentile, samples, activations, symmetric, weights, reduce_range, per_channel, "
        "keep_fp32. Did you mean 'samples'?"
    )

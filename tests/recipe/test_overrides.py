"""`key=value` pairs: how they are read, where they land, and what is said of wrong ones."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from compress.errors import InputError, RecipeError
from compress.recipe import Recipe, load_recipe, parse_recipe
from compress.recipe.overrides import put, read_pair, settings_from_pairs

CONTENT: dict[str, Any] = {
    "task": "mnist",
    "model": "cnn",
    "stages": [
        {"train": {"epochs": 3}},
        {"prune": {"macs": 0.5, "strides": {"stem": 2}}},
        {"quantize": {"name": "int8"}},
        {"benchmark": {}},
    ],
}


def overridden(*pairs: str) -> Recipe:
    return parse_recipe(CONTENT, "r.yaml", pairs)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("epochs=5", (["epochs"], 5)),
        ("a.b.c=[1, x]", (["a", "b", "c"], [1, "x"])),
        ("path=a=b", (["path"], "a=b")),
        ("rate=1.0e-3", (["rate"], 0.001)),
        ("on=true", (["on"], True)),
        ("nothing=", (["nothing"], None)),
        ("settings={x: 1}", (["settings"], {"x": 1})),
    ],
)
def test_a_pair_is_keys_and_a_yaml_value(text: str, expected: tuple[list[str], Any]):
    assert read_pair(text) == expected


@pytest.mark.parametrize("text", ["epochs", "=5", "", "a..b=1", ".a=1", "a.=1"])
def test_what_is_no_pair(text: str):
    with pytest.raises(InputError) as caught:
        read_pair(text)
    assert str(caught.value) == f"'{text}': expected key=value, such as epochs=5."


def test_a_value_that_is_not_yaml():
    with pytest.raises(InputError) as caught:
        read_pair("a=[1")
    assert str(caught.value) == "'a=[1': the value is not YAML."


KEYS = st.lists(st.text("abc", min_size=1, max_size=2), min_size=1, max_size=3)
VALUES = st.none() | st.booleans() | st.integers() | st.lists(st.integers(), max_size=2)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(KEYS, VALUES), max_size=5), KEYS, VALUES)
def test_what_was_put_last_is_found_there(pairs: list[Any], keys: list[str], value: Any):
    texts = [f"{'.'.join(path)}={json.dumps(entry)}" for path, entry in pairs]
    settings_ = settings_from_pairs(texts)
    put(settings_, keys, value)
    found: Any = settings_
    for key in keys:
        found = found[key]
    assert found == value


def test_overrides_reach_every_part():
    found = overridden(
        "train.epochs=9",
        "prune.strides.stem=3",
        "prune.strides.head=1",
        "int8.method=static",
        "budget.max_drop=0.2",
        "budget.minimise=size",
        "seed=7",
        "benchmark.batch=4",
        "model.widths=[8, 16]",
        "model.blocks=1",
    )
    assert found.stage("train").config.epochs == 9
    assert found.stage("prune").config.strides == {"stem": 3, "head": 1}
    assert found.stage("prune").config.macs == 0.5
    assert found.stage("int8").config.method == "static"
    assert (found.budget.max_drop, found.budget.minimise) == (0.2, "size")
    assert found.seed == 7
    assert found.stage("benchmark").config.batch == (4,)
    assert found.model == {"name": "cnn", "widths": [8, 16], "blocks": 1}


def test_a_whole_model_is_replaced_and_the_last_override_wins():
    assert overridden("model=lenet").model == {"name": "lenet"}
    assert overridden("model.name=lenet").model == {"name": "lenet"}
    assert overridden("seed=1", "seed=2").seed == 2
    assert overridden("model=lenet", "model.dropout=0.1").model == {"name": "lenet", "dropout": 0.1}


def test_a_stage_is_reached_by_its_name_and_can_be_moved():
    found = overridden("int8.from=train")
    assert found.stage("int8").parent == "train"
    with pytest.raises(RecipeError) as caught:
        overridden("quantize.method=static")
    assert caught.value.errors == [
        "override 'quantize.method=static': no stage or key 'quantize'. Known: train, prune, int8, "
        "benchmark, budget, task, model, seed."
    ]


def test_no_override_changes_the_content_it_is_given():
    before = copy.deepcopy(CONTENT)
    overridden("prune.strides.stem=5", "train.epochs=1", "budget.max_drop=0.5", "model.blocks=2")
    assert before == CONTENT


def test_all_errors_of_all_overrides_and_of_what_they_cause():
    with pytest.raises(RecipeError) as caught:
        overridden(
            "trian.epochs=3", "nonsense", "train.epochs=no", "prune.ratio=0.5", "model.block=1"
        )
    assert caught.value.errors == [
        "override 'trian.epochs=3': no stage or key 'trian'. Known: train, prune, int8, benchmark, "
        "budget, task, model, seed. Did you mean 'train'?",
        "override 'nonsense': expected key=value, such as epochs=5.",
        "model: model 'cnn': no setting named 'block'. Known: in_channels, image_size, classes, "
        "dropout, widths, blocks, stem_stride. Did you mean 'blocks'?",
        "stages[0].train.epochs: Input should be greater than or equal to 1, found False.",
        "stages[1].prune: give either ratio (share of channels to remove) or macs (share to keep).",
    ]


@pytest.mark.parametrize("text", ["seed.x=1", "budget=5", "train=5", "stages=[]", "task.a=1"])
def test_what_cannot_be_overridden(text: str):
    with pytest.raises(RecipeError) as caught:
        overridden(text)
    head = text.partition("=")[0].partition(".")[0]
    assert caught.value.errors[0].startswith(f"override '{text}': no stage or key '{head}'. Known:")


def test_overrides_of_a_file(tmp_path: Path):
    path = tmp_path / "r.yaml"
    path.write_text(yaml.safe_dump(CONTENT))
    assert load_recipe(path, ["train.epochs=9"]).stage("train").config.epochs == 9
    with pytest.raises(RecipeError) as caught:
        load_recipe(path, ["train.epoch=9"])
    assert str(caught.value).startswith(f"{path}: stages[0].train: no setting 'epoch'. Known: ")
    assert str(caught.value).endswith("Did you mean 'epochs'?")

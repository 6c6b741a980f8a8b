"""`compress generate` and `compress attention` on trained models of text."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import tiny
from typer.testing import CliRunner

from compress.cli.app import app
from compress.errors import InputError
from compress.pipeline import run
from compress.recipe import parse_recipe

SMALL = {"width": 16, "heads": [2, 2], "head_width": 8, "feed_forward": [32, 16], "dropout": 0.0}
FIT = {"batch_size": 24, "optimizer": "adamw", "learning_rate": 0.01, "precision": "fp32"}
BENCH = {"batch": 1, "threads": 1, "workers": 1, "rounds": 2, "block_ms": 0.5, "control": False}


def trained(folder: Path, task: str, model: str, epochs: int) -> str:
    stages = [{"train": {**FIT, "epochs": epochs}}, {"benchmark": BENCH}]
    content = {"task": task, "model": {"name": model, **SMALL}, "stages": stages}
    run(parse_recipe(content), folder)
    return str(folder / "1-train")


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Any:
    def with_letters(task: Any, letters: str) -> Any:
        return dataclasses.replace(task, preprocessing={"vocabulary": list(letters)})

    folder = tmp_path_factory.mktemp("look")
    with pytest.MonkeyPatch.context() as patch:
        language = with_letters(tiny.language(), "abcdef")
        patch.setattr(tiny, "letters", lambda: language, raising=False)
        patch.setattr(
            tiny, "texts", lambda: with_letters(tiny.tokens(), "_?*defghijkl"), raising=False
        )
        yield {
            "gpt": trained(folder / "gpt", "tiny:letters", "gpt", 25),
            "bert": trained(folder / "bert", "tiny:texts", "transformer", 2),
        }


def call(*command: str) -> str:
    result = CliRunner().invoke(app, list(command))
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.output


def test_a_trained_model_writes_what_it_learned(models):
    said = call(
        "generate", models["gpt"], "--prompt", "abc", "--length", "12", "--temperature", "0"
    )
    assert said == "abcdefabcdefabc\n"


def test_the_same_seed_writes_the_same(models):
    arguments = ("generate", models["gpt"], "--prompt", "a", "--temperature", "3", "--json")
    one, again, other = (
        json.loads(call(*arguments, "--seed", seed))["text"] for seed in ("1", "1", "2")
    )
    assert one == again != other
    assert len(one) == 301
    assert one.startswith("a")


def test_attention_names_heads_and_where_they_look(models):
    lines = call("attention", models["bert"], "--text", "defg").splitlines()
    assert [line.partition(":")[0] for line in lines] == [
        f"layer {layer} head {head}" for layer in (0, 1) for head in (0, 1)
    ]
    assert "%" in lines[0]
    layers = json.loads(call("attention", models["bert"], "--text", "defg", "--json"))["layers"]
    assert (len(layers), len(layers[0]), len(layers[0][0])) == (2, 2, 4)
    assert all(sum(row) == pytest.approx(1) for head in layers[0] for row in head)


@pytest.mark.parametrize(
    ("model", "command", "message"),
    [
        ("gpt", ("generate", "--prompt", "abx"), "'x', character 3 of the text, is not in"),
        ("gpt", ("generate", "--prompt", ""), "the text is empty"),
        ("bert", ("generate", "--prompt", "d"), "needs a language model"),
        ("bert", ("attention", "--text", "d" * 11), "has 11 characters; the model takes up to 10"),
    ],
    ids=str,
)
def test_what_cannot_be_looked_at(models, model, command, message):
    name, *rest = command
    with pytest.raises(InputError, match=message):
        call(name, models[model], *rest)

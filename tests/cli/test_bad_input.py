"""Bad input: one line on stderr that says what is wrong and what to do, and the right exit code."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from compress import cli
from compress.artifact import CARD, ONNX, WEIGHTS, Card, finish, writing
from compress.errors import NoEffect
from compress.models.references import ModelSpec
from compress.quantization.best import Choice
from compress.runtime.interface import Target

HERE = Path(__file__).parent
TINY = HERE / "tiny.yaml"
ON_TINY = ["--data", "tiny:task"]
FIT = ["epochs=1", "batch_size=8", "precision=fp32"]

#: Exit code and the lines on stderr, without the leading `compress: `.
Fails = Callable[..., tuple[int, str]]


@pytest.fixture
def fails(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    trained: nn.Module,
    tiny_spec: ModelSpec,
    trained_onnx: Path,
    tmp_path: Path,
) -> Fails:
    """The command line in a folder with the artifact `base`, the file `file` and `bad.onnx`."""
    monkeypatch.chdir(tmp_path)
    with writing(Path("base")) as scratch:
        shutil.copyfile(trained_onnx, scratch / ONNX)
        card = Card(kind="train", name="train", task="tiny:task", key="base", model=tiny_spec)
        finish(scratch, card, trained)
    Path("file").write_text("mine")
    Path("bad.onnx").write_text("no model")
    before = {path: path.read_bytes() for path in Path().rglob("*") if path.is_file()}

    def run(*arguments: object) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["compress", *map(str, arguments)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as stop:
            cli.main()
        out, err = capsys.readouterr()
        assert out == ""
        assert err.endswith("\n")
        assert "Traceback" not in err
        assert "defect" not in err
        after = {path: path.read_bytes() for path in before}
        assert after == before, "something that was there has changed"
        assert not list(Path().glob(".*.partial"))
        return stop.value.code, err.removesuffix("\n")

    return run


KNOWN_MODELS = (
    "Known: bilstm, cnn, cnn-small, cnn-tiny, gpt, gpt-small, gru, lenet, lstm, lstm-small, rnn, "
    "transformer, transformer-small."
)


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (["train", "cnnn", *ON_TINY], f"No model named 'cnnn'. {KNOWN_MODELS} Did you mean 'cnn'?"),
        (
            ["train", "nothing:there", *ON_TINY],
            "model 'nothing:there': ModuleNotFoundError: No module named 'nothing'",
        ),
        (
            ["train", "tiny:model", "model.depth=3", *ON_TINY],
            "model 'tiny:model': TypeError: model() got an unexpected keyword argument 'depth'",
        ),
        (
            ["train", "tiny:task", *ON_TINY],
            "model 'tiny:task' gave a Task; expected a torch.nn.Module.",
        ),
        (
            ["train", "cnn", "--data", "mnits"],
            "No task named 'mnits'. Known: co2, kjv, mnist, reviews, spoken-digits. "
            "Did you mean 'mnist'?",
        ),
        (
            ["train", "cnn", "--data", "tiny:nothing"],
            "data 'tiny:nothing': AttributeError: module 'tiny' has no attribute 'nothing'",
        ),
        (
            ["train", "cnn", "--data", "tiny:model"],
            "data 'tiny:model' gave a Sequential; expected a Task.",
        ),
        (
            ["train", "cnn-small", "model.classes=7", *ON_TINY],
            "model 'cnn-small': classes is 7, but the data has 4; leave classes out to take it "
            "from the data.",
        ),
        (
            ["train", "cnn", "model.widths=[8, x]", *ON_TINY],
            "model 'cnn': widths.1: Input should be a valid integer, unable to parse string as an "
            "integer, found 'x'.",
        ),
        (
            ["train", "cnn", "epochs=many", *ON_TINY],
            "settings: train.epochs: Input should be a valid integer, unable to parse string as an "
            "integer, found 'many'.",
        ),
        (["train", "cnn", "epochs", *ON_TINY], "'epochs': expected key=value, such as epochs=5."),
        (
            ["prune", "base", "ratio=1.5"],
            "settings: prune.ratio: Input should be less than 1, found 1.5.",
        ),
        (
            ["prune", "base", "ratio=0.999", "importance=magnitude"],
            "the target is out of reach: with round_to=8 the smallest model keeps 32 of 48 "
            "prunable channels and 0.721 of the multiply-accumulates. Ask for less, lower "
            "round_to, or set strides.",
        ),
        (
            ["prune", "base", "ratio=0.3", "strides.steem=2"],
            "strides: no convolution named 'steem'. Known: stem, stages.0.0.conv1, "
            "stages.0.0.conv2, stages.1.0.conv1, stages.1.0.conv2, stages.1.0.shortcut.0.",
        ),
        (
            ["prune", "nowhere", "ratio=0.5"],
            f"nowhere: no artifact here; expected a folder with a {CARD}.",
        ),
        (["bench", "no.onnx"], "no.onnx: no such file; expected an ONNX model."),
        (["bench", "base", "base"], "bench: name at least one model, and each only once."),
        (
            ["check", "base", "bad.onnx"],
            "bad.onnx: onnxruntime cannot load it: [ONNXRuntimeError] : 7 : INVALID_PROTOBUF : "
            "Load model from bad.onnx failed:Protobuf parsing failed.",
        ),
        (
            ["check", "nowhere", "base"],
            "nowhere: no such model. On a first run there is nothing to compare with: store the "
            "candidate as the baseline of the next one; `--missing-baseline pass` lets a check "
            "pass without.",
        ),
        (
            ["check", "base", "base", "--margin", "2"],
            "settings: check.margin: Input should be less than 1, found 2.0.",
        ),
        (
            ["check", "base"],
            "check: name BASELINE and CANDIDATE, or a file of gates in --gates.",
        ),
        (
            ["check", "base", "base", "--gates", "no.yaml", "--margin", "0.05"],
            "--margin: with --gates the file says what is allowed.",
        ),
        (
            ["check", "--gates", "no.yaml"],
            "no.yaml: cannot be read: No such file or directory; expected a gate file.",
        ),
        (
            ["check", "--gates", "file"],
            "file: expected a mapping with models and gates, found str.",
        ),
        (
            ["quantize", "bad.onnx"],
            "--data: name a task, npz:FILE or file.py:factory; an ONNX file does not say what it "
            "takes.",
        ),
        (["distill", "base", "nonsense", *FIT], f"No model named 'nonsense'. {KNOWN_MODELS}"),
        (
            ["distill", "base", "tiny:model", "model.classes=7", "views=1", *FIT],
            "Sequential gives [2, 7] for 2 samples; task 'tiny:task' with 4 classes expects one "
            "tensor of shape [2, 4].",
        ),
        (
            ["report", "nowhere"],
            "nowhere: cannot be read (No such file or directory); expected a report.json.",
        ),
        (
            ["run", "no.yaml"],
            "no.yaml: cannot be read: No such file or directory; expected a recipe.",
        ),
        (["run", "file"], "file: expected a mapping with task, model and stages, found str."),
        (
            ["train", "cnn", *ON_TINY, "--out", "file"],
            "file: is there already and is no artifact; name another folder, or remove it.",
        ),
        (
            ["train", "cnn", *ON_TINY, "--out", "file/below"],
            "file/below: cannot be written: Not a directory.",
        ),
        (["run", TINY, "--out", "file"], "file/recipe.yaml: cannot be written: File exists."),
        (["export", "base", "file/m.onnx"], "file/m.onnx: cannot be written: File exists."),
        (
            ["run", TINY, "--out", "/proc/nowhere"],
            "/proc/nowhere/recipe.yaml: cannot be written: No such file or directory.",
        ),
    ],
    ids=lambda value: "_".join(map(str, value[:4])) if isinstance(value, list) else "",
)
def test_one_line_and_exit_code_2(fails: Fails, command: list[Any], message: str):
    assert fails(*command) == (2, f"compress: {message}")


@pytest.mark.parametrize("command", [["run", TINY], ["train", "cnn", *ON_TINY], ["bench", "base"]])
def test_cuda_where_there_is_none(
    fails: Fails, command: list[Any], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert fails(*command, "--device", "cuda") == (
        2,
        f"compress: device 'cuda': torch {torch.__version__} finds no CUDA device here; "
        "use --device cpu.",
    )


@pytest.mark.parametrize(
    ("command", "end"),
    [
        (["nonsense"], ": No such command 'nonsense'. Try '"),
        (["train"], " train: Missing argument 'model'. Try '"),
        (["train", "cnn", "--device", "tpu"], "'tpu' is not one of 'cpu', 'cuda'. Try '"),
        (["train", "cnn", "--seed", "-1"], "Input should be greater than or equal to 0"),
        (["train", "cnn", "--epochs", "3"], ": No such option: --epochs"),
        (["list", "nonsense"], "'nonsense' is not one of 'models', 'data', 'recipes'. Try '"),
    ],
)
def test_wrong_use_is_one_line_with_the_way_to_help(fails: Fails, command: list[str], end: str):
    code, message = fails(*command)
    assert (code, message.count("\n")) == (2, 0)
    assert end in message
    assert message.endswith("--help'.")


def test_a_recipe_tells_all_its_errors(fails: Fails):
    code, message = fails("run", TINY, "x=1", "prune.ratio=2", "student.epoch=3", "--out", "r")
    assert code == 2
    first, second, third = message.removeprefix("compress: ").splitlines()
    assert first.startswith(f"{TINY}: override 'x=1': no stage or key 'x'. Known: train, prune, ")
    assert second == f"{TINY}: stages[1].prune.ratio: Input should be less than 1, found 2."
    assert third.startswith(f"{TINY}: stages[4].distill: no setting 'epoch'. Known: ")
    assert third.endswith("Did you mean 'epochs'?")
    assert not Path("r").exists()


@pytest.mark.parametrize("place", ["compress.recipe.load_recipe", "compress.pipeline.run"])
def test_an_interrupt_says_how_to_go_on(fails: Fails, place: str, monkeypatch: pytest.MonkeyPatch):
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(place, interrupt)
    assert fails("run", TINY) == (
        130,
        "compress: interrupted; finished stages are kept, the same command goes on from there.",
    )


def change_card(**fields: object) -> None:
    content = json.loads(Path("base", CARD).read_text())
    Path("broken", CARD).write_text(json.dumps(content | fields))


DAMAGES: dict[str, tuple[Callable[[], object], str]] = {
    "another version": (
        lambda: change_card(schema_version=2),
        f"broken/{CARD}: not a card of this version: schema_version: Input should be 1. "
        "Delete the folder and run the stage again.",
    ),
    "no JSON": (
        lambda: Path("broken", CARD).write_text("{"),
        f"broken/{CARD}: not a card of this version: the file: Invalid JSON: EOF while parsing an "
        "object at line 1 column 1. Delete the folder and run the stage again.",
    ),
    "no card": (
        Path("broken", CARD).unlink,
        f"broken: no artifact here; expected a folder with a {CARD}.",
    ),
    "no weights": (
        Path("broken", WEIGHTS).unlink,
        f"broken: {WEIGHTS} is missing, though its card names it.",
    ),
    "other weights": (
        lambda: Path("broken", WEIGHTS).write_text("x"),
        f"broken/{WEIGHTS}: changed or damaged since it was written (SHA-256 differs from its "
        "card). Delete broken and run the stage again.",
    ),
    "a plan of another model": (
        lambda: change_card(model={"architecture": "lenet", "plan": {"head2": {"groups": 1}}}),
        "the plan names layer 'head2', which the architecture lacks.",
    ),
}


@pytest.mark.parametrize(("damage", "message"), DAMAGES.values(), ids=DAMAGES)
def test_a_broken_artifact(fails: Fails, damage: Callable[[], object], message: str):
    shutil.copytree("base", "broken")
    damage()
    assert fails("prune", "broken", "ratio=0.5") == (2, f"compress: {message}")


@pytest.mark.parametrize(
    "command", [["bench", "bad.onnx"], ["distill", "bad.onnx", "tiny:model", *FIT, *ON_TINY]]
)
def test_a_broken_onnx_file(fails: Fails, command: list[str]):
    code, message = fails(*command)
    assert (code, message.count("\n")) == (2, 0)
    assert message.startswith("compress: bad.onnx: ")


def test_a_stage_without_effect_is_named(fails: Fails, monkeypatch: pytest.MonkeyPatch):
    def fail(*_: object, **__: object) -> None:
        error = NoEffect("nothing changed.")
        error.add_note("stage 2 (prune)")
        raise error

    monkeypatch.setattr("compress.pipeline.run", fail)
    assert fails("run", TINY) == (1, "compress: stage 2 (prune): nothing changed.")
    with pytest.raises(NoEffect):
        fails("run", TINY, "--debug")


def test_a_method_that_is_refused_leaves_nothing(fails: Fails, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(
        "compress.quantization.best.choose", lambda *_, **__: Choice(None, Target(Path()), [], {})
    )
    assert fails("quantize", Path("base").absolute(), "samples=8", "method=static") == (
        1,
        "compress: quantization by 'static' was refused: not built. Use method=best, or raise "
        "budget.max_drop.",
    )
    assert not Path("base-quantize").exists()

"""One stage on its own: `compress train`, `prune`, `distill`, `quantize`, `export`."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from compress.cli.options import (
    DataOption,
    Device,
    DeviceOption,
    JsonOption,
    OutOption,
    SeedOption,
    SettingsArgument,
)
from compress.cli.stage import run_stage
from compress.errors import InputError

if TYPE_CHECKING:
    from compress.artifact import Artifact

ModelArgument = Annotated[Path, typer.Argument(help="Artifact folder of a trained model.")]


def register(app: typer.Typer) -> None:
    """Add this file's commands."""
    for command in (pretrain, train, prune, distill, quantize, export):
        app.command()(command)


def pretrain(
    model: Annotated[str, typer.Argument(help="A Transformer, as in `compress list models`.")],
    settings: SettingsArgument = None,
    data: Annotated[
        str, typer.Option(help="Task of tokens, as in `compress list data`.")
    ] = "reviews",
    out: OutOption = None,
    seed: SeedOption = 0,
    device: DeviceOption = Device.cpu,
    as_json: JsonOption = False,
) -> None:
    """Guess masked tokens, before training on labels: compress pretrain transformer epochs=8"""
    from compress.pipeline.context import Inputs
    from compress.recipe.overrides import settings_from_pairs

    options = settings_from_pairs(settings or [])
    reference = {"name": model, **_model_settings(options)}
    folder = out or Path("runs") / f"pretrain-{Path(model.replace(':', '-')).name}"
    run_stage("pretrain", options, Inputs(), data, folder, seed, device, as_json, reference)


def train(
    model: Annotated[
        str,
        typer.Argument(
            help="As in `compress list models`, module:factory, or a pretrained artifact."
        ),
    ],
    settings: SettingsArgument = None,
    data: Annotated[
        str | None, typer.Option(help="Task, as in `compress list data`; mnist if left out.")
    ] = None,
    out: OutOption = None,
    seed: SeedOption = 0,
    device: DeviceOption = Device.cpu,
    as_json: JsonOption = False,
) -> None:
    """Train a model: compress train cnn --data mnist epochs=15 [model.widths=[8,16]] [folds=5]"""
    from compress.artifact import CARD, load_artifact
    from compress.pipeline.context import Inputs
    from compress.recipe.overrides import settings_from_pairs

    options = settings_from_pairs(settings or [])
    folder = out or Path("runs") / f"train-{Path(model.replace(':', '-')).name}"
    if (Path(model) / CARD).is_file():
        parent = load_artifact(Path(model))
        inputs, reference = Inputs(parent=parent), {"name": model}
        task = _task(data, parent)
    else:
        inputs, reference = Inputs(), {"name": model, **_model_settings(options)}
        task = data or "mnist"
    run_stage("train", options, inputs, task, folder, seed, device, as_json, reference)


def prune(
    model: ModelArgument,
    settings: SettingsArgument = None,
    data: DataOption = None,
    out: OutOption = None,
    seed: SeedOption = 0,
    device: DeviceOption = Device.cpu,
    as_json: JsonOption = False,
) -> None:
    """Remove whole channels and recover: compress prune runs/cnn/1-train macs=0.4"""
    from compress.artifact import load_artifact
    from compress.pipeline.context import Inputs
    from compress.recipe.overrides import settings_from_pairs

    parent = load_artifact(model)
    folder = out or _beside(model, "prune")
    inputs = Inputs(parent=parent, baseline=parent)
    run_stage(
        "prune",
        settings_from_pairs(settings or []),
        inputs,
        _task(data, parent),
        folder,
        seed,
        device,
        as_json,
    )


def distill(
    teacher: Annotated[Path, typer.Argument(help="Artifact folder or ONNX file of the teacher.")],
    student: Annotated[
        str, typer.Argument(help="A model's name, or an artifact folder to go on from.")
    ],
    settings: SettingsArgument = None,
    data: DataOption = None,
    out: OutOption = None,
    seed: SeedOption = 0,
    device: DeviceOption = Device.cpu,
    as_json: JsonOption = False,
) -> None:
    """Train a student from a teacher: compress distill runs/cnn/1-train cnn-tiny epochs=60"""
    from compress.artifact import load_artifact
    from compress.pipeline.context import Inputs
    from compress.recipe.overrides import settings_from_pairs

    teaching = _model(teacher)
    options = settings_from_pairs(settings or [])
    for key in options.keys() & {"teacher", "student"}:
        raise InputError(f"{key}={options[key]}: give the {key} as the command's argument.")
    parent = None
    if Path(student).is_dir():
        parent = load_artifact(Path(student))
    else:
        options["student"] = {"name": student, **_model_settings(options)}
    folder = out or Path("runs") / f"distill-{Path(student.replace(':', '-')).name}"
    options["teacher"] = str(teacher)
    inputs = Inputs(parent=parent, baseline=teaching, teacher_artifact=teaching)
    run_stage(
        "distill", options, inputs, _task(data, teaching, parent), folder, seed, device, as_json
    )


def quantize(
    model: Annotated[
        str,
        typer.Argument(help="Artifact folder, any ONNX file, or file.py:factory of a torch model."),
    ],
    settings: SettingsArgument = None,
    data: Annotated[
        str | None,
        typer.Option(
            help="Task, as in `compress list data`; npz:FILE with an array for each of the model's "
            "inputs; or file.py:factory that gives calls. The artifact's own task if left out."
        ),
    ] = None,
    metric: Annotated[
        str | None,
        typer.Option(
            help="For data without labels, file.py:function: gets run(feeds) -> outputs, gives a "
            "number or one a sample. Without it, agreement with the fp32 model is judged."
        ),
    ] = None,
    lower_is_better: Annotated[
        bool, typer.Option("--lower-is-better", help="--metric gives a loss or an error.")
    ] = False,
    agreement: Annotated[
        str, typer.Option(help="With the fp32 model, in its outputs: auto, top-1 or error.")
    ] = "auto",
    max_drop: Annotated[
        float, typer.Option(min=0, help="Allowed drop of the metric, or of the agreement.")
    ] = 0.01,
    relative: Annotated[
        bool, typer.Option("--relative", help="--max-drop is a share of the model's own metric.")
    ] = False,
    minimise: Annotated[str, typer.Option(help="latency or size")] = "latency",
    runtime: Annotated[
        list[str] | None,
        typer.Option(help="To try beside onnxruntime: openvino. The card says which one won."),
    ] = None,
    out: OutOption = None,
    seed: SeedOption = 0,
    device: DeviceOption = Device.cpu,
    as_json: JsonOption = False,
) -> None:
    """Make an int8 model; the fastest within the drop by measurement, unless method=… names one.

    Settings are those of the stage, and of the benchmark behind it: benchmark.batch=[1,32]
    """
    from compress.cli.quantize import Wanted, carry_out
    from compress.recipe.overrides import settings_from_pairs

    wanted = Wanted(
        data=data,
        metric=metric,
        higher_is_better=not lower_is_better,
        agreement=agreement,
        runtimes=tuple(runtime or ()),
        budget={"max_drop": max_drop, "relative": relative, "minimise": minimise},
    )
    named = ":" in model and not Path(model).exists()
    beside = Path("runs") / f"quantize-{model.rpartition(':')[2]}"
    folder = out or (beside if named else _beside(Path(model), "quantize"))
    options = settings_from_pairs(settings or [])
    carry_out(model, options, wanted, folder, seed, device, as_json)


def export(
    model: ModelArgument,
    target: Annotated[Path, typer.Argument(metavar="OUT.onnx", help="File to write.")],
    settings: SettingsArgument = None,
    data: DataOption = None,
    as_json: JsonOption = False,
) -> None:
    """Write a torch model as ONNX, checked against it: compress export runs/cnn/1-train m.onnx"""
    import json
    import tempfile

    from compress.artifact import load_artifact, writing_file
    from compress.data.references import load_task
    from compress.pipeline.stages import export_model
    from compress.recipe import check_settings
    from compress.recipe.overrides import settings_from_pairs

    parent = load_artifact(model)
    config = check_settings("export", settings_from_pairs(settings or []))
    task = load_task(_task(data, parent))
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder) / "model.onnx"
        evidence = export_model(parent.load_model(), task, scratch, config)
        with writing_file(target) as partial:
            shutil.copyfile(scratch, partial)
    if as_json:
        print(json.dumps(evidence, indent=1))
    else:
        shape = "batch and length" if task.sequences else "batch"
        print(
            f"{target}: opset {evidence['opset']}, dynamic {shape}; outputs differ from torch by "
            f"at most {evidence['max_difference']:.2g} (mean {evidence['mean_difference']:.2g})"
        )


def _model_settings(options: dict[str, Any]) -> dict[str, Any]:
    """The settings of a reference model among those of its stage: `model.widths=[8,16]`."""
    settings = options.pop("model", {})
    if not isinstance(settings, dict):
        raise InputError(f"model={settings}: expected a setting, such as model.widths=[8,16].")
    return settings


def _beside(model: Path, suffix: str) -> Path:
    """The default folder of a result: next to the model that it was made from."""
    return Path(os.path.relpath(model.resolve().with_name(f"{model.resolve().stem}-{suffix}")))


def _model(path: Path) -> Artifact:
    from compress.artifact import load_artifact, wrap_onnx

    return wrap_onnx(path) if path.suffix == ".onnx" else load_artifact(path)


def _task(data: str | None, *artifacts: Artifact | None) -> str:
    known = [artifact.card.task for artifact in artifacts if artifact and artifact.card.task]
    if data is None and not known:
        raise InputError("--data: name the task; an ONNX file does not say what it was trained on.")
    return data or known[0] or ""

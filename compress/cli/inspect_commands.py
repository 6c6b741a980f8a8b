"""`compress bench`, `compress list`, `compress doctor`."""

from __future__ import annotations

import json
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from compress.cli.options import (
    Device,
    DeviceOption,
    JsonOption,
    OutOption,
    SeedOption,
    check_device,
    paths_and_settings,
)
from compress.cli.screen import progress_bars, results_table, samples_line, terminal_width


class What(StrEnum):
    """What `compress list` can show."""

    models = "models"
    data = "data"
    recipes = "recipes"


def register(app: typer.Typer) -> None:
    """Add this file's commands."""
    app.command(
        epilog="Exit codes: 0 done, 2 wrong use, bad input, or a model that could not be measured "
        "and was left out."
    )(bench)
    app.command(name="list")(show_list)
    app.command()(doctor)


def bench(
    arms: Annotated[
        list[str],
        typer.Argument(
            help="Artifact folders and ONNX files; @openvino, @torch, @torchscript or @compile "
            "behind one names its runtime; key=value sets batch, threads, length (of what inputs "
            "leave open, without --data), affinity, …"
        ),
    ],
    data: Annotated[
        str | None, typer.Option(help="Task for accuracy; latency alone if left out.")
    ] = None,
    out: OutOption = None,
    seed: SeedOption = 0,
    device: DeviceOption = Device.cpu,
    as_json: JsonOption = False,
) -> None:
    """Latency, memory, size, accuracy side by side: compress bench a b.onnx batch=[1,8]"""
    from compress.pipeline.bench import bench as run_bench
    from compress.recipe import check_settings

    files, settings = paths_and_settings(arms)
    config = check_settings("benchmark", settings)
    check_device(device)
    with progress_bars(enabled=not as_json) as progress:
        report = run_bench(
            files, config, data=data, device=device.value, seed=seed, out=out, progress=progress
        )
    if as_json:
        print(report.model_dump_json(indent=1))
    else:
        print(results_table(report, terminal_width()))
        print(samples_line(report))
        for name, reason in report.failed.items():
            print(f"{name}: left out, {reason}.")
        if out:
            print(f"report: {out / 'report.html'}")
    raise typer.Exit(2 if report.failed else 0)


def show_list(
    what: Annotated[
        What | None, typer.Argument(help="models, data or recipes; all if left out.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """What there is: reference models, tasks, recipes."""
    from compress.data.references import TASKS
    from compress.models.references import REFERENCES

    everything: dict[str, dict[str, str]] = {
        "models": {name: reference.about for name, reference in REFERENCES.items()},
        "data": {name: about for name, (_, about) in TASKS.items()},
        "recipes": _recipes(),
    }
    shown = {what.value: everything[what.value]} if what else everything
    if as_json:
        print(json.dumps(shown, indent=1, ensure_ascii=False))
        return
    for kind, entries in shown.items():
        print(f"{kind}:")
        for name, about in entries.items():
            print(f"  {name:24} {about}")
        if not entries:
            print("  none here")


def _recipes() -> dict[str, str]:
    """Recipes below the current folder, with the first line of their opening comment."""
    found = {}
    for path in sorted(Path("recipes").glob("*.yaml")):
        first = path.read_text(encoding="utf-8").partition("\n")[0]
        found[str(path)] = first.lstrip("# ")
    return found


def doctor(as_json: JsonOption = False) -> None:
    """What this machine can do: processor, int8 and bf16 instructions, runtimes, devices, data."""
    import onnxruntime
    import torch

    from compress.data.references import TASKS, data_is_there
    from compress.measure.machine import machine

    facts = machine()
    facts["onnxruntime providers"] = onnxruntime.get_available_providers()
    facts["cuda"] = torch.cuda.is_available()
    facts["reference data"] = {name: data_is_there(name) for name in TASKS}
    if as_json:
        print(json.dumps(facts, indent=1, ensure_ascii=False))
        return
    for key, value in facts.items():
        print(f"{key:24} {_shown(value)}")
    flags = set(facts["instruction_sets"])
    if not flags & {"avx512_vnni", "avx_vnni", "asimddp"}:
        print(
            "No VNNI: int8 gains little here, and U8S8 sums can saturate; measure before you ship."
        )
    missing = [name for name, there in facts["reference data"].items() if not there]
    if missing:
        print(f"No data for {', '.join(missing)}: pip install 'compress-kit[reference]' brings it.")


def _shown(fact: object) -> str:
    """What is known of this machine, in one line."""
    if isinstance(fact, dict):
        words = {True: "there", False: "missing"}
        pairs = {name: words[v] if isinstance(v, bool) else v for name, v in fact.items()}
        return ", ".join(f"{name} {found}" for name, found in pairs.items())
    return ", ".join(map(str, fact)) if isinstance(fact, list) else str(fact)

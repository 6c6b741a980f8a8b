"""`compress check`: the regression gate."""

from __future__ import annotations

import shlex
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

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
from compress.cli.screen import gate_table, progress_bars, say
from compress.errors import InputError

if TYPE_CHECKING:
    from compress.pipeline.check import CheckConfig
    from compress.report.schema import Report

#: Exit codes of the verdicts; "inconclusive" may also be let pass.
_CODES = {"ok": 0, "improved": 0, "regressed": 1, "inconclusive": 3}


class Without(StrEnum):
    """What a check without a verdict, or without a baseline, does to the exit code."""

    fail = "fail"
    pass_ = "pass"


def register(app: typer.Typer) -> None:
    """Add this file's command."""
    app.command(
        epilog="Exit codes: 0 ok or improved, 1 regressed, 2 wrong use, bad input, 3 inconclusive."
    )(check)


def check(
    context: typer.Context,
    baseline: Annotated[
        Path | None,
        typer.Argument(help="ONNX file, artifact folder, run folder or its report.json."),
    ] = None,
    candidate: Annotated[
        Path | None, typer.Argument(help="The same, of the model to be judged.")
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[KEY=VALUE]...",
            help="How latencies are taken: affinity=[0,1], warm_up_s, warm_up_calls, "
            "warm_up_cap_s, rounds, block_ms, timeout; length=64 of made-up inputs.",
        ),
    ] = None,
    gates: Annotated[
        Path | None,
        typer.Option(
            help="YAML file of what is promised, instead of the options down to --threads and of "
            "KEY=VALUE; it may have all of these keys."
        ),
    ] = None,
    data: Annotated[
        str | None, typer.Option(help="Task for its metric; latency and cost alone if left out.")
    ] = None,
    max_drop: Annotated[float, typer.Option(min=0, help="Allowed drop of the metric.")] = 0.01,
    relative: Annotated[
        bool, typer.Option("--relative", help="--max-drop is a share of the baseline's metric.")
    ] = False,
    margin: Annotated[
        float, typer.Option(help="How much slower still counts as equal, as a share.")
    ] = 0.05,
    size_margin: Annotated[
        float, typer.Option(min=0, help="The same for bytes, parameters and MACs.")
    ] = 0.01,
    batch: Annotated[
        list[int] | None, typer.Option(min=1, help="Samples a call; may be repeated. [default: 1]")
    ] = None,
    threads: Annotated[int, typer.Option(min=1, help="Threads of the runtime.")] = 1,
    inconclusive: Annotated[
        Without, typer.Option(help="Whether an inconclusive check passes.")
    ] = Without.fail,
    missing_baseline: Annotated[
        Without, typer.Option(help="Whether a first check, which has no baseline yet, passes.")
    ] = Without.fail,
    out: OutOption = None,
    seed: SeedOption = 0,
    device: DeviceOption = Device.cpu,
    as_json: JsonOption = False,
) -> None:
    """Whether the candidate is slower, worse or larger than the baseline: the gate for CI."""
    from compress.pipeline.check import check as run_check
    from compress.pipeline.find import find_model, nothing_there
    from compress.pipeline.gates import check_gates
    from compress.recipe.gate_file import POSITIONAL, load_gates

    words = [str(word) for word in (baseline, candidate, *(settings or [])) if word is not None]
    paths, pairs = paths_and_settings(words)
    if len(paths) > len(POSITIONAL):
        raise InputError(f"{paths[2]}: a third model; name BASELINE and CANDIDATE.")
    given = dict(zip(POSITIONAL, paths, strict=False))
    check_device(device)
    if missing_baseline is Without.pass_ and len(paths) == 2 and nothing_there(paths[0]):
        find_model(paths[1])
        _tell_first(paths[0], as_json)
        raise typer.Exit(0)
    tell = (lambda _: None) if as_json else say
    if gates is not None:
        _refuse_limits(context, pairs)
        file = load_gates(gates, given, data)
        with progress_bars(enabled=not as_json) as progress:
            report = check_gates(
                file,
                command=_command(gates, given, data, device, seed),
                device=device.value,
                seed=seed,
                out=out,
                progress=progress,
                tell=tell,
            )
    else:
        if len(paths) < len(POSITIONAL):
            raise InputError("check: name BASELINE and CANDIDATE, or a file of gates in --gates.")
        config = _config(context, pairs)
        with progress_bars(enabled=not as_json) as progress:
            report = run_check(
                paths[0],
                paths[1],
                config,
                data=data,
                device=device.value,
                seed=seed,
                out=out,
                progress=progress,
                tell=tell,
            )
    _finish(report, out, inconclusive, as_json)


def _config(context: typer.Context, pairs: dict[str, Any]) -> CheckConfig:
    """What the options and the settings ask for together.

    Raises:
        RecipeError: a setting that does not exist or cannot be.
        InputError: one that is given in both ways.
    """
    from compress.pipeline.check import CheckConfig
    from compress.recipe.settings import validated

    options = _given_limits(context)
    for name in options:
        if name in pairs:
            raise InputError(f"{name}: given as --{name.replace('_', '-')} as well; keep one.")
    config: CheckConfig = validated(CheckConfig, options | pairs, "check")
    return config


def _given_limits(context: typer.Context) -> dict[str, Any]:
    """The options that say what is allowed, where they stand on the command line."""
    found = {}
    for name in ("max_drop", "relative", "margin", "size_margin", "batch", "threads"):
        source = context.get_parameter_source(name)
        if source is not None and source.name == "COMMANDLINE":
            found[name] = context.params[name]
    return found


def _refuse_limits(context: typer.Context, pairs: dict[str, Any]) -> None:
    """With a gate file every limit stands in the file, so that none is set aside in silence."""
    names = [f"--{name.replace('_', '-')}" for name in _given_limits(context)]
    for name in [*names, *pairs]:
        raise InputError(f"{name}: with --gates the file says what is allowed.")


def _command(
    gates: Path, given: dict[str, Path], data: str | None, device: Device, seed: int
) -> str:
    """The command line that repeats a check of gates."""
    words = ["compress", "check", *map(str, given.values()), "--gates", str(gates)]
    words += ["--data", data] if data else []
    words += ["--device", device.value] if device is not Device.cpu else []
    words += ["--seed", str(seed)] if seed else []
    return shlex.join(words)


def _finish(report: Report, out: Path | None, inconclusive: Without, as_json: bool) -> None:
    """Print what came out, and end with its code."""
    assert report.gate is not None
    if as_json:
        print(report.model_dump_json(indent=1))
    else:
        print(gate_table(report))
        print("\n".join([report.gate.explanation, *report.notes]))
        if out:
            print(f"report: {out / 'report.html'}")
    code = _CODES[report.gate.verdict]
    if report.gate.verdict == "inconclusive" and inconclusive is Without.pass_:
        code = 0
    raise typer.Exit(code)


def _tell_first(baseline: Path, as_json: bool) -> None:
    import json

    said = f"{baseline}: no baseline yet, so there was nothing to compare with."
    print(json.dumps({"gate": None, "message": said}) if as_json else said)

"""`compress run`, `compress validate`, `compress report`."""

from __future__ import annotations

import shlex
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from compress.cli.options import Device, DeviceOption, JsonOption, OutOption, check_device
from compress.cli.screen import progress_bars, results_table, samples_line, say, terminal_width

if TYPE_CHECKING:
    from compress.artifact import Artifact
    from compress.pipeline.runner import OnStage
    from compress.recipe import Recipe, Stage


def register(app: typer.Typer) -> None:
    """Add this file's commands."""
    app.command(
        epilog="Exit codes: 0 done, 1 budget missed or a stage failed, 2 wrong use, bad input, or "
        "a model that could not be measured and was left out."
    )(run)
    app.command()(validate)
    app.command()(report)


def run(
    recipe: Annotated[Path, typer.Argument(help="A recipe, such as recipes/cnn.yaml.")],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(metavar="[KEY=VALUE]...", help="Override any value: prune.macs=0.3"),
    ] = None,
    out: OutOption = None,
    device: DeviceOption = Device.cpu,
    seed: Annotated[int | None, typer.Option(min=0, help="Instead of the recipe's seed.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Run every stage of a recipe, resumed where it stopped; ends with the table and the report."""
    from compress.pipeline import run as run_recipe
    from compress.recipe import load_recipe

    pairs = [*(overrides or []), *([f"seed={seed}"] if seed is not None else [])]
    loaded = load_recipe(recipe, pairs)
    check_device(device)
    folder = out or Path("runs") / recipe.stem
    began = time.monotonic()
    with progress_bars(enabled=not as_json) as progress:
        outcome = run_recipe(
            loaded,
            folder,
            device=device.value,
            command=shlex.join(["compress", *sys.argv[1:]]),
            progress=progress,
            on_stage=_teller(loaded, as_json),
        )
    if as_json:
        print(outcome.report.model_dump_json(indent=1))
    else:
        print(results_table(outcome.report, terminal_width()))
        print(samples_line(outcome.report))
        for note in outcome.report.notes:
            print(note)
        if outcome.report.budget:
            print(f"budget {outcome.report.budget.status}: {outcome.report.budget.explanation}")
        reused = f", {outcome.reused} of {outcome.stages} stages were done before"
        print(f"{time.monotonic() - began:.0f} s{reused if outcome.reused else ''}")
        print(f"report: {folder / 'report.html'}")
    raise typer.Exit(outcome.exit_code)


def _teller(recipe: Recipe, silent: bool) -> OnStage:
    total = sum(stage.kind != "benchmark" for stage in recipe.stages)
    number = 0

    def tell(stage: Stage, artifact: Artifact, reused: bool) -> None:
        nonlocal number
        number += 1
        if silent:
            return
        found = artifact.card.metrics.get("validation", {})
        quality = f"validation {found['metric']} {found['value']:.4f}" if found else ""
        chosen = artifact.card.evidence.get("chosen")
        state = "done before" if reused else f"{artifact.card.seconds:.0f} s"
        parts = [
            f"[{number}/{total}] {stage.name}",
            quality,
            f"chose {chosen}" if chosen else "",
            state,
        ]
        say("  ".join(part for part in parts if part))

    return tell


def validate(
    recipes: Annotated[
        list[Path], typer.Argument(help="Recipes and gate files to check; nothing is run.")
    ],
    as_json: JsonOption = False,
) -> None:
    """Print all errors of all recipes and gate files at once."""
    import json

    from compress.errors import CompressError, RecipeError
    from compress.recipe import load_recipe
    from compress.recipe.gate_file import is_gate_file, load_gates

    failures: dict[str, list[str]] = {}
    for path in recipes:
        try:
            (load_gates if is_gate_file(path) else load_recipe)(path)
        except RecipeError as error:
            failures[str(path)] = error.errors
        except CompressError as error:
            failures[str(path)] = [str(error).removeprefix(f"{path}: ")]
    if as_json:
        print(json.dumps(failures, indent=1, ensure_ascii=False))
    else:
        for path in recipes:
            for line in failures.get(str(path), []):
                print(f"{path}: {line}")
            if str(path) not in failures:
                print(f"{path}: ok")
    raise typer.Exit(2 if failures else 0)


def report(
    runs: Annotated[
        list[Path] | None, typer.Argument(help="Run folders, or report.json files.")
    ] = None,
    history: Annotated[
        Path | None,
        typer.Option(
            help="Folder with the report.json files of many commits, at any depth: draws each "
            "figure over the commits and marks where its level changed."
        ),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder of the history's pages. [default: --history's]")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Render report.html, report.md, junit.xml and benchmark.json anew; or draw a history."""
    if (history is None) == (not runs):
        raise typer.BadParameter("name either runs to render, or --history FOLDER.")
    if history is not None:
        _history(history, out or history, as_json)
        return
    if out is not None:
        raise typer.BadParameter("--out goes with --history; a run's pages stand in its folder.")
    _render(runs or [], as_json)


def _history(folder: Path, out: Path, as_json: bool) -> None:
    from compress.pipeline.history import read_history, write_history
    from compress.report.history_words import summary

    found = read_history(folder)
    write_history(found, out)
    if as_json:
        print(found.model_dump_json(indent=1))
        return
    for line in found.skipped:
        print(line)
    print(f"{summary(found)[0]}.")
    print(f"history: {out / 'history.html'}")


def _render(runs: list[Path], as_json: bool) -> None:
    import json

    from compress.pipeline.pages import write_pages
    from compress.report.schema import load_report

    files = [path / "report.json" if path.is_dir() else path for path in runs]
    loaded = [load_report(file) for file in files]
    for file, content in zip(files, loaded, strict=True):
        write_pages(content, file.parent)
        if not as_json:
            print(f"report: {file.parent / 'report.html'}")
    if as_json:
        shown = [content.model_dump(mode="json") for content in loaded]
        print(json.dumps(shown if len(shown) > 1 else shown[0], indent=1, ensure_ascii=False))

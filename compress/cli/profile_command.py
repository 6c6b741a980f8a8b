"""`compress profile`: where a model's time goes."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from compress.cli.options import JsonOption, OutOption
from compress.cli.screen import progress_bars, table_text, terminal_width


def register(app: typer.Typer) -> None:
    """Add this file's command."""
    app.command()(profile)


def profile(
    model: Annotated[
        Path, typer.Argument(help="ONNX file, artifact folder, run folder or its report.json.")
    ],
    other: Annotated[
        Path | None, typer.Argument(help="A second model, for the difference of the two.")
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(help="Task whose samples are the inputs; random ones if left out."),
    ] = None,
    batch: Annotated[int, typer.Option(min=1, max=65_536, help="Samples a call.")] = 1,
    length: Annotated[
        int | None,
        typer.Option(
            min=1, max=65_536, help="Of every open dimension behind the batch; without --data."
        ),
    ] = None,
    threads: Annotated[int, typer.Option(min=1, max=65_536, help="Threads of the runtime.")] = 1,
    out: OutOption = None,
    as_json: JsonOption = False,
) -> None:
    """Where the time goes on the CPU, by operator and node: compress profile a.onnx b.onnx"""
    from compress.measure.profile import ProfileConfig
    from compress.pipeline.profile import profile as run_profile
    from compress.report import profile_tables as tables

    config = ProfileConfig(batch=batch, length=length, threads=threads)
    with progress_bars(enabled=not as_json) as progress:
        report = run_profile(model, other, config, data=data, out=out, progress=progress)
    if as_json:
        print(report.model_dump_json(indent=1))
        return
    width = terminal_width()
    for arm in report.arms:
        assert arm.profile is not None
        print(f"{arm.name}\n")
        print(table_text(tables.operators_table(arm.profile), width))
        print()
        print(table_text(tables.nodes_table(arm.profile), width))
        print("\n" + "\n".join(tables.sentences(arm.profile)) + "\n")
    for pair in tables.compared(report):
        print(f"{pair.after_name} against {pair.before_name}\n")
        print(table_text(tables.difference_table(pair), width) + "\n")
    print("\n".join(report.notes))
    if out:
        print(f"report: {out / 'report.html'}")

"""`compress quantize`: one model made int8, and what came of it told."""

from __future__ import annotations

import shlex
import sys
import tempfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from compress.cli.options import Device, check_device
from compress.cli.screen import progress_bars, results_table, samples_line, terminal_width
from compress.errors import InputError, NoEffect

if TYPE_CHECKING:
    from compress.artifact import Artifact
    from compress.measure.config import BenchConfig
    from compress.pipeline.quantize_model import Quantized
    from compress.report.schema import Candidate


@dataclass(frozen=True)
class Wanted:
    """What the options say of data, judgement and budget."""

    data: str | None
    metric: str | None
    higher_is_better: bool
    agreement: str
    runtimes: tuple[str, ...]
    budget: dict[str, Any]


def carry_out(
    model: str,
    settings: dict[str, Any],
    wanted: Wanted,
    out: Path,
    seed: int,
    device: Device,
    as_json: bool,
) -> None:
    """Quantize a model, and print what was found.

    Raises:
        NoEffect: nothing was faster or smaller within the drop; the model that came in is in `out`.
        typer.Exit: with 1, where the chosen model misses the budget on the test split.
    """
    from compress.measure.machine import cores
    from compress.pipeline.judging import export_named, judge_for, read_any
    from compress.pipeline.quantize_model import quantize_model
    from compress.recipe import BudgetConfig, check_settings

    bench = _bench(settings)
    config = check_settings("quantize", settings)
    named = ":" in model and not Path(model).exists()
    parent = None if named else _artifact(Path(model))
    data = _checked(wanted, parent)
    check_device(device)
    source = read_any(data)
    with tempfile.TemporaryDirectory() as folder, progress_bars(enabled=not as_json) as progress:
        if parent is None:
            parent = export_named(model, data, source, Path(folder))
        judge = judge_for(
            data,
            source,
            parent.onnx,
            metric=wanted.metric,
            higher_is_better=wanted.higher_is_better,
            agreement=wanted.agreement,  # type: ignore[arg-type]  # checked above
            seed=seed,
        )
        made = quantize_model(
            parent,
            judge,
            config,
            BudgetConfig.model_validate(wanted.budget),
            out,
            bench=bench.model_copy(update={"batch": judge.sizes(bench.batch)}),
            seed=seed,
            device=device.value,
            threads=cores(),
            runtimes=wanted.runtimes,
            command=shlex.join(["compress", *sys.argv[1:]]),
            progress=progress,
        )
    print(made.artifact.card.model_dump_json(indent=1)) if as_json else _tell(made)
    if made.report is None:
        raise NoEffect(f"interrupted: {out} holds the best that was found until then.")
    if made.chosen is None:
        raise NoEffect(
            "no quantized model was faster or smaller within the drop: the fp32 model stays."
        )
    if made.report.budget is not None and made.report.budget.status == "missed":
        raise typer.Exit(1)  # what is to be said of it has been printed


def _bench(settings: dict[str, Any]) -> BenchConfig:
    from compress.recipe import check_settings

    given = settings.pop("benchmark", {})
    if not isinstance(given, dict):
        raise InputError(f"benchmark={given}: expected a setting, such as benchmark.batch=[1,32].")
    config: BenchConfig = check_settings("benchmark", given)
    if config.length is not None:
        raise InputError("benchmark.length: the data has lengths of its own; leave it out.")
    if config.profile:
        raise InputError(
            "benchmark.profile: `compress profile` tells it of two models; leave it out."
        )
    return config


def _artifact(path: Path) -> Artifact:
    from compress.artifact import load_artifact, wrap_onnx

    return wrap_onnx(path) if path.suffix == ".onnx" else load_artifact(path)


def _checked(wanted: Wanted, parent: Artifact | None) -> str:
    """The data reference; raises InputError for options that do not go together."""
    if wanted.budget["minimise"] not in ("latency", "size"):
        found = wanted.budget["minimise"]
        raise InputError(f"--minimise: expected latency or size, found '{found}'.")
    if not wanted.higher_is_better and wanted.metric is None:
        raise InputError("--lower-is-better: goes with --metric; name that, or leave it out.")
    if wanted.agreement not in ("auto", "top-1", "error"):
        raise InputError(f"--agreement: expected auto, top-1 or error, found '{wanted.agreement}'.")
    from compress.runtime.interface import RUNTIMES, TORCH, import_runtime

    for runtime in wanted.runtimes:
        others = [name for name in RUNTIMES if name not in (*TORCH, "onnxruntime")]
        if runtime not in others:
            raise InputError(f"--runtime: expected {' or '.join(others)}, found '{runtime}'.")
        import_runtime(runtime)
    data = wanted.data or (parent.card.task if parent else None)
    if data is None:
        raise InputError(
            "--data: name a task, npz:FILE or file.py:factory; an ONNX file does not say what it "
            "takes."
        )
    return data


def _tell(made: Quantized) -> None:
    """Every candidate, then the two models side by side."""
    width = max(len(entry.name) for entry in made.candidates) + 2
    for entry in made.candidates:
        print(_line(entry, width))
    if made.artifact.card.evidence["calibration"].get("reused"):
        print("calibration: statistics of an earlier run serve, no pass was run")
    if made.report is None:
        return
    print()
    print(results_table(made.report, terminal_width()))
    print(samples_line(made.report))
    for line in _left_in_fp32(made):
        print(line)
    for note in made.report.notes:
        print(note)
    if made.report.budget is not None:
        print(f"budget {made.report.budget.status}: {made.report.budget.explanation}")
    print(f"report: {made.artifact.folder / 'report.html'}")


def _left_in_fp32(made: Quantized) -> list[str]:
    """Operators of the chosen model that do not compute in int8, or fp16, with the reason."""
    if made.chosen is None:
        return []
    nodes = made.artifact.card.evidence["nodes"]
    wanted = "fp16" if any(node["precision"] == "fp16" for node in nodes) else "int8"
    counts = Counter(
        (node["operator"], node["precision"], node["why"]) for node in nodes if "why" in node
    )
    return [
        f"not {wanted}: {n} {kind} ({precision}): {why}"
        for (kind, precision, why), n in counts.items()
    ]


def _line(entry: Candidate, width: int) -> str:
    ratio = f"{1 / entry.latency_ratio:.2f} × as fast" if entry.latency_ratio else "–"
    drop = "–" if entry.drop is None else f"{entry.drop:+.4f}"
    mark = "kept" if entry.kept else "refused"
    return f"  {mark:8}{entry.name:{width}}{ratio:17}{drop:>9}  {entry.reason}"

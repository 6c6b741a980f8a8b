"""A benchmark of named models, outside a recipe."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING

from compress.artifact import ONNX, Artifact, load_artifact, wrap_onnx
from compress.data.references import load_task
from compress.errors import InputError
from compress.export.loading import load_graph
from compress.measure.config import BenchConfig, as_pairs
from compress.measure.latency import Measured
from compress.measure.profile import bench_profiles
from compress.measure.quality import feeds
from compress.pipeline.benchmark import describe_arm, left_out, measurement
from compress.pipeline.compare import Scores, compare
from compress.pipeline.context import Context
from compress.pipeline.lengths import check_length, told_length
from compress.pipeline.origin import origin
from compress.pipeline.pages import write_report
from compress.pipeline.runtimes import arm_facts, target_of
from compress.pipeline.timing import time_arms
from compress.progress import Progress, quiet
from compress.recipe import BudgetConfig
from compress.report.schema import Arm, Comparison, Report
from compress.runtime.interface import import_runtime, split_runtime

if TYPE_CHECKING:
    from compress.data.task import Task

_NO_DATA = "No data was given: inputs are random, accuracy was not measured."


def bench(
    paths: list[Path],
    config: BenchConfig,
    *,
    data: str | None = None,
    device: str = "cpu",
    seed: int = 0,
    out: Path | None = None,
    progress: Progress = quiet,
) -> Report:
    """Measure models side by side; the first is the baseline.

    An arm that crashes, hangs or does not fit the data is left out, and `Report.failed` says why;
    the first cannot be left out.

    Args:
        paths: artifact folders and ONNX files, with `@runtime` behind them where it is not
            onnxruntime.
        data: task for accuracy; without one only what needs no data is measured.
        out: folder for report.json, .html and .md; None writes nothing.

    Raises:
        InputError: no arm, one arm twice, a runtime that is not there, a first model that does not
            fit the data, or a `length` that a model or the data does not leave open.
        WorkerFailed: the first arm cannot be measured.
    """
    artifacts, runtimes = _artifacts(paths)
    config.check_here(device)
    files = {
        name: made.onnx
        for name, made in artifacts.items()
        if made.file is not None or ONNX in made.card.files
    }
    check_length(files, config.length, data)
    targets = {name: target_of(artifacts[name], runtimes[name]) for name in artifacts}
    task = load_task(data) if data else None
    rows = feeds(task.validation) if task else None
    measured, memory, failed = time_arms(
        targets, config, inputs=rows, device=device, seed=seed, progress=progress
    )
    artifacts = {name: artifacts[name] for name in artifacts if name not in failed}
    arms, scores = describe(artifacts, task, config, device, seed, progress, out, runtimes)
    plain = {name: files[name] for name in artifacts if runtimes[name] == "onnxruntime"}
    profiles, unprofiled = bench_profiles(plain, config, inputs=rows, progress=progress)
    arms = [
        arm.model_copy(
            update={
                "latency": measured.latency(arm.name),
                "peak_memory_bytes": memory[arm.name],
                "profile": profiles.get(arm.name),
            }
        )
        for arm in arms
    ]
    notes = [] if task else [_NO_DATA, *told_length(files.values(), config.lengths)]
    notes += left_out(failed, unprofiled)
    settings = config.model_dump(mode="json")
    report = Report(
        **origin(_command(paths, config, data, device, seed), "Benchmark", {"benchmark": settings}),
        baseline=arms[0].name,
        arms=arms,
        comparisons=_comparisons(arms, measured, task, scores),
        measurement=measurement(config, measured, device),
        notes=notes,
        failed=failed,
        raw=measured.raw(),
    )
    if out is not None:
        write_report(report, out)
    return report


def _artifacts(paths: list[Path]) -> tuple[dict[str, Artifact], dict[str, str]]:
    """Name of each arm to its artifact and to its runtime; what cannot be read is told at once."""
    artifacts, runtimes = {}, {}
    for arm in map(str, paths):
        name, runtime = split_runtime(arm)
        import_runtime(runtime)
        path = Path(name)
        artifacts[arm] = wrap_onnx(path) if path.suffix == ".onnx" else load_artifact(path)
        runtimes[arm] = runtime
        if target_of(artifacts[arm], runtime).path.is_file():
            load_graph(artifacts[arm].onnx)
    if not artifacts or len(artifacts) < len(paths):
        raise InputError("bench: name at least one model, and each only once.")
    return artifacts, runtimes


def _command(
    paths: list[Path], config: BenchConfig, data: str | None, device: str, seed: int
) -> str:
    """The command line that repeats a benchmark."""
    words = ["compress", "bench", *map(str, paths), *as_pairs(config, BenchConfig.model_fields)]
    words += ["--data", data] if data else []
    words += ["--device", device] if device != "cpu" else []
    words += ["--seed", str(seed)] if seed else []
    return shlex.join(words)


def _comparisons(
    arms: list[Arm], measured: Measured, task: Task | None, scores: dict[str, Scores]
) -> list[Comparison]:
    better = task.metric.higher_is_better if task else True
    return [
        entry
        for arm in arms[1:]
        for entry in compare(
            arms[0], arm, measured, scores if task else None, higher_is_better=better
        )
    ]


def describe(
    artifacts: dict[str, Artifact],
    task: Task | None,
    config: BenchConfig,
    device: str,
    seed: int,
    progress: Progress,
    out: Path | None,
    runtimes: dict[str, str] | None = None,
) -> tuple[list[Arm], dict[str, Scores]]:
    """All that needs no clock: of every arm its cost, and with a task its score on every sample.

    Args:
        runtimes: name of an arm to its runtime; onnxruntime for those that are not named.
    """
    arms: list[Arm] = []
    scores: dict[str, Scores] = {}
    for name, artifact in artifacts.items():
        target = target_of(artifact, (runtimes or {}).get(name, "onnxruntime"))
        if task is None:
            arms.append(Arm(name=name, device=device, **arm_facts(artifact, target)))
        else:
            context = _context(task, config, device, seed, progress)
            arm, scores[name] = describe_arm(
                name, target, context, artifact=artifact, out=out or Path()
            )
            arms.append(arm)
    return arms, scores


def _context(
    task: Task, config: BenchConfig, device: str, seed: int, progress: Progress
) -> Context:
    return Context(
        task=task,
        data=task.name,
        model={},
        budget=BudgetConfig(),
        bench=config,
        seed=seed,
        device=device,
        cache=Path(".cache"),
        progress=progress,
    )

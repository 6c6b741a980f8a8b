"""A benchmark of named models, outside a recipe."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import compress
from compress.artifact import Artifact, digest, load_artifact, wrap_onnx
from compress.data.references import load_task
from compress.errors import InputError
from compress.export.graph import load_onnx, operators, precision
from compress.measure.config import BenchConfig
from compress.measure.latency import measure, measure_memory
from compress.measure.machine import machine
from compress.measure.quality import feeds
from compress.pipeline.benchmark import describe_arm, measurement
from compress.pipeline.commit import current_commit
from compress.pipeline.compare import Scores, compare
from compress.pipeline.context import Context
from compress.pipeline.pages import write_report
from compress.progress import Progress, quiet
from compress.recipe import BudgetConfig
from compress.report.schema import Arm, Report
from compress.runtime.onnxruntime import Session

if TYPE_CHECKING:
    from compress.data.task import Task


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

    Args:
        paths: artifact folders and ONNX files.
        data: task for accuracy; without one only what needs no data is measured.
        out: folder for report.json, .html and .md; None writes nothing.

    Raises:
        InputError: no arm, one arm twice, or models that do not fit the data.
    """
    artifacts = {
        str(path): wrap_onnx(path) if path.suffix == ".onnx" else load_artifact(path)
        for path in paths
    }
    if not artifacts or len(artifacts) < len(paths):
        raise InputError("bench: name at least one model, and each only once.")
    task = load_task(data) if data else None
    rows = feeds(task.validation) if task else None
    files = {name: artifact.onnx for name, artifact in artifacts.items()}
    arms, scores = describe(artifacts, task, config, device, seed, progress, out)
    measured = measure(
        files, config, inputs=rows, device=device, seed=seed, progress=progress, label="benchmark"
    )
    memory = measure_memory(files, config, inputs=rows, device=device)
    arms = [
        arm.model_copy(
            update={
                "latency": measured.latency(arm.name),
                "peak_memory_bytes": memory[arm.name],
            }
        )
        for arm in arms
    ]
    better = task.metric.higher_is_better if task else True
    comparisons = [
        entry
        for arm in arms[1:]
        for entry in compare(
            arms[0], arm, measured, scores if task else None, higher_is_better=better
        )
    ]
    settings = config.model_dump(mode="json")
    report = Report(
        tool_version=compress.__version__,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        command="compress bench " + " ".join(map(str, paths)) + (f" --data {data}" if data else ""),
        title="Benchmark",
        machine=machine(),
        commit=current_commit(),
        recipe={"benchmark": settings},
        recipe_hash=digest(settings),
        baseline=arms[0].name,
        arms=arms,
        comparisons=comparisons,
        measurement=measurement(config, measured, device),
        notes=[] if task else ["No data was given: inputs are random, accuracy was not measured."],
    )
    if out is not None:
        write_report(report, out)
    return report


def describe(
    artifacts: dict[str, Artifact],
    task: Task | None,
    config: BenchConfig,
    device: str,
    seed: int,
    progress: Progress,
    out: Path | None,
) -> tuple[list[Arm], dict[str, Scores]]:
    """All that needs no clock: of every arm its cost, and with a task its score on every sample."""
    arms: list[Arm] = []
    scores: dict[str, Scores] = {}
    for name, artifact in artifacts.items():
        load_onnx(artifact.onnx)
        if task is None:
            arms.append(_bare_arm(name, artifact, device))
        else:
            context = _context(task, config, device, seed, progress)
            arm, scores[name] = describe_arm(
                name, artifact.onnx, context, artifact=artifact, out=out or Path()
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


def _bare_arm(name: str, artifact: Artifact, device: str) -> Arm:
    counts = operators(load_onnx(artifact.onnx))
    Session(artifact.onnx, device)
    evidence = artifact.card.evidence
    return Arm(
        name=name,
        kind=artifact.card.kind,
        file=str(artifact.onnx),
        runtime="onnxruntime",
        device=device,
        precision=precision(counts),
        parameters=evidence.get("parameters", [None])[-1],
        macs=evidence.get("macs", [None])[-1],
        size_bytes=artifact.onnx.stat().st_size,
        operators=counts,
    )

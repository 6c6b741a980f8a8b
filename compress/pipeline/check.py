"""The regression gate: a candidate against its baseline, both run here and now, and a verdict.

Milliseconds that were stored before are never compared: another machine, or the same one on another
day, would be the difference. What is stored and compared is the baseline's model.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated

from pydantic import Field, field_validator

from compress.data.references import load_task
from compress.data.task import Task
from compress.gate import decide, looks_for
from compress.measure.config import BenchConfig, CheckTiming, Count, as_pairs
from compress.measure.quality import feeds
from compress.pipeline.alike import check_alike
from compress.pipeline.bench import describe
from compress.pipeline.benchmark import measurement
from compress.pipeline.compare import Scores, compare_further
from compress.pipeline.find import find_model
from compress.pipeline.lengths import check_length, told_length
from compress.pipeline.origin import origin
from compress.pipeline.pages import write_report
from compress.pipeline.regression import Limits, compared, judge, proof
from compress.pipeline.timing import Pair, time_pairs
from compress.progress import Progress, quiet
from compress.report.schema import Report

BASELINE, CANDIDATE = "baseline", "candidate"
_NO_DATA = "No data was given: accuracy was not compared, and inputs are random."


class CheckConfig(CheckTiming):
    """What a check promises, and how it measures.

    Attributes:
        max_drop: largest drop of the task's metric, in its unit; only with data.
        relative: whether `max_drop` is a share of the baseline's metric instead.
        size_margin: how much more bytes, parameters or MACs still count as equal.
        batch: samples a call.
    """

    max_drop: Annotated[float, Field(ge=0)] = 0.01
    relative: bool = False
    size_margin: Annotated[float, Field(ge=0)] = 0.01
    batch: Annotated[tuple[Count, ...], Field(min_length=1)] = (1,)

    @field_validator("batch", mode="before")
    @classmethod
    def _one_or_more(cls, value: object) -> object:
        return [value] if isinstance(value, int) else value

    def bench(self, workers: int) -> BenchConfig:
        """A benchmark of so many workers, the control included."""
        return self.benchmark(self.batch, workers)


def check(
    baseline: Path,
    candidate: Path,
    config: CheckConfig,
    *,
    data: str | None = None,
    device: str = "cpu",
    seed: int = 0,
    out: Path | None = None,
    progress: Progress = quiet,
    tell: Callable[[str], None] = lambda _: None,
) -> Report:
    """Compare two models and decide; `Report.gate` has the verdict.

    Args:
        baseline, candidate: an ONNX file, an artifact folder, a run folder or its report.json
            (whose final model is meant).
        data: task for the metric; without one latency and cost alone are compared.
        out: folder for report.json, .html and .md; None writes nothing.
        tell: is given one line of what is planned, once nothing stands against it.

    Raises:
        InputError: no model there, two models that take different inputs, or settings that this
            machine cannot keep.
        WorkerFailed: a model crashes or hangs while it is measured.
    """
    config.bench(1).check_here(device)
    artifacts = {BASELINE: find_model(baseline), CANDIDATE: find_model(candidate)}
    task = load_task(data) if data else None
    rows = feeds(task.validation) if task else None
    files = {name: artifact.onnx for name, artifact in artifacts.items()}
    check_length(files, config.length, data)
    sample = rows(2) if rows else None
    notes = check_alike(files[BASELINE], files[CANDIDATE], device, sample, config.length)
    arms, scores = describe(artifacts, task, config.bench(1), device, seed, progress, out)
    limits = _limits(config, task, scores)
    tell(plan(len(config.batch)) + (f"; {proof(limits, scores)}" if task else ""))
    timed = time_pairs(
        files,
        {batch: Pair(BASELINE, CANDIDATE, batch, config.length) for batch in config.batch},
        config.bench,
        lambda logs, alpha: decide(logs, config.margin, alpha),
        config.margin,
        inputs=rows,
        device=device,
        seed=seed,
        progress=progress,
    )
    arms = [arm.model_copy(update={"latency": timed.measured.latency(arm.name)}) for arm in arms]
    comparisons = compared(arms, timed, limits, scores)
    settings = config.model_dump(mode="json")
    report = Report(
        **origin(
            _command(baseline, candidate, config, data, device, seed),
            f"{candidate} against {baseline}",
            {"check": settings},
        ),
        baseline=BASELINE,
        gate=judge(comparisons, arms, timed, limits, scores),
        arms=arms,
        comparisons=comparisons,
        further=compare_further(task, scores, BASELINE, CANDIDATE) if task else [],
        measurement=measurement(config.bench(timed.workers), timed.measured, device),
        notes=notes if task else [*notes, *no_data(files, config.length)],
        raw=timed.measured.raw(),
    )
    if out is not None:
        write_report(report, out)
    return report


def no_data(files: Mapping[str, Path], length: int | None) -> list[str]:
    """What a check without data leaves out, and what its inputs are."""
    return [_NO_DATA, *told_length(files.values(), [length])]


def plan(gates: int) -> str:
    """How many processes so many latency gates take, in words."""
    *earlier, last = (str(look.workers) for look in looks_for(gates))
    numbers = f"{', '.join(earlier)} or {last}" if earlier else last
    return f"{numbers} processes, as many as a verdict needs"


def _limits(config: CheckConfig, task: Task | None, scores: dict[str, Scores]) -> Limits:
    """What is allowed, in the metric's unit."""
    if task is None:
        return Limits(config.margin, config.size_margin, None, True)
    mean = abs(float(scores[BASELINE]["test"].mean()))
    limit = config.max_drop * mean if config.relative else config.max_drop
    return Limits(config.margin, config.size_margin, limit, task.metric.higher_is_better)


def _command(
    baseline: Path, candidate: Path, config: CheckConfig, data: str | None, device: str, seed: int
) -> str:
    """The command line that repeats a check."""
    words = ["compress", "check", str(baseline), str(candidate)]
    words += ["--data", data] if data else []
    for name in ("margin", "max_drop", "size_margin", "threads"):
        if (value := getattr(config, name)) != CheckConfig.model_fields[name].default:
            words += [f"--{name.replace('_', '-')}", f"{value:g}"]
    words += ["--relative"] if config.relative else []
    if config.batch != (1,):
        words += [word for batch in config.batch for word in ("--batch", str(batch))]
    words += ["--device", device] if device != "cpu" else []
    words += ["--seed", str(seed)] if seed else []
    return shlex.join(
        [*words, *as_pairs(config, CheckTiming.model_fields.keys() - {"margin", "threads"})]
    )

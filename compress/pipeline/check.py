"""The regression gate: a candidate against its baseline, both run here and now, and a verdict.

Milliseconds that were stored before are never compared: another machine, or the same one on another
day, would be the difference. What is stored and compared is the baseline's model.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, NamedTuple

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

import compress
from compress.artifact import digest
from compress.data.references import load_task
from compress.errors import ShapeMismatch
from compress.gate import LOOKS, decide, machine_is_fit
from compress.measure.config import BenchConfig, Count
from compress.measure.latency import CONTROL, Batches, Measured, measure
from compress.measure.machine import machine
from compress.measure.quality import feeds
from compress.pipeline.bench import describe
from compress.pipeline.benchmark import measurement
from compress.pipeline.commit import current_commit
from compress.pipeline.compare import Scores, compare
from compress.pipeline.find import find_model
from compress.pipeline.pages import write_report
from compress.progress import Progress, quiet
from compress.report.formatting import metric_format
from compress.report.schema import Arm, Comparison, Gate, Report, Verdict
from compress.runtime.onnxruntime import Session
from compress.stats import ratio_interval, samples_for_proof

BASELINE, CANDIDATE = "baseline", "candidate"
_NO_DATA = (
    "No data was given: accuracy was not compared, inputs are random, and every open dimension but "
    "the batch is 1, which makes a sequence one step long."
)


class CheckConfig(BaseModel):
    """What a check promises, and how it measures.

    Attributes:
        margin: how much slower still counts as equal; 0.05 on a shared machine, 0.03 on one alone.
        max_drop: largest drop of the task's metric, in its unit; only with data.
        relative: whether `max_drop` is a share of the baseline's metric instead.
        size_margin: how much more bytes, parameters or MACs still count as equal.
        batch, threads: samples a call, and the runtime's threads.
        rounds, block_ms, timeout: see `compress.measure.config.BenchConfig`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    margin: Annotated[float, Field(gt=0, lt=1)] = 0.05
    max_drop: Annotated[float, Field(ge=0)] = 0.01
    relative: bool = False
    size_margin: Annotated[float, Field(ge=0)] = 0.01
    batch: Annotated[tuple[Count, ...], Field(min_length=1)] = (1,)
    threads: Count = 1
    rounds: Annotated[int, Field(ge=2)] = 20
    block_ms: Annotated[float, Field(gt=0)] = 15.0
    timeout: Annotated[float, Field(gt=0)] = 600.0

    def bench(self, workers: int) -> BenchConfig:
        """A benchmark of so many workers, the control included."""
        return BenchConfig(
            batch=self.batch,
            threads=(self.threads,),
            workers=workers,
            rounds=self.rounds,
            block_ms=self.block_ms,
            timeout=self.timeout,
        )


class _Timed(NamedTuple):
    """Latencies, the verdict for each batch size that could be decided, and the control."""

    measured: Measured
    verdicts: dict[int, Verdict]
    control: dict[int, float]
    fit: bool


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
        InputError: no model there, or two models that take different inputs.
        WorkerFailed: a model crashes or hangs while it is measured.
    """
    artifacts = {BASELINE: find_model(baseline), CANDIDATE: find_model(candidate)}
    task = load_task(data) if data else None
    rows = feeds(task.validation) if task else None
    files = {name: artifact.onnx for name, artifact in artifacts.items()}
    _check_alike(files, device)
    arms, scores = describe(artifacts, task, config.bench(1), device, seed, progress, out)
    *earlier, last = (look.workers for look in LOOKS)
    tell(f"{', '.join(map(str, earlier))} or {last} processes, as many as a verdict needs")
    timed = _time(files, config, rows, device, seed, progress)
    arms = [arm.model_copy(update={"latency": timed.measured.latency(arm.name)}) for arm in arms]
    limit = None
    if task is not None:
        mean = abs(float(scores[BASELINE]["test"].mean()))
        limit = config.max_drop * mean if config.relative else config.max_drop
    better = task.metric.higher_is_better if task else True
    comparisons = _comparisons(arms, timed, config, scores, better, limit)
    settings = config.model_dump(mode="json")
    gate = _judge(comparisons, timed, config, limit, arms[0], scores)
    bench = config.bench(len(next(iter(timed.measured.blocks.values()))))
    report = Report(
        tool_version=compress.__version__,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        command=_command(baseline, candidate, config, data, device, seed),
        title=f"{candidate} against {baseline}",
        machine=machine(),
        commit=current_commit(),
        recipe={"check": settings},
        recipe_hash=digest(settings),
        baseline=BASELINE,
        gate=gate,
        arms=arms,
        comparisons=comparisons,
        measurement=measurement(bench, timed.measured, device),
        notes=[] if task else [_NO_DATA],
        raw=timed.measured.raw(),
    )
    if out is not None:
        write_report(report, out)
    return report


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
    return shlex.join(words)


def _check_alike(files: dict[str, Path], device: str) -> None:
    inputs = {
        name: [(entry.name, entry.type, len(entry.shape)) for entry in Session(file, device).inputs]
        for name, file in files.items()
    }
    if inputs[BASELINE] != inputs[CANDIDATE]:
        shown = {
            name: ", ".join(f"{each} {kind} of {rank} dimensions" for each, kind, rank in entries)
            for name, entries in inputs.items()
        }
        raise ShapeMismatch(
            f"the models take different inputs: {files[BASELINE]} {shown[BASELINE]}; "
            f"{files[CANDIDATE]} {shown[CANDIDATE]}."
        )


def _time(
    files: dict[str, Path],
    config: CheckConfig,
    rows: Batches | None,
    device: str,
    seed: int,
    progress: Progress,
) -> _Timed:
    """Workers until every batch size is decided on a machine that is fit, or the last look."""
    measured: Measured | None = None
    verdicts: dict[int, Verdict] = {}
    for look in LOOKS:
        before = 0 if measured is None else len(next(iter(measured.blocks.values())))
        more = measure(
            files,
            config.bench(look.workers - before),
            inputs=rows,
            device=device,
            seed=seed,
            first=before,
            progress=progress,
            label=f"up to {look.workers} processes",
        )
        measured = more if measured is None else measured.joined(more)
        controls = {batch: measured.logs(BASELINE, CONTROL, batch) for batch in config.batch}
        fit = machine_is_fit(controls, config.margin)
        if fit:
            logs = {batch: measured.logs(BASELINE, CANDIDATE, batch) for batch in config.batch}
            for batch, verdict in decide(logs, config.margin, look.alpha).items():
                verdicts.setdefault(batch, verdict)
            if len(verdicts) == len(config.batch):
                break
    assert measured is not None
    control = {
        batch: ratio_interval(np.exp(values).tolist())[0] for batch, values in controls.items()
    }
    return _Timed(measured, verdicts if fit else {}, control, fit)


def _comparisons(
    arms: list[Arm],
    timed: _Timed,
    config: CheckConfig,
    scores: dict[str, Scores],
    higher_is_better: bool,
    limit: float | None,
) -> list[Comparison]:
    """`compare`'s figures with the gate's verdicts, and the count of int8 nodes."""
    before, after = arms
    entries = compare(
        before,
        after,
        timed.measured,
        scores or None,
        higher_is_better=higher_is_better,
        max_drop=limit or 0.0,
    )
    found = [
        entry.model_copy(update={"verdict": _verdict(entry, timed, config)}) for entry in entries
    ]
    old, new = before.int8_nodes, after.int8_nodes
    if old:
        verdict: Verdict = "ok" if new == old else "regressed" if new < old else "improved"
        found.append(
            Comparison(
                baseline=BASELINE,
                candidate=CANDIDATE,
                what="int8",
                difference=old - new,
                verdict=verdict,
            )
        )
    return found


def _verdict(entry: Comparison, timed: _Timed, config: CheckConfig) -> Verdict:
    if entry.what == "latency":
        assert entry.batch is not None
        return timed.verdicts.get(entry.batch, "inconclusive")
    if entry.what == "quality":
        better = entry.interval is not None and entry.interval[1] < 0
        return "improved" if better else entry.verdict
    assert entry.ratio is not None
    if entry.ratio > 1 + config.size_margin:
        return "regressed"
    return "improved" if entry.ratio < 1 - config.size_margin else "ok"


def _judge(
    comparisons: list[Comparison],
    timed: _Timed,
    config: CheckConfig,
    limit: float | None,
    baseline: Arm,
    scores: dict[str, Scores],
) -> Gate:
    said = {entry.verdict for entry in comparisons}
    order: tuple[Verdict, ...] = ("regressed", "inconclusive", "improved")
    verdict: Verdict = next((each for each in order if each in said), "ok")
    workers = len(next(iter(timed.measured.blocks.values())))
    parts = [
        describe_comparison(entry, baseline)
        for entry in comparisons
        if verdict in (entry.verdict, "ok")
    ]
    text = f"{verdict}: {'; '.join(parts)}."
    if not timed.fit:
        worst = max(timed.control.values(), key=lambda ratio: abs(np.log(ratio)))
        text += (
            " The machine is unfit to decide on latencies: the baseline against itself came out "
            f"at {worst:.3f} ×."
        )
    unproven = next((entry for entry in comparisons if entry.what == "quality"), None)
    if unproven is not None and unproven.verdict == "inconclusive" and limit:
        before, after = (scores[name]["test"] for name in (BASELINE, CANDIDATE))
        if set(np.unique(before)) <= {0.0, 1.0}:
            needed = samples_for_proof(float((before != after).mean()), limit)
            text += f" To prove a drop below {limit:.4g} about {needed:,} samples are needed."
    return Gate(
        verdict=verdict,
        margin=config.margin,
        max_drop=limit,
        size_margin=config.size_margin,
        workers=workers,
        control=timed.control,
        fit=timed.fit,
        explanation=text,
    )


def describe_comparison(entry: Comparison, baseline: Arm) -> str:
    """One comparison as a few words: what, by how much, how sure."""
    if entry.what == "quality":
        assert baseline.quality is not None
        assert entry.difference is not None
        metric = metric_format(baseline.quality.metric, baseline.quality.higher_is_better)
        low, high = entry.interval or (0.0, 0.0)
        return f"{metric.label} {metric.change} {entry.difference:+.4f} [{low:+.4f}, {high:+.4f}]"
    if entry.what == "int8":
        old = baseline.int8_nodes
        return f"int8 operators {old} → {old - round(entry.difference or 0)}"
    assert entry.ratio is not None
    name = entry.what if entry.batch is None else f"latency at batch {entry.batch}"
    low, high = entry.interval or (entry.ratio, entry.ratio)
    bounds = f" [{low:.3f}, {high:.3f}]" if entry.interval else ""
    return f"{name} {entry.ratio:.3f} ×{bounds}"

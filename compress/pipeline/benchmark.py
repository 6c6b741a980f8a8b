"""All arms of a run in one interleaved benchmark, and what follows: comparisons, final, budget."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from compress.artifact import Artifact
from compress.data.task import Task
from compress.measure.config import BenchConfig
from compress.measure.further import further_metrics
from compress.measure.latency import CONTROL, Measured
from compress.measure.noise import describe_noise
from compress.measure.profile import bench_profiles
from compress.measure.quality import check_outputs, feeds, quality, run_onnx
from compress.pipeline.compare import (
    Scores,
    compare,
    compare_further,
    further_key,
    quality_comparison,
)
from compress.pipeline.context import Context
from compress.pipeline.decide import choose_final, judge
from compress.pipeline.origin import origin
from compress.pipeline.runtimes import arm_facts
from compress.pipeline.timing import time_arms
from compress.recipe import Recipe
from compress.report.gate_table import further_change
from compress.report.gates_schema import Further
from compress.report.schema import Arm, Candidate, Report
from compress.runtime.interface import TORCH, Target, open_model
from compress.stats import paired_drop


def benchmark(
    recipe: Recipe,
    config: BenchConfig,
    made: dict[str, Artifact],
    context: Context,
    out: Path,
    key: str,
    command: str,
) -> Report:
    """Quality and latency of every artifact, side by side, and the report of it.

    A model that crashes, hangs or runs out of memory while it is timed keeps its other figures and
    is never the final one; `Report.failed` says why.

    Args:
        made: stage name to artifact, in order; the first is the baseline.
        out: the run's folder, which files are named relative to.

    Raises:
        WorkerFailed: the baseline cannot be measured.
    """
    made = {name: artifact for name, artifact in made.items() if artifact.card.kind != "pretrain"}
    names = {name: artifact.folder.name for name, artifact in made.items()}
    controls = {
        stage.name: stage.config.like
        for stage in recipe.stages
        if getattr(stage.config, "like", None)
    }
    timed = {names[name]: artifact.onnx for name, artifact in made.items() if name not in controls}
    rows = feeds(context.task.validation)
    measured, memory, failed = time_arms(
        {name: Target(path) for name, path in timed.items()},
        config,
        inputs=rows,
        device=context.device,
        seed=recipe.seed,
        progress=context.progress,
    )
    arms, scores = [], {}
    for stage in recipe.stages:
        if stage.kind in ("benchmark", "pretrain"):
            continue
        artifact = made[stage.name]
        arm, scores[names[stage.name]] = describe_arm(
            names[stage.name], Target(artifact.onnx), context, artifact=artifact, out=out
        )
        control = controls.get(stage.name)
        comes_from = stage.parent or getattr(stage.config, "teacher", None)
        arms.append(
            arm.model_copy(
                update={
                    "parent": names.get(comes_from or ""),
                    "control_of": names[control] if control else None,
                    "latency": measured.latency(arm.name) if arm.name not in failed else [],
                    "peak_memory_bytes": memory.get(arm.name),
                }
            )
        )
    baseline = names[recipe.baseline]
    better = context.task.metric.higher_is_better
    comparisons = [
        entry
        for arm in arms[1:]
        for entry in compare(
            arms[0],
            arm,
            measured,
            scores,
            higher_is_better=better,
            max_drop=recipe.budget.limit(float(scores[baseline]["test"].mean())),
        )
    ]
    by_name = {arm.name: arm for arm in arms}
    for arm in arms:
        if arm.control_of:  # what the teacher gave: negative where the taught model is better
            taught = by_name[arm.control_of]
            pair = (scores[arm.name]["test"], scores[taught.name]["test"])
            comparisons.append(quality_comparison(arm, taught, *pair, better, math.inf))
    drops = {
        name: paired_drop(scores[baseline]["validation"], value["validation"], better)[0]
        for name, value in scores.items()
    }
    eligible = [arm for arm in arms if arm.control_of is None and arm.name not in failed]
    limit = recipe.budget.limit(float(scores[baseline]["validation"].mean()))
    final, notes = choose_final(eligible, drops, measured, recipe.budget, limit)
    further = compare_further(context.task, scores, baseline, final) if final != baseline else []
    profiles, unprofiled = bench_profiles(
        {name: timed[name] for name in dict.fromkeys([baseline, final])},
        config,
        inputs=rows,
        progress=context.progress,
    )
    arms = [arm.model_copy(update={"profile": profiles.get(arm.name)}) for arm in arms]
    notes += left_out(failed, unprofiled) + _simple(context.task) + _told(further)
    report = Report(
        **origin(
            command, f"{recipe.model.get('name', 'model')} on {recipe.task}", recipe.resolved()
        ),
        key=key,
        baseline=baseline,
        final=final,
        arms=arms,
        comparisons=comparisons,
        further=further,
        candidates=_candidates(made),
        measurement=measurement(config, measured, context.device),
        notes=notes,
        failed=failed,
        raw=measured.raw(),
    )
    samples = {name: value["test"] for name, value in scores.items()}
    metric = context.task.metric
    budget = judge(report, samples, metric.name, metric.higher_is_better, recipe.budget)
    return report.model_copy(update={"budget": budget})


def left_out(failed: dict[str, str], unprofiled: dict[str, str]) -> list[str]:
    """Which arms have no times or no profile, and why."""
    return [
        *(f"{name}: left out, {reason}." for name, reason in failed.items()),
        *(f"{name}: no profile, {reason}." for name, reason in unprofiled.items()),
    ]


def _simple(task: Task) -> list[str]:
    """What answers without a model reach, so that the figures can be placed."""
    figures = [f"{name} {value:.4g}" for name, value in task.simple.items()]
    if not figures:
        return []
    return [
        f"For comparison, without a model, {task.metric.name} on the test split: "
        f"{', '.join(figures)}."
    ]


def _told(further: list[Further]) -> list[str]:
    """The final model in the metrics that nothing was chosen by."""
    changes = [f"{entry.metric} {further_change(entry)}" for entry in further]
    if not changes:
        return []
    names = f"{further[0].candidate} against {further[0].baseline}"
    return [f"Beside the budget, {names} on the test split: {'; '.join(changes)}."]


def describe_arm(
    name: str, target: Target, context: Context, *, artifact: Artifact, out: Path
) -> tuple[Arm, Scores]:
    """Everything about an arm that needs no clock, and its score on every sample."""
    task = context.task
    # Scripted and compiled models are made for one shape: timing checks that they give what eager
    # torch gives, and that answers here.
    runtime = "torch" if target.runtime in TORCH else target.runtime
    model = open_model(runtime, target.path, context.device, context.threads)
    splits = {"validation": task.validation, "test": task.test}
    outputs = {key: run_onnx(model, split) for key, split in splits.items()}
    for key, split in splits.items():
        check_outputs(task, outputs[key], split)
    scores = {
        key: task.metric.score(outputs[key], split.targets.numpy()) for key, split in splits.items()
    }
    facts = arm_facts(artifact, target)
    file = Path(facts["file"])
    facts["file"] = str(file.relative_to(out)) if file.is_relative_to(out) else str(file)
    targets = task.test.targets.numpy()
    for metric in further_metrics(task).values():
        scores[further_key(metric.name)] = metric.terms(outputs["test"], targets)
    arm = Arm(
        name=name,
        device=context.device,
        quality=quality(task, outputs["test"], task.test),
        validation=quality(task, outputs["validation"], task.validation),
        seconds=artifact.card.seconds,
        **facts,
    )
    return arm, scores


def _replication(config: BenchConfig, measured: Measured) -> dict[str, Any]:
    """Processes and rounds as they were, and what was asked for where the time did not allow it."""
    wanted = {"workers": config.workers, "rounds": config.rounds}
    rounds = [len(blocks[0]) for blocks in measured.blocks.values()]
    done = {"workers": len(measured.workers) or config.workers, "rounds": min(rounds)}
    if done == wanted:
        return wanted
    return done | {"limit_s": config.limit_s, "asked_for": wanted}


def measurement(config: BenchConfig, measured: Measured, device: str) -> dict[str, Any]:
    """How the latencies were taken, and what the control says of the machine."""
    facts: dict[str, Any] = {
        "device": device,
        **_replication(config, measured),
        "batch": list(config.batch),
        **({"length": list(config.length)} if config.length else {}),
        "threads": list(config.threads),
        "spinning": False,
        "unit": "median over workers of the median over rounds of block medians",
        "ratios": "Hodges-Lehmann over workers, each arm at its best thread count",
        "warm_up": f"{config.warm_up_s:g} s and {config.warm_up_calls} calls at least, until times "
        f"agree, {config.warm_up_cap_s:g} s at most",
    }
    if measured.workers:
        facts["cpus"] = measured.workers[0].cpus
        facts["pinned"] = config.affinity is not None
        facts["noise"] = describe_noise(measured.workers)
    if CONTROL in measured.arms():
        first = measured.arms()
        name = next(arm for arm in first if arm != CONTROL)
        for size in measured.sizes():
            ratio, interval, _ = measured.ratio(name, CONTROL, *size)
            known = [ratio] if math.isinf(interval[1]) else [ratio, *interval]
            where = str(size).replace(", ", "_").replace(" ", "_")
            facts[f"control_{where}"] = [round(value, 4) for value in known]
    return facts


def _candidates(made: dict[str, Artifact]) -> list[Candidate]:
    return [
        Candidate(stage=artifact.folder.name, **entry)
        for artifact in made.values()
        for entry in artifact.card.evidence.get("candidates", [])
    ]

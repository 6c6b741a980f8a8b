"""Running a recipe: what is done already is kept, what is missing is made, then all is measured."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

import compress
from compress.artifact import (
    ONNX,
    Artifact,
    Card,
    digest,
    finish,
    load_artifact,
    wrap_onnx,
    write_text,
    writing,
)
from compress.data.references import load_task
from compress.errors import ArtifactError, CompressError, ModelFileError, ShapeMismatch
from compress.measure.machine import versions
from compress.onnx_files import model_digest
from compress.pipeline.keys import recipe_stage_key, report_key
from compress.pipeline.pages import write_pages, write_report
from compress.progress import Progress, quiet
from compress.recipe import Recipe, Stage
from compress.report.schema import Report

if TYPE_CHECKING:
    from compress.data.task import Task
    from compress.pipeline.context import Context, Inputs, Made

#: Told of each stage as it ends: the stage, its artifact, and whether it was already there.
OnStage = Callable[[Stage, Artifact, bool], None]


@dataclass(frozen=True)
class Outcome:
    """What a run ended with.

    Attributes:
        folder: holds the artifacts and the report.
        report: what was measured.
        reused: stages that were done already, out of `stages`.
    """

    folder: Path
    report: Report
    reused: int
    stages: int

    @property
    def exit_code(self) -> int:
        """0 within the budget, 1 where it was missed, 2 where a model could not be measured."""
        if self.report.budget and self.report.budget.status == "missed":
            return 1
        return 2 if self.report.failed else 0


def run(
    recipe: Recipe,
    out: Path,
    *,
    device: str = "cpu",
    command: str = "",
    progress: Progress = quiet,
    on_stage: OnStage = lambda stage, artifact, reused: None,
) -> Outcome:
    """Run all stages of a recipe that are not done yet, benchmark them, and write the report.

    Args:
        out: folder of the run; finished stages in it are used when their inputs are unchanged.
        command: what repeats the run, for the report.

    Raises:
        CompressError: a stage failed; the stages before it are kept.
    """
    recipe.stages[-1].config.check_here(device)
    session = _Session(recipe, out, device, progress)
    made: dict[str, Artifact] = {}
    reused = 0
    bench: Stage | None = None
    _write_recipe(recipe, out)
    for number, stage in enumerate(recipe.stages, start=1):
        if stage.kind == "benchmark":
            bench = stage
            continue
        try:
            artifact, was_there = session.stage(number, stage, made)
        except CompressError as error:
            error.add_note(f"stage {number} ({stage.name})")
            raise
        made[stage.name] = artifact
        reused += was_there
        on_stage(stage, artifact, was_there)
    assert bench is not None
    key = report_key(recipe, bench.config, made, device)
    report = _stored_report(out, key)
    if report is None:
        from compress.pipeline.benchmark import benchmark

        report = benchmark(recipe, bench.config, made, session.context(), out, key, command)
        write_report(report, out)
    else:
        write_pages(report, out)
    return Outcome(out, report, reused, len(made))


def _write_recipe(recipe: Recipe, out: Path) -> None:
    text = yaml.safe_dump(recipe.resolved(), sort_keys=False, allow_unicode=True)
    write_text(out / "recipe.yaml", text)


def _stored_report(out: Path, key: str) -> Report | None:
    """What was measured before of the same models; not where one failed, which is tried again."""
    from compress.report.schema import load_report

    try:
        report = load_report(out / "report.json")
    except CompressError:
        return None
    return report if report.key == key and not report.failed else None


class _Session:
    """What a run shares: the task is loaded only when a stage has to be made."""

    def __init__(self, recipe: Recipe, out: Path, device: str, progress: Progress) -> None:
        self.recipe, self.out, self.device, self.progress = recipe, out, device, progress
        self._task: Task | None = None

    def context(self) -> Context:
        from compress.pipeline.context import Context

        if self._task is None:
            self._task = load_task(self.recipe.task)
        bench = next(stage.config for stage in self.recipe.stages if stage.kind == "benchmark")
        return Context(
            task=self._task,
            data=self.recipe.task,
            model=self.recipe.model,
            budget=self.recipe.budget,
            bench=bench,
            seed=self.recipe.seed,
            device=self.device,
            cache=self.out / ".cache",
            progress=self.progress,
        )

    def stage(self, number: int, stage: Stage, made: dict[str, Artifact]) -> tuple[Artifact, bool]:
        """The stage's artifact, and whether it was there already."""
        folder = self.out / f"{number}-{stage.name}"
        parents = _parents(stage, made, self.recipe)
        key = recipe_stage_key(self.recipe, stage, parents, self.device)
        try:
            found = load_artifact(folder)
            if found.card.key == key:
                return found, True
        except ArtifactError:
            pass  # missing, or damaged: made again
        inputs = _inputs(stage, made, self.recipe)
        return make_artifact(folder, stage, inputs, self.context(), key, parents), False


def make_artifact(
    folder: Path,
    stage: Stage,
    inputs: Inputs,
    context: Context,
    key: str,
    parents: dict[str, str],
) -> Artifact:
    """Carry out one stage and write its artifact, atomically.

    Raises:
        CompressError: the stage failed, changed nothing, or cannot be written.
    """
    from compress.pipeline.stages import FUNCTIONS
    from compress.training.checkpoint import Checkpoint

    began = time.monotonic()
    check_vocabulary(inputs, context.task)
    checkpoint = Checkpoint(context.cache / f"checkpoint-{key[:16]}", key)
    with writing(folder) as scratch:
        made = FUNCTIONS[stage.kind](stage.config, inputs, context, checkpoint, scratch)
        evidence, metrics = made.evidence, dict[str, Any]()
        if stage.kind != "pretrain":  # which has no answers to the task yet
            evidence, metrics = _finish_onnx(made, inputs, context, scratch)
        card = Card(
            kind=stage.kind,
            name=stage.name,
            task=context.data,
            key=key,
            parents=parents,
            model=made.spec,
            config=stage.config.model_dump(mode="json"),
            seed=context.seed,
            versions={"compress-kit": compress.__version__, **versions()},
            metrics=metrics,
            evidence=evidence | {"preprocessing": context.task.preprocessing},
            seconds=round(time.monotonic() - began, 2),
        )
        card = finish(scratch, card, made.model)
    checkpoint.remove()
    return Artifact(folder, card)


def check_vocabulary(inputs: Inputs, task: Task) -> None:
    """Tokens must mean the same to every model that takes part.

    Raises:
        ShapeMismatch: an artifact was made with another vocabulary than the task has.
    """
    expected = task.preprocessing.get("vocabulary")
    for artifact in (inputs.parent, inputs.like, inputs.teacher_artifact):
        if artifact is None:
            continue
        found = artifact.card.evidence.get("preprocessing", {}).get("vocabulary")
        if found is not None and digest(found) != digest(expected):
            raise ShapeMismatch(
                f"{artifact.folder}: was made with a vocabulary of {len(found)} tokens, task "
                f"'{task.name}' has {len(expected or ())} others; tokens would change their "
                "meaning. Use models of one task."
            )


def _finish_onnx(
    made: Made, inputs: Inputs, context: Context, scratch: Path
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Export a torch model, and take the quality of what will run, on the runtime it runs on."""
    import numpy as np

    from compress.measure.quality import qualities, run_onnx
    from compress.pipeline.stages import export_model
    from compress.runtime.onnxruntime import Session

    evidence = dict(made.evidence)
    if made.model is not None:
        evidence["export"] = export_model(made.model, context.task, scratch / ONNX)
    session = Session(scratch / ONNX, context.device, context.threads)
    task = context.task
    outputs = {
        "validation": run_onnx(session, task.validation),
        "test": run_onnx(session, task.test),
    }
    if inputs.parent is not None and inputs.parent.card.kind != "pretrain":
        parent = Session(inputs.parent.onnx, context.device, context.threads)
        before = run_onnx(parent, task.validation)
        change = np.abs(before - outputs["validation"])
        evidence["output_change"] = {"max": float(change.max()), "mean": float(change.mean())}
    return evidence, qualities(task, outputs)


def _parents(stage: Stage, made: dict[str, Artifact], recipe: Recipe) -> dict[str, str]:
    """Role to key of every artifact that the stage's result depends on."""
    roles = {"from": stage.parent, "like": getattr(stage.config, "like", None)}
    if stage.kind in ("quantize", "qat"):
        roles["baseline"] = recipe.baseline
    keys = {role: made[name].identity for role, name in roles.items() if name}
    teacher = getattr(stage.config, "teacher", None)
    if teacher is not None:
        artifact = _teacher(teacher, made)
        keys["teacher"] = artifact.identity if teacher in made else model_digest(artifact.onnx)
    return keys


def _teacher(teacher: str, made: dict[str, Artifact]) -> Artifact:
    if teacher in made:
        return made[teacher]
    path = Path(teacher)
    if path.suffix == ".onnx":
        if not path.is_file():
            raise ModelFileError(f"{path}: no such file; expected the teacher's ONNX model.")
        return wrap_onnx(path)
    return load_artifact(path)


def _inputs(stage: Stage, made: dict[str, Artifact], recipe: Recipe) -> Inputs:
    from compress.pipeline.context import Inputs

    like = getattr(stage.config, "like", None)
    teacher = getattr(stage.config, "teacher", None)
    return Inputs(
        parent=made[stage.parent] if stage.parent else None,
        baseline=made.get(recipe.baseline),
        like=made[like] if like else None,
        teacher_artifact=_teacher(teacher, made) if teacher else None,
    )

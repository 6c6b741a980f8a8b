"""What a stage's result follows from: equal keys mean that nothing has to be made again."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import compress
from compress.artifact import Artifact, digest
from compress.measure.config import BenchConfig
from compress.recipe import BudgetConfig, Recipe, Stage

if TYPE_CHECKING:
    from compress.pipeline.context import Context


def recipe_stage_key(recipe: Recipe, stage: Stage, parents: dict[str, str], device: str) -> str:
    """What the stage's result follows from; an artifact with this key need not be made again."""
    bench = next(entry.config for entry in recipe.stages if entry.kind == "benchmark")
    return _digest_inputs(
        stage, recipe.task, recipe.model, recipe.seed, parents, device, recipe.budget, bench
    )


def stage_key(stage: Stage, context: Context, parents: dict[str, str]) -> str:
    """The key of a stage that is run on its own."""
    return _digest_inputs(
        stage,
        context.data,
        context.model,
        context.seed,
        parents,
        context.device,
        context.budget,
        context.bench,
    )


def _digest_inputs(
    stage: Stage,
    task: str,
    model: dict[str, Any],
    seed: int,
    parents: dict[str, str],
    device: str,
    budget: BudgetConfig,
    bench: BenchConfig,
) -> str:
    facts = {
        "tool": compress.__version__,
        "kind": stage.kind,
        "config": stage.config.model_dump(mode="json"),
        "task": task,
        "model": model if stage.kind == "train" else None,
        "seed": seed,
        "parents": parents,
        "device": device,
    }
    if stage.kind == "quantize":  # its choice depends on the budget and on what is timed
        facts |= {"budget": budget.model_dump(), "bench": [bench.batch, bench.threads]}
    return digest(facts)


def report_key(recipe: Recipe, config: BenchConfig, made: dict[str, Artifact], device: str) -> str:
    """What a report follows from, besides the machine's mood."""
    keys = {name: artifact.identity for name, artifact in made.items()}
    return digest([keys, config.model_dump(mode="json"), recipe.budget.model_dump(), device])

"""Carrying out one stage outside of a recipe, and telling what came of it."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compress.cli.options import Device, check_device
from compress.cli.screen import progress_bars

if TYPE_CHECKING:
    from compress.artifact import Artifact
    from compress.pipeline.context import Inputs


def run_stage(
    kind: str,
    settings: dict[str, Any],
    inputs: Inputs,
    data: str,
    folder: Path,
    seed: int,
    device: Device,
    as_json: bool,
    model: dict[str, Any] | None = None,
    budget: dict[str, Any] | None = None,
) -> Artifact:
    """Carry out one stage and say what came of it, as JSON where machines ask."""
    from compress.data.references import check_task, load_task
    from compress.measure.config import BenchConfig
    from compress.pipeline.context import Context
    from compress.pipeline.keys import stage_key
    from compress.pipeline.runner import make_artifact
    from compress.recipe import BudgetConfig, Stage, check_settings

    config = check_settings(kind, settings)
    check_task(data)
    check_device(device)
    roles = {"from": inputs.parent, "baseline": inputs.baseline}
    parents = {role: artifact.identity for role, artifact in roles.items() if artifact}
    stage = Stage(kind, kind, None, config)
    cache = folder.with_name(f".{folder.name}.cache")  # stays after an interrupt, to go on from
    with progress_bars(enabled=not as_json) as progress:
        context = Context(
            task=load_task(data),
            data=data,
            model=model or {},
            budget=BudgetConfig.model_validate(budget or {}),
            bench=BenchConfig(),
            seed=seed,
            device=device.value,
            cache=cache,
            progress=progress,
        )
        key = stage_key(stage, context, parents)
        made = make_artifact(folder, stage, inputs, context, key, parents)
    shutil.rmtree(cache, ignore_errors=True)
    if as_json:
        print(made.card.model_dump_json(indent=1))
    else:
        tell(made)
    return made


def tell(made: Artifact) -> None:
    """Print what a stage made: quality, size, and what its technique has to say."""
    evidence = made.card.evidence
    print(f"{made.folder}: {made.card.kind} done in {made.card.seconds:.0f} s")
    if "test" in made.card.metrics:
        found = made.card.metrics["test"]
        low, high = found["interval"]
        print(
            f"  {found['metric']} {found['value']:.4f} [{low:.4f}, {high:.4f}] "
            f"on {found['n']:,} test samples"
        )
    if "matched" in evidence:
        print(f"  matched: {evidence['matched']}")
        print(f"  agreement with the teacher: {evidence['teacher_agreement']:.4f}")
    if "masked" in evidence:
        before, after = evidence["masked"]["accuracy"]
        print(f"  masked tokens guessed right: {before:.4f} → {after:.4f} (validation)")
    if "agreement" in evidence:
        _tell_trained(evidence)
    for what in ("parameters", "macs", "size_bytes"):
        if what in evidence:
            before, after = evidence[what]
            print(f"  {what} {before:,} → {after:,}" if before != after else f"  {what} {after:,}")
    if "cross_validation" in evidence:
        folds = evidence["cross_validation"]
        values = ", ".join(f"{value:.4f}" for value in folds["folds"])
        print(f"  cross-validation {folds['mean']:.4f} ± {folds['deviation']:.4f} ({values})")


def _tell_trained(evidence: dict[str, Any]) -> None:
    """What quantization-aware training changed."""
    found, agreement = evidence["validation"], evidence["agreement"]
    print(
        f"  {found['metric']} on validation: {found['before']:.4f} as it came in, "
        f"{found['calibrated']:.4f} calibrated, {found['trained']:.4f} trained "
        f"({evidence['method']}; the {evidence['kept']} scales are kept)"
    )
    same = agreement.get("equal_answers")
    print(
        f"  onnxruntime against the model in training: mean difference "
        f"{agreement['mean_difference']:.2g} standard deviations"
        + ("" if same is None else f", {same:.4f} equal answers")
    )

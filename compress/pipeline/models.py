"""The models that stages start from: freshly built, or an artifact's; checked against the data."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from compress.artifact import Artifact
from compress.data.task import Task
from compress.errors import CompressError, InputError, ShapeMismatch
from compress.models.build import build, count_macs, count_parameters
from compress.models.references import ModelSpec, resolve
from compress.pipeline.context import Context


def fresh(reference: str | dict[str, Any], context: Context) -> tuple[nn.Module, ModelSpec]:
    """A freshly initialised model of a reference, with the run's seed, checked against the data."""
    settings = {"name": reference} if isinstance(reference, str) else dict(reference)
    spec = resolve(settings.pop("name"), settings, context.task.facts)
    torch.manual_seed(context.seed)
    model = build(spec)
    check_fits(model, context.task)
    return model, spec


def check_fits(model: nn.Module, task: Task) -> None:
    """Run two samples, so that a model that does not fit its data is told before the long work.

    Raises:
        ShapeMismatch: it fails on them, or does not give one score a class.
    """
    sample, name = task.train.take(torch.arange(min(2, len(task.train)))), type(model).__name__
    shapes = " and ".join(str(list(part.shape)) for part in sample)
    try:
        with torch.inference_mode():
            outputs = model.eval()(*sample)
    except (RuntimeError, TypeError, ValueError, IndexError, CompressError) as error:
        line = str(error).strip().partition("\n")[0]
        raise ShapeMismatch(
            f"{name} does not take the data of task '{task.name}', shape {shapes}: {line}"
        ) from error
    expected = task.output_shape(sample)
    if not isinstance(outputs, Tensor) or outputs.shape != expected:
        found = list(outputs.shape) if isinstance(outputs, Tensor) else type(outputs).__name__
        raise ShapeMismatch(
            f"{name} gives {found} for {len(sample[0])} samples; task '{task.name}' with "
            f"{len(task.classes)} {task.output_name} expects one tensor of shape {list(expected)}."
        )


def spec_of(artifact: Artifact) -> ModelSpec:
    """How an artifact's model is built; InputError where it holds an ONNX file only."""
    if artifact.card.model is None:
        raise InputError(
            f"{artifact.folder}: a {artifact.card.kind} stage leaves an ONNX file without torch "
            "weights; name the stage before it in `from`."
        )
    return artifact.card.model


def cost(before: nn.Module, after: nn.Module, task: Task) -> dict[str, Any]:
    """Parameters and multiply-accumulates of a typical sample, before and after; for the card."""
    sample = task.train.typical(1)
    return {
        "parameters": [count_parameters(before), count_parameters(after)],
        "macs": [count_macs(before, sample), count_macs(after, sample)],
    }


def inherited_cost(parent: Artifact) -> dict[str, Any]:
    """The same for a stage that leaves parameters and multiply-accumulates as they were."""
    known = parent.card.evidence
    return {key: [known[key][-1]] * 2 for key in ("parameters", "macs") if key in known}

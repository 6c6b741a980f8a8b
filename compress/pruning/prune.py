"""Structured pruning of any model: the one entrance to the techniques of this folder."""

from __future__ import annotations

from typing import Any

from torch import nn

from compress.data.task import Task
from compress.errors import InputError
from compress.models.build import build
from compress.models.groups import Prunable
from compress.models.plan import make_plan
from compress.models.references import ModelSpec
from compress.pruning.config import PruneConfig
from compress.pruning.declared import prune_declared
from compress.pruning.structured import prune as prune_channels


def prune(
    model: nn.Module, spec: ModelSpec, task: Task, config: PruneConfig, *, seed: int = 0
) -> tuple[nn.Module, ModelSpec, dict[str, Any]]:
    """A smaller copy of a model, not yet recovered, how to rebuild it, and the proof of what went.

    Models that declare their groups are cut by these; the dependencies of all others are found by
    torch-pruning.

    Args:
        model: in evaluation mode, on the CPU; stays as it is.
        spec: how `model` is built.

    Raises:
        InputError: a layer that does not exist or cannot be pruned, or a target out of reach.
        NoEffect: nothing could be removed.
    """
    if isinstance(model, Prunable):
        return prune_declared(model, spec, task, config, seed=seed)
    if config.kinds or config.layers:
        raise InputError(
            "kinds, layers: for recurrent networks and Transformers; convolutional networks lose "
            "channels, see `keep` and `strides`."
        )
    pruned, evidence = prune_channels(model, task, config, seed=seed)
    plan = make_plan(pruned, build(spec.model_copy(update={"plan": {}})))
    return pruned, spec.model_copy(update={"plan": plan}), evidence

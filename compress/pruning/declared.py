"""Pruning of models that declare their groups: recurrent networks and Transformers.

A pruned model is a smaller configuration of its architecture with the remaining weights, so it is
rebuilt from source as every other model is.
"""

from __future__ import annotations

import math
from collections import defaultdict
from dataclasses import dataclass
from typing import Any

import torch
from torch import Generator, Tensor, nn

from compress.data.task import Task
from compress.errors import InputError, NoEffect
from compress.models.build import build, count_macs, count_parameters
from compress.models.groups import Group, Prunable
from compress.models.references import ModelSpec
from compress.pruning.config import PruneConfig
from compress.pruning.importance import importance
from compress.training.batches import Batch, LabelledBatches
from compress.training.loop import epoch_seed
from compress.training.losses import label_loss

#: Halvings of the share of units in question.
BISECTIONS = 12
#: Heads go one by one: each is wide already.
_ONE_BY_ONE = ("heads",)

#: Group name to ascending positions of the units that stay.
Kept = dict[str, Tensor]


@dataclass(frozen=True)
class _Whole:
    """A model before pruning, and how it is rebuilt."""

    model: nn.Module
    spec: ModelSpec
    groups: list[Group]


def prune_declared(
    model: nn.Module, spec: ModelSpec, task: Task, config: PruneConfig, *, seed: int = 0
) -> tuple[nn.Module, ModelSpec, dict[str, Any]]:
    """A smaller copy of a model, not yet recovered, how to rebuild it, and the proof of what went.

    Raises:
        InputError: a group that does not exist, or a target out of reach.
        NoEffect: nothing could be removed.
    """
    if config.strides:
        raise InputError("strides: only convolutions of images have them; see front_stride.")
    sample = task.train.typical(1)
    macs, parameters = count_macs(model, sample), count_parameters(model)
    batches = _batches(task, config, seed)
    removed: list[str] = []
    smaller, smaller_spec = model, spec
    for _ in range(config.layers):
        smaller, smaller_spec, layer = _without_layer(smaller, smaller_spec, task, batches)
        removed.append(layer)
    pruned, pruned_spec = smaller, smaller_spec
    if config.ratio is not None or config.macs is not None:
        whole = _Whole(smaller, smaller_spec, _groups(smaller, config))
        scores = importance(whole.model, whole.groups, task, batches, config.importance)
        pruned, pruned_spec = _reach_target(whole, scores, sample, config, macs)
    if count_parameters(pruned) == parameters:
        raise NoEffect(
            f"pruning removed no parameter: no layer can lose {config.round_to} units at this "
            "target. Lower round_to, or ask for more."
        )
    evidence = {
        "parameters": [parameters, count_parameters(pruned)],
        "macs": [macs, count_macs(pruned, sample)],
        "groups": _widths(model, pruned),
        "layers_removed": removed,
    }
    return pruned, pruned_spec, evidence


def _groups(model: nn.Module, config: PruneConfig) -> list[Group]:
    """The groups that may be pruned, by kind and by name."""
    assert isinstance(model, Prunable)
    groups = model.prune_groups()
    names = [group.name for group in groups]
    for name in config.keep:
        if not any(_is_within(known, name) for known in names):
            raise InputError(f"keep: nothing to prune named '{name}'. Known: {', '.join(names)}.")
    kinds = {group.kind for group in groups}
    for kind in set(config.kinds) - kinds:
        raise InputError(f"kinds: this model has no {kind}. Known: {', '.join(sorted(kinds))}.")
    found = [
        group
        for group in groups
        if (not config.kinds or group.kind in config.kinds)
        and not any(_is_within(group.name, name) for name in config.keep)
    ]
    if not found:
        raise NoEffect("pruning: `keep` and `kinds` leave nothing to prune.")
    return found


def _is_within(group: str, name: str) -> bool:
    return group == name or group.startswith(f"{name}.")


def _batches(task: Task, config: PruneConfig, seed: int) -> list[Batch]:
    augment = task.augment if config.augment else None
    source = LabelledBatches(task.train, config.batch_size, augment)
    generator = Generator().manual_seed(epoch_seed(seed, 0))
    drawn = zip(range(config.batches), source.epoch(0, generator), strict=False)
    return [batch for _, batch in drawn]


def _reach_target(
    whole: _Whole,
    scores: dict[str, Tensor],
    sample: tuple[Tensor, ...],
    config: PruneConfig,
    macs: int,
) -> tuple[nn.Module, ModelSpec]:
    """The largest model that meets the target, by bisection on the share of units in question."""
    before = sum(group.units for group in whole.groups)

    def attempt(share: float) -> tuple[nn.Module, ModelSpec, bool, int]:
        kept = _kept(whole.groups, scores, share, config.round_to)
        model, spec = cut(whole.model, whole.spec, kept, whole.groups)
        after = sum(len(rows) for rows in kept.values())
        if config.macs is not None:
            meets = count_macs(model, sample) <= config.macs * macs
        else:
            assert config.ratio is not None
            meets = before - after >= config.ratio * before - 1e-9
        return model, spec, meets, after

    model, spec, meets, after = attempt(1.0)
    if not meets:
        raise InputError(
            f"the target is out of reach: with round_to={config.round_to} the smallest model keeps "
            f"{after} of {before} prunable units and {count_macs(model, sample) / macs:.3f} of the "
            "multiply-accumulates. Ask for less, lower round_to, or allow more `kinds`."
        )
    low, high = 0.0, 1.0
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        smaller, smaller_spec, meets, _ = attempt(middle)
        if meets:
            high, model, spec = middle, smaller, smaller_spec
        else:
            low = middle
    return model, spec


def _kept(groups: list[Group], scores: dict[str, Tensor], share: float, round_to: int) -> Kept:
    """The units that stay when the `share` least important of all groups are in question.

    Whole blocks of `round_to` stay, at least one, and partners keep equally many.
    """
    ranked = torch.cat([scores[group.name] for group in groups]).sort().values
    place = int(share * len(ranked))
    threshold = ranked[place - 1] if place else ranked[0] - 1
    counts: dict[str, int] = defaultdict(int)
    for group in groups:
        block = 1 if group.kind in _ONE_BY_ONE else round_to
        important = int((scores[group.name] > threshold).sum())
        blocks = max(1, math.ceil(important / block))
        counts[group.partners] = max(counts[group.partners], min(group.units, blocks * block))
    return {
        group.name: scores[group.name].argsort(descending=True)[: counts[group.partners]].sort()[0]
        for group in groups
    }


def cut(
    model: nn.Module, spec: ModelSpec, kept: Kept, groups: list[Group]
) -> tuple[nn.Module, ModelSpec]:
    """The model without the units that are not kept, and how it is rebuilt.

    Args:
        kept: for each group ascending positions of the units that stay; groups left out stay whole.
    """
    assert isinstance(model, Prunable)
    state = model.state_dict()
    stays = {name: [torch.ones(n, dtype=torch.bool) for n in t.shape] for name, t in state.items()}
    counts: dict[str, int] = {}
    for group in groups:
        if group.name not in kept:
            continue
        gone = torch.ones(group.units, dtype=torch.bool)
        gone[kept[group.name]] = False
        counts[group.partners] = len(kept[group.name])
        for piece in group.pieces:
            stays[piece.tensor][piece.dim][piece.rows[gone].flatten()] = False
    smaller_spec = spec.model_copy(update={"config": model.pruned_config(counts)})
    smaller = build(smaller_spec)
    for name, masks in stays.items():
        for dim, mask in enumerate(masks):
            state[name] = state[name].index_select(dim, mask.nonzero().flatten())
    smaller.load_state_dict(state, strict=True)
    return smaller.eval(), smaller_spec


def _without_layer(
    model: nn.Module, spec: ModelSpec, task: Task, batches: list[Batch]
) -> tuple[nn.Module, ModelSpec, str]:
    """The model without the layer whose absence raises the training loss least, and its number.

    Raises:
        InputError: no layer can go.
    """
    assert isinstance(model, Prunable)
    loss = label_loss(task.kind)
    best: tuple[float, nn.Module, ModelSpec, str] | None = None
    reason, layer = "it has none", 0
    while True:
        try:
            config, names = model.without_layer(layer)
        except IndexError:
            break
        except ValueError as error:
            reason, layer = str(error), layer + 1
            continue
        smaller_spec = spec.model_copy(update={"config": config})
        smaller = build(smaller_spec).eval()
        state = model.state_dict()
        smaller.load_state_dict({new: state[old] for new, old in names.items()}, strict=True)
        with torch.inference_mode():
            value = sum(float(loss(smaller(*batch.inputs), batch)) for batch in batches)
        if best is None or value < best[0]:
            best = (value, smaller, smaller_spec, str(layer))
        layer += 1
    if best is None:
        raise InputError(f"layers: no layer of {type(model).__name__} can be removed: {reason}.")
    return best[1], best[2], best[3]


def _widths(model: nn.Module, pruned: nn.Module) -> dict[str, list[int]]:
    """Group name to units before and after, for the groups that changed."""
    assert isinstance(model, Prunable)
    assert isinstance(pruned, Prunable)
    before = {group.name: group.units for group in model.prune_groups()}
    after = {group.name: group.units for group in pruned.prune_groups()}
    return {name: [n, after.get(name, 0)] for name, n in before.items() if after.get(name) != n}

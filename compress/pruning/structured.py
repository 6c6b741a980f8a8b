"""Dependency-aware pruning of channels by torch-pruning, to a ratio or a MACs target."""

from __future__ import annotations

import copy
import math
from typing import Any

import torch
import torch_pruning as tp
from torch import Generator, Tensor, nn

from compress.data.task import Task
from compress.errors import InputError, NoEffect
from compress.models.build import count_macs, count_parameters
from compress.pruning.config import PruneConfig
from compress.training.batches import LabelledBatches
from compress.training.loop import epoch_seed
from compress.training.losses import label_loss

#: Halvings of the share of channels; beyond 2^-12 no reference model has another channel to lose.
BISECTIONS = 12


def prune(
    model: nn.Module, task: Task, config: PruneConfig, *, seed: int = 0
) -> tuple[nn.Module, dict[str, Any]]:
    """A smaller copy of a model, not yet recovered, and the proof of what went.

    Args:
        model: in evaluation mode, on the CPU; stays as it is.

    Returns:
        The pruned model, and as evidence parameters and MACs before and after and the width of
        every layer that changed.

    Raises:
        InputError: a layer name that does not exist, or a target out of reach.
        NoEffect: nothing could be removed.
    """
    _check_layers(model, task)
    sample = task.train.inputs[:2]
    macs = count_macs(model, (sample,))
    whole = copy.deepcopy(model).eval()
    _apply_strides(whole, config)
    ignored = _ignored_layers(whole, sample, config)
    if config.importance == "taylor":
        _accumulate_gradients(whole, task, config, seed)
    pruned = _reach_target(whole, sample, config, macs, ignored)
    pruned.zero_grad(set_to_none=True)
    evidence = _evidence(model, pruned, sample, macs)
    if evidence["parameters"][0] == evidence["parameters"][1]:
        if config.strides and config.macs is not None:
            raise NoEffect("pruning removed no parameter: the strides alone meet macs. Lower macs.")
        raise NoEffect(
            f"pruning removed no parameter: no layer can lose {config.round_to} channels at this "
            "target. Lower round_to, or ask for more."
        )
    return pruned, evidence


def _check_layers(model: nn.Module, task: Task) -> None:
    """Refuse what torch-pruning would fail on, or leave as it is without a word."""
    unknown = (nn.RNNBase, nn.MultiheadAttention, nn.Embedding)
    found = [name for name, module in model.named_modules() if isinstance(module, unknown)]
    if found:
        raise InputError(
            f"layer '{found[0]}' ({type(model.get_submodule(found[0])).__name__}) of "
            f"{type(model).__name__} cannot be pruned as it is: recurrent layers and attention are "
            "pruned where the model declares its groups (`compress.models.groups.Prunable`), as "
            "the reference models do."
        )
    if task.train.lengths is not None:
        raise InputError(
            f"{type(model).__name__} takes sequences of different lengths and declares no groups "
            "to prune (`compress.models.groups.Prunable`)."
        )


def _apply_strides(model: nn.Module, config: PruneConfig) -> None:
    convolutions = {name: m for name, m in model.named_modules() if isinstance(m, nn.Conv2d)}
    for name, stride in config.strides.items():
        if name not in convolutions:
            raise InputError(
                f"strides: no convolution named '{name}'. Known: {', '.join(convolutions)}."
            )
        convolutions[name].stride = (stride, stride)


def _ignored_layers(model: nn.Module, sample: Tensor, config: PruneConfig) -> list[nn.Module]:
    """The layer that gives the model's output, and all layers inside those that the user keeps."""
    modules = dict(model.named_modules())
    kept: list[nn.Module] = []
    for name in config.keep:
        if name not in modules:
            known = ", ".join(filter(None, modules))
            raise InputError(f"keep: no layer named '{name}'. Known: {known}.")
        kept += modules[name].modules()
    calls: list[tuple[nn.Module, Any]] = []
    hooks = [
        layer.register_forward_hook(lambda module, _, output: calls.append((module, output)))
        for layer in modules.values()
        if isinstance(layer, nn.Linear | nn.Conv2d)
    ]
    with torch.inference_mode():
        output = model(sample)
    for hook in hooks:
        hook.remove()
    makers = [module for module, made in calls if made is output] or [calls[-1][0]]
    return makers + kept


def _accumulate_gradients(model: nn.Module, task: Task, config: PruneConfig, seed: int) -> None:
    """Gradients of the loss on training batches, summed in `.grad`, in evaluation mode."""
    batches = LabelledBatches(
        task.train, config.batch_size, task.augment if config.augment else None
    )
    generator = Generator().manual_seed(epoch_seed(seed, 0))
    loss = label_loss(task.kind)
    for _, batch in zip(range(config.batches), batches.epoch(0, generator), strict=False):
        loss(model(*batch.inputs), batch).backward()


def _reach_target(
    whole: nn.Module, sample: Tensor, config: PruneConfig, macs: int, ignored: list[nn.Module]
) -> nn.Module:
    """The largest model that meets the target, by bisection on the share of channels in question.

    Raises:
        InputError: even the smallest model is too large.
    """

    def meets(model: nn.Module, channels: tuple[int, int]) -> bool:
        if config.macs is not None:
            return count_macs(model, (sample,)) <= config.macs * macs
        assert config.ratio is not None
        before, after = channels
        return before - after >= config.ratio * before - 1e-9

    smallest, channels = _prune_once(whole, sample, config, 1.0, ignored)
    if not meets(smallest, channels):
        share = count_macs(smallest, (sample,)) / macs
        raise InputError(
            f"the target is out of reach: with round_to={config.round_to} the smallest model keeps "
            f"{channels[1]} of {channels[0]} prunable channels and {share:.3f} of the "
            "multiply-accumulates. Ask for less, lower round_to, or set strides."
        )
    low, high, found = 0.0, 1.0, smallest
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        model, channels = _prune_once(whole, sample, config, middle, ignored)
        if meets(model, channels):
            high, found = middle, model
        else:
            low = middle
    return found


def _prune_once(
    whole: nn.Module, sample: Tensor, config: PruneConfig, share: float, ignored: list[nn.Module]
) -> tuple[nn.Module, tuple[int, int]]:
    """A copy of `whole` without its least important channels, and how many there were and are.

    The `share` least important channels of all groups together are in question. Of each group as
    many go as leave a multiple of `round_to`, and at least one such block always stays, so a larger
    share never gives a larger model. (torch-pruning's own pruner leaves a group whole, in silence,
    where rounding would empty it.)
    """
    memo: dict[int, Any] = {}
    model = copy.deepcopy(whole, memo)
    for original, duplicate in zip(whole.parameters(), model.parameters(), strict=True):
        duplicate.grad = None if original.grad is None else original.grad.clone()
    graph = tp.DependencyGraph().build_dependency(model, example_inputs=sample)
    taylor = config.importance == "taylor"
    importance = (
        tp.importance.GroupTaylorImportance()
        if taylor
        else tp.importance.GroupMagnitudeImportance()
    )
    kinds = [nn.modules.conv._ConvNd, nn.Linear]
    groups = list(
        graph.get_all_groups([memo[id(layer)] for layer in ignored], root_module_types=kinds)
    )
    scores = [importance(group).detach() for group in groups]
    if not scores:
        return model, (0, 0)
    ranked = torch.cat(scores).sort().values
    threshold = ranked[min(len(ranked) - 1, int(share * len(ranked)))]
    before = after = 0
    for group, score in zip(groups, scores, strict=True):
        kept = _kept(int((score > threshold).sum()), len(score), config.round_to)
        before, after = before + len(score), after + kept
        if kept < len(score):
            least = score.argsort()[: len(score) - kept].tolist()
            layer, prune_channels = group[0].dep.target.module, group[0].dep.handler
            graph.get_pruning_group(layer, prune_channels, least).prune()
    _check_outputs(model, whole, sample)
    return model, (before, after)


def _kept(important: int, channels: int, round_to: int) -> int:
    """Channels that stay: the important ones, rounded up to whole blocks, at least one block."""
    blocks = max(1, math.ceil(important / round_to))
    return min(channels, blocks * round_to)


def _check_outputs(pruned: nn.Module, whole: nn.Module, sample: Tensor) -> None:
    with torch.inference_mode():
        found, expected = pruned.eval()(sample).shape, whole(sample).shape
    if found != expected:
        raise InputError(
            f"pruning changed the model's output from {tuple(expected)} to {tuple(found)}; "
            "name the layer that makes the output in `keep`."
        )


def _evidence(model: nn.Module, pruned: nn.Module, sample: Tensor, macs: int) -> dict[str, Any]:
    before, widths = dict(model.named_modules()), {}
    for name, module in pruned.named_modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            old, new = before[name].weight, module.weight
            assert isinstance(old, Tensor)
            if old.shape != new.shape:
                widths[name] = [list(old.shape[:2]), list(new.shape[:2])]
    return {
        "parameters": [count_parameters(model), count_parameters(pruned)],
        "macs": [macs, count_macs(pruned, (sample,))],
        "layers": widths,
    }

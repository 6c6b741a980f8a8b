"""Dependency-aware channel pruning by torch-pruning, to a ratio or a MACs target."""

from __future__ import annotations

import copy
from typing import Any

import torch
import torch.nn.functional as F
import torch_pruning as tp
from torch import Generator, Tensor, nn

from compress.data.task import Task
from compress.errors import InputError, NoEffect
from compress.models.build import count_macs, count_parameters
from compress.pruning.config import PruneConfig
from compress.training.batches import LabelledBatches
from compress.training.loop import epoch_seed

#: A layer keeps at least this share of its channels, so that none becomes a bottleneck of one.
LEAST_LEFT = 0.05


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
        InputError: a layer name that does not exist, or a MACs target below what can be reached.
        NoEffect: nothing could be removed.
    """
    sample = task.train.inputs[:2]
    macs = count_macs(model, (sample,))
    whole = copy.deepcopy(model).eval()
    _apply_strides(whole, config)
    ignored = _ignored_layers(whole, sample, config)
    if config.importance == "taylor":
        _accumulate_gradients(whole, task, config, seed)
    if config.ratio is not None:
        pruned = _prune_once(whole, sample, config, config.ratio, ignored)
    else:
        assert config.macs is not None
        pruned = _prune_to_macs(whole, sample, config, config.macs * macs, ignored)
    pruned.zero_grad(set_to_none=True)
    evidence = _evidence(model, pruned, sample, macs)
    if evidence["parameters"][0] == evidence["parameters"][1]:
        raise NoEffect(
            f"pruning removed no parameter: no layer can lose {config.round_to} channels at this "
            "target. Lower round_to, or ask for more."
        )
    return pruned, evidence


def _apply_strides(model: nn.Module, config: PruneConfig) -> None:
    convolutions = {name: m for name, m in model.named_modules() if isinstance(m, nn.Conv2d)}
    for name, stride in config.strides.items():
        if name not in convolutions:
            raise InputError(
                f"strides: no convolution named '{name}'. Known: {', '.join(convolutions)}."
            )
        convolutions[name].stride = (stride, stride)


def _ignored_layers(model: nn.Module, sample: Tensor, config: PruneConfig) -> list[nn.Module]:
    """The layer that gives the model's output, and those that the user wants kept."""
    modules = dict(model.named_modules())
    for name in config.keep:
        if name not in modules:
            raise InputError(
                f"keep: no layer named '{name}'. Known: {', '.join(filter(None, modules))}."
            )
    made: dict[int, nn.Module] = {}

    def remember(module: nn.Module, _: Any, output: Any) -> None:
        made[id(output)] = module

    layers = [module for module in modules.values() if isinstance(module, nn.Linear | nn.Conv2d)]
    hooks = [layer.register_forward_hook(remember) for layer in layers]
    with torch.inference_mode():
        output = model(sample)
    for hook in hooks:
        hook.remove()
    last = [made[id(output)]] if id(output) in made else layers[-1:]
    return last + [modules[name] for name in config.keep]


def _accumulate_gradients(model: nn.Module, task: Task, config: PruneConfig, seed: int) -> None:
    """Gradients of the loss on training batches, summed in `.grad`, in evaluation mode."""
    batches = LabelledBatches(
        task.train, config.batch_size, task.augment if config.augment else None
    )
    generator = Generator().manual_seed(epoch_seed(seed, 0))
    for _, batch in zip(range(config.batches), batches.epoch(0, generator), strict=False):
        F.cross_entropy(model(batch.inputs), batch.targets).backward()  # type: ignore[no-untyped-call]


def _prune_once(
    whole: nn.Module, sample: Tensor, config: PruneConfig, ratio: float, ignored: list[nn.Module]
) -> nn.Module:
    """A copy of `whole` without `ratio` of its channels, the least important ones of all layers."""
    memo: dict[int, Any] = {}
    model = copy.deepcopy(whole, memo)
    for original, duplicate in zip(whole.parameters(), model.parameters(), strict=True):
        duplicate.grad = None if original.grad is None else original.grad.clone()
    taylor = config.importance == "taylor"
    pruner = tp.pruner.BasePruner(
        model,
        sample,
        importance=tp.importance.GroupTaylorImportance()
        if taylor
        else tp.importance.GroupMagnitudeImportance(p=2),
        global_pruning=True,
        pruning_ratio=ratio,
        max_pruning_ratio=1 - LEAST_LEFT,
        round_to=config.round_to,
        ignored_layers=[memo[id(layer)] for layer in ignored],
    )
    pruner.step()
    with torch.inference_mode():
        outputs = model.eval()(sample)
        if outputs.shape != whole(sample).shape:
            raise InputError(
                f"pruning changed the model's output to {tuple(outputs.shape)}; "
                "name the layer that makes the output in `keep`."
            )
    return model


def _prune_to_macs(
    whole: nn.Module, sample: Tensor, config: PruneConfig, target: float, ignored: list[nn.Module]
) -> nn.Module:
    """The model with the most MACs not above `target` that bisection on the ratio finds."""
    low, high, found = 0.0, 1.0, None
    for _ in range(10):
        ratio = (low + high) / 2
        model = _prune_once(whole, sample, config, ratio, ignored)
        if count_macs(model, (sample,)) > target:
            low = ratio
        else:
            high, found = ratio, model
    if found is None:
        least = count_macs(_prune_once(whole, sample, config, 0.999, ignored), (sample,))
        raise InputError(
            f"macs: a target of {target:,.0f} multiply-accumulates is out of reach; with "
            f"round_to={config.round_to} the least is {least:,}. Raise macs, or lower round_to."
        )
    return found


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

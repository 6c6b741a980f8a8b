"""The plan of a pruned model: what is left of each layer, so that it can be rebuilt from source.

A plan maps the name of a layer to the attributes that differ from the freshly built one, such as
`{"stages.0.0.conv1": {"out_channels": 8}, "stages.0.0.norm1": {"num_features": 8}}`. The weights
are then loaded strictly, which proves that plan and weights belong together.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from compress.errors import ArtifactError

_ATTRIBUTES: dict[type[nn.Module], tuple[str, ...]] = {
    nn.Conv2d: ("in_channels", "out_channels", "groups", "stride"),
    nn.Linear: ("in_features", "out_features"),
    nn.BatchNorm2d: ("num_features",),
    nn.BatchNorm1d: ("num_features",),
}


def _attributes(module: nn.Module) -> dict[str, Any]:
    for kind, names in _ATTRIBUTES.items():
        if isinstance(module, kind):
            return {name: getattr(module, name) for name in names}
    return {}


def make_plan(pruned: nn.Module, whole: nn.Module) -> dict[str, dict[str, Any]]:
    """What differs between a pruned model and a freshly built one.

    Raises:
        ArtifactError: a layer changed in a way that a plan cannot say, so that the pruned model
            could not be rebuilt.
    """
    modules = dict(whole.named_modules())
    plan: dict[str, dict[str, Any]] = {}
    for name, module in pruned.named_modules():
        before = _attributes(modules[name])
        changed = {key: value for key, value in _attributes(module).items() if before[key] != value}
        if changed:
            plan[name] = changed
    apply_plan(whole, plan)
    shapes = {name: value.shape for name, value in whole.state_dict().items()}
    for name, value in pruned.state_dict().items():
        if shapes.get(name) != value.shape:
            raise ArtifactError(
                f"{name}: pruned to {tuple(value.shape)}, which a plan cannot rebuild; "
                "exclude that layer with `keep`."
            )
    return plan


def apply_plan(model: nn.Module, plan: dict[str, dict[str, Any]]) -> None:
    """Give the layers of a freshly built model the sizes of a plan, in place, with new weights.

    Raises:
        ArtifactError: the plan names a layer or an attribute that the model does not have.
    """
    modules = dict(model.named_modules())
    for name, changes in plan.items():
        if name not in modules:
            raise ArtifactError(f"the plan names layer '{name}', which the architecture lacks.")
        known = _attributes(modules[name])
        for key, value in changes.items():
            if key not in known:
                raise ArtifactError(f"the plan sets '{key}' of layer '{name}', which it lacks.")
            setattr(modules[name], key, tuple(value) if isinstance(value, list) else value)
        _resize(modules[name])


def _resize(module: nn.Module) -> None:
    """New tensors of the sizes that the module's attributes now say, freshly initialised."""
    if isinstance(module, nn.Conv2d):
        shape = (module.out_channels, module.in_channels // module.groups, *module.kernel_size)
        module.weight = nn.Parameter(torch.empty(shape))
        if module.bias is not None:
            module.bias = nn.Parameter(torch.empty(module.out_channels))
        nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    elif isinstance(module, nn.Linear):
        module.weight = nn.Parameter(torch.empty(module.out_features, module.in_features))
        if module.bias is not None:
            module.bias = nn.Parameter(torch.empty(module.out_features))
        module.reset_parameters()
    elif isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
        fresh = type(module)(module.num_features, module.eps, module.momentum, module.affine)
        module.weight, module.bias = fresh.weight, fresh.bias
        module.running_mean, module.running_var = fresh.running_mean, fresh.running_var

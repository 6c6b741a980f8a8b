"""Optimizers and learning-rate schedules, all torch's own, from a `FitConfig`."""

from __future__ import annotations

import math
from typing import Any

from torch import nn
from torch.optim import SGD, Adam, AdamW, Optimizer, RMSprop
from torch.optim.lr_scheduler import LambdaLR, LRScheduler, OneCycleLR

from compress.training.config import FitConfig
from compress.training.muon import MuonAdamW, hidden_matrices


def make_optimizer(model: nn.Module, config: FitConfig) -> Optimizer:
    """The optimizer, with weight decay on matrices and kernels only."""
    rate, betas = config.learning_rate, (config.momentum, 0.999)
    groups = _groups(model, config)
    match config.optimizer:
        case "sgd":
            nesterov = config.momentum > 0
            return SGD(groups, rate, momentum=config.momentum, nesterov=nesterov, fused=True)
        case "adam":
            return Adam(groups, rate, betas=betas, fused=True)
        case "adamw":
            return AdamW(groups, rate, betas=betas, fused=True)
        case "rmsprop":
            return RMSprop(groups, rate, momentum=config.momentum)
        case "muon":
            return MuonAdamW(groups, rate, betas)


def _groups(model: nn.Module, config: FitConfig) -> list[dict[str, Any]]:
    """Parameters by what is done to them; groups without any are left out."""
    tables = {id(m.weight) for m in model.modules() if isinstance(m, nn.Embedding)}
    muon = hidden_matrices(model) if config.optimizer == "muon" else set()
    parts: dict[str, list[nn.Parameter]] = {"matrices": [], "vectors": [], "tables": [], "muon": []}
    for weight in model.parameters():
        if not weight.requires_grad:
            continue
        if id(weight) in tables and config.table_rate != 1:
            parts["tables"].append(weight)
        elif id(weight) in muon:
            parts["muon"].append(weight)
        else:
            parts["matrices" if weight.dim() > 1 else "vectors"].append(weight)
    groups: list[dict[str, Any]] = [
        {"params": weights, "weight_decay": 0.0 if name == "vectors" else config.weight_decay}
        for name, weights in parts.items()
        if weights or name in ("matrices", "vectors")
    ]
    if parts["tables"]:
        groups[2]["lr"] = config.learning_rate * config.table_rate
    if parts["muon"]:
        groups[-1]["muon"] = True
    return groups


def make_schedule(optimizer: Optimizer, config: FitConfig, steps: int) -> LRScheduler:
    """The learning rate over `steps` optimizer steps; called once behind each."""
    warmup = max(1, round(config.warmup * steps)) if config.warmup else 0
    if config.schedule == "one_cycle":
        # OneCycleLR divides by the length of either phase, less one: neither may be empty.
        total = max(steps, 3)
        share = min(max(config.warmup, 2 / total), 1 - 1 / total)
        return OneCycleLR(
            optimizer,
            [group["lr"] for group in optimizer.param_groups],
            total_steps=total,
            pct_start=share,
            cycle_momentum=False,
        )

    def factor(step: int) -> float:
        if step < warmup:
            return (step + 1) / warmup
        if config.schedule == "constant":
            return 1.0
        return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))

    return LambdaLR(optimizer, factor)

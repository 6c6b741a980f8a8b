"""Optimizers and learning-rate schedules, all torch's own, from a `FitConfig`."""

from __future__ import annotations

import math

from torch import nn
from torch.optim import SGD, Adam, AdamW, Optimizer, RMSprop
from torch.optim.lr_scheduler import LambdaLR, LRScheduler, OneCycleLR

from compress.training.config import FitConfig


def make_optimizer(model: nn.Module, config: FitConfig) -> Optimizer:
    """The optimizer, with weight decay on matrices and kernels only."""
    decayed = [weight for weight in model.parameters() if weight.requires_grad and weight.dim() > 1]
    plain = [weight for weight in model.parameters() if weight.requires_grad and weight.dim() <= 1]
    groups = [
        {"params": decayed, "weight_decay": config.weight_decay},
        {"params": plain, "weight_decay": 0.0},
    ]
    rate, betas = config.learning_rate, (config.momentum, 0.999)
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


def make_schedule(optimizer: Optimizer, config: FitConfig, steps: int) -> LRScheduler:
    """The learning rate over `steps` optimizer steps; called once behind each."""
    warmup = max(1, round(config.warmup * steps)) if config.warmup else 0
    if config.schedule == "one_cycle":
        # OneCycleLR divides by the length of either phase, less one: neither may be empty.
        total = max(steps, 3)
        share = min(max(config.warmup, 2 / total), 1 - 1 / total)
        return OneCycleLR(
            optimizer,
            config.learning_rate,
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

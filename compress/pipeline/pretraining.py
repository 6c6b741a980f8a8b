"""The stage in which a model of tokens guesses hidden ones, before it learns a task."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Generator

from compress.data.task import Split
from compress.errors import InputError
from compress.pipeline.context import Context, Inputs, Made
from compress.pipeline.models import cost, fresh
from compress.training.checkpoint import Checkpoint
from compress.training.loop import fit
from compress.training.pretrain_config import PretrainConfig
from compress.training.pretraining import MaskedBatches, MaskedTokens, masked_loss

#: Which tokens are hidden when the guesses are counted: the same ones before and after.
_SEED = 0


def pretrain(
    config: PretrainConfig,
    inputs: Inputs,
    context: Context,
    checkpoint: Checkpoint,
    scratch: Path,
) -> Made:
    """Train the recipe's model to tell hidden tokens of the training split."""
    task = context.task
    if task.train.inputs.is_floating_point():
        raise InputError(
            f"pretrain: samples of task '{task.name}' are no tokens, so none can be masked; "
            "leave the stage out."
        )
    model, spec = fresh(context.model, context)
    masked = MaskedTokens(model)
    before = guessed(masked, task.validation, config)
    done = fit(
        masked,
        MaskedBatches(task.train, config.batch_size, masked.vocabulary, config.mask),
        masked_loss,
        config,
        seed=context.seed,
        device=context.device,
        checkpoint=checkpoint,
        progress=context.progress,
        label="pretraining",
    )
    after = guessed(masked, task.validation, config)
    evidence = {
        "fit": done.evidence(),
        "masked": {"share": config.mask, "accuracy": [before, after]},
    }
    return Made(model, spec, evidence | cost(model, model, task))


def guessed(masked: MaskedTokens, split: Split, config: PretrainConfig) -> float:
    """Share of hidden tokens of a split that the model tells."""
    batches = MaskedBatches(
        split, min(config.batch_size, len(split)), masked.vocabulary, config.mask
    )
    right = asked = 0
    masked.eval()
    with torch.inference_mode():
        for batch in batches.epoch(0, Generator().manual_seed(_SEED)):
            right += int((masked(*batch.inputs).argmax(dim=1) == batch.targets).sum())
            asked += len(batch.targets)
    return right / max(1, asked)

"""The stage in which a teacher teaches, and what it tells of it."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from compress.data.task import Task
from compress.distillation.config import DistillConfig
from compress.distillation.soft_targets import soft_target_loss
from compress.distillation.teacher import TaughtBatches, Views, taught_batches
from compress.errors import InputError, NoEffect
from compress.measure.quality import run_onnx
from compress.pipeline.context import Context, Inputs, Made
from compress.pipeline.models import check_fits, cost, fresh, spec_of
from compress.runtime.onnxruntime import Session
from compress.training.batches import Batches
from compress.training.checkpoint import Checkpoint
from compress.training.loop import fit
from compress.training.validation import predict, validation


def distill(
    config: DistillConfig, inputs: Inputs, context: Context, checkpoint: Checkpoint, scratch: Path
) -> Made:
    """Teach a fresh student, or the parent's model, with the teacher's answers."""
    assert inputs.teacher is not None
    if config.student is not None:
        model, spec = fresh(config.student, context)
    elif inputs.parent is not None:
        model, spec = inputs.parent.load_model(), spec_of(inputs.parent)
        check_fits(model, context.task)
    else:
        raise InputError(
            "distill: nothing to teach; give `student`, or put a stage with a model before it."
        )
    views = Views(
        context.task,
        config.views,
        seed=context.seed,
        augment=config.augment,
        mixup=config.mixup,
    )
    batches = taught_batches(
        inputs.teacher,
        views,
        config.batch_size,
        device=context.device,
        threads=context.threads,
        cache=context.cache,
        progress=context.progress,
    )
    before = model.state_dict()
    before = {name: value.clone() for name, value in before.items()}
    done = fit(
        model,
        batches,
        soft_target_loss(
            config.temperature, config.alpha, config.label_smoothing, context.task.kind
        ),
        config,
        seed=context.seed,
        device=context.device,
        validate=validation(context.task) if config.patience else None,
        checkpoint=checkpoint,
        progress=context.progress,
        label="distillation",
    )
    if all(torch.equal(value, before[name]) for name, value in model.state_dict().items()):
        raise NoEffect("distillation changed no weight; raise learning_rate or epochs.")
    evidence = {
        "fit": done.evidence(),
        "teacher_agreement": _agreement(inputs.teacher, model, context),
        "matched": _matched(config, context.task, batches),
    }
    return Made(model, spec, evidence | cost(model, model, context.task))


def _agreement(teacher: Path, model: nn.Module, context: Context) -> float:
    """How far student and teacher agree on the validation split, at most 1.

    The share of samples (or tokens) for which both name the same class; of a regression the share
    of the teacher's variance that the student explains.
    """
    split = context.task.validation
    expected = run_onnx(Session(teacher, context.device, context.threads), split)
    found = predict(model, split)
    if context.task.kind == "regression":
        return float(1 - ((expected - found) ** 2).mean() / expected.var())
    return float((expected.argmax(axis=-1) == found.argmax(axis=-1)).mean())


def _matched(config: DistillConfig, task: Task, batches: Batches) -> str:
    """What of the student was drawn to what of the teacher, for people."""
    answers = f"the teacher's distributions over {len(task.classes)} {task.output_name}"
    answers += " at every step" if task.kind == "language model" else ""
    how = f"KL divergence at temperature {config.temperature:g}"
    if task.kind == "regression":
        answers, how = f"the teacher's {len(task.classes)} values", "mean squared error"
    labels = "" if config.alpha == 1 else f" (weight {config.alpha:g}; the rest is the labels)"
    source = "asked for every batch"
    if isinstance(batches, TaughtBatches):
        source = f"kept for {len(batches.logits)} views of the training split"
    return f"{answers}, {how}{labels}; {source}"

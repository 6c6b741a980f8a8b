"""One function a kind of stage: from its inputs and settings to a model and its evidence.

A stage that makes an ONNX file writes it as `model.onnx` into its scratch folder; for a torch model
that is done behind it, in `runner.py`.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from compress.artifact import ONNX
from compress.data.task import Task
from compress.export.config import ExportConfig
from compress.export.graph import operators
from compress.export.loading import load_graph
from compress.export.torch_to_onnx import export
from compress.measure.judge import TaskJudge
from compress.models.build import build
from compress.onnx_files import size_bytes
from compress.pipeline.context import Context, Inputs, Made
from compress.pipeline.models import check_fits, cost, fresh, inherited_cost, spec_of
from compress.pipeline.pretraining import pretrain
from compress.pipeline.quantization_aware import train_quantized
from compress.pipeline.teaching import distill
from compress.pruning.config import PruneConfig
from compress.pruning.prune import prune
from compress.quantization import best
from compress.quantization.building import build as build_candidates
from compress.quantization.calibration.stored import Store
from compress.quantization.config import QuantizeConfig
from compress.quantization.rewriting.files import copy
from compress.training.batches import LabelledBatches
from compress.training.checkpoint import Checkpoint
from compress.training.config import FitConfig, TrainConfig
from compress.training.crossvalidation import cross_validate
from compress.training.loop import fit
from compress.training.losses import label_loss
from compress.training.validation import validation

StageFunction = Callable[[Any, Inputs, Context, Checkpoint, Path], Made]


def _fit_labels(
    model: nn.Module, config: FitConfig, context: Context, checkpoint: Checkpoint, label: str
) -> dict[str, Any]:
    augment = context.task.augment if config.augment else None
    done = fit(
        model,
        LabelledBatches(context.task.train, config.batch_size, augment),
        label_loss(context.task.kind, config.label_smoothing),
        config,
        seed=context.seed,
        device=context.device,
        validate=validation(context.task) if config.patience else None,
        checkpoint=checkpoint,
        progress=context.progress,
        label=label,
    )
    return done.evidence()


def train(
    config: TrainConfig, inputs: Inputs, context: Context, checkpoint: Checkpoint, scratch: Path
) -> Made:
    """Train on labels: the recipe's model, the parent's, or an architecture as a control."""
    if inputs.like is None and inputs.parent is None:
        model, spec = fresh(context.model, context)
    elif inputs.like is None:
        assert inputs.parent is not None
        model, spec = inputs.parent.load_model(), spec_of(inputs.parent)
        check_fits(model, context.task)
    else:
        spec = spec_of(inputs.like)
        torch.manual_seed(context.seed)
        model = build(spec)
        check_fits(model, context.task)
    evidence: dict[str, Any] = {}
    if config.folds:
        evidence["cross_validation"] = cross_validate(
            lambda: build(spec),
            context.task,
            config,
            label_loss(context.task.kind, config.label_smoothing),
            seed=context.seed,
            device=context.device,
            progress=context.progress,
        )
    evidence["fit"] = _fit_labels(model, config, context, checkpoint, "training")
    return Made(model, spec, evidence | cost(model, model, context.task))


def prune_stage(
    config: PruneConfig, inputs: Inputs, context: Context, checkpoint: Checkpoint, scratch: Path
) -> Made:
    """Prune the parent's model, then train it to recover."""
    assert inputs.parent is not None
    spec = spec_of(inputs.parent)
    whole = inputs.parent.load_model()
    check_fits(whole, context.task)
    model, spec, evidence = prune(whole, spec, context.task, config, seed=context.seed)
    if config.epochs:
        evidence["recovery"] = _fit_labels(model, config, context, checkpoint, "recovery")
    return Made(model, spec, evidence)


def quantize(
    config: QuantizeConfig, inputs: Inputs, context: Context, checkpoint: Checkpoint, scratch: Path
) -> Made:
    """Build the quantized candidates, measure them beside their input, keep the best."""
    assert inputs.parent is not None
    source = inputs.parent.onnx
    goal = best.Goal(
        reference=(inputs.baseline or inputs.parent).onnx,
        max_drop=context.budget.max_drop,
        minimise=context.budget.minimise,
        bench=context.bench,
        relative=context.budget.relative,
    )
    judge = TaskJudge(context.task)
    store = Store(context.cache / f"calibration-{inputs.parent.identity[:16]}.npz")
    with tempfile.TemporaryDirectory() as folder:
        built = build_candidates(
            source,
            Path(folder),
            judge,
            config,
            context.seed,
            context.budget.minimise,
            context.progress,
            context.device,
            store,
        )
        choice = best.choose(
            source,
            built,
            judge,
            goal,
            stage="",
            device=context.device,
            threads=context.threads,
            progress=context.progress,
        )
        chosen, account = choice.name, choice.account
        if choice.interrupted:  # a recipe goes on from its last whole stage
            raise KeyboardInterrupt
        best.refuse_single_method(choice, config)
        copy(choice.target.path, scratch / ONNX)
    candidates = [entry.model_dump(exclude={"stage"}) for entry in account]
    evidence = {
        "candidates": candidates,
        "chosen": chosen or best.INPUT,
        "calibration": built.calibration(),
        "operators": operators(load_graph(scratch / ONNX)),
        "size_bytes": [size_bytes(source), size_bytes(scratch / ONNX)],
    }
    return Made(None, None, evidence | inherited_cost(inputs.parent))


def export_model(
    model: nn.Module, task: Task, path: Path, config: ExportConfig | None = None
) -> dict[str, Any]:
    """Write a model as ONNX, checked on samples of the task's validation split."""
    samples = task.validation.typical(8)
    return export(model, samples, path, config, sequences=task.sequences)


def export_stage(
    config: ExportConfig, inputs: Inputs, context: Context, checkpoint: Checkpoint, scratch: Path
) -> Made:
    """Export the parent's torch model once more, with other settings."""
    assert inputs.parent is not None
    model = inputs.parent.load_model()
    evidence = export_model(model, context.task, scratch / ONNX, config)
    return Made(None, None, {"export": evidence} | inherited_cost(inputs.parent))


FUNCTIONS: dict[str, StageFunction] = {
    "pretrain": pretrain,
    "train": train,
    "prune": prune_stage,
    "distill": distill,
    "quantize": quantize,
    "qat": train_quantized,
    "export": export_stage,
}

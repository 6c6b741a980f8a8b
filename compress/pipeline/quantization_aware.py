"""The stage in which a quantized model is trained on, from the answers of its fp32 model."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

from compress.artifact import ONNX, Artifact
from compress.distillation.soft_targets import soft_target_loss
from compress.distillation.teacher import Views, taught_batches
from compress.errors import InputError
from compress.export.graph import operators, shorten_names, strip
from compress.export.loading import load_graph
from compress.measure.judge import TaskJudge
from compress.measure.quality import quality, run_onnx
from compress.onnx_files import size_bytes
from compress.pipeline.context import Context, Inputs, Made
from compress.pipeline.models import inherited_cost
from compress.quantization.qat.check import compare, left_in_fp32, scale_summary
from compress.quantization.qat.config import QatConfig
from compress.quantization.qat.start import is_int8, start_graph
from compress.runtime.onnxruntime import Session
from compress.training.batches import Batches, LabelledBatches
from compress.training.checkpoint import Checkpoint
from compress.training.loop import fit
from compress.training.losses import label_loss
from compress.training.precision import Loss
from compress.training.validation import validation


def train_quantized(
    config: QatConfig, inputs: Inputs, context: Context, checkpoint: Checkpoint, scratch: Path
) -> Made:
    """Quantize the parent's ONNX model, train weights and scales, and write them back.

    The artifact holds the int8 file alone: its weights are integers, which no torch model has.
    """
    assert inputs.parent is not None
    source, task = inputs.parent.onnx, context.task
    samples = TaskJudge(task).calibration(config.samples, context.seed)
    graph, method = start_graph(source, samples, config)
    batches, loss, taught_by = _lesson(config, inputs, context)
    validate = validation(task)
    calibrated, start = validate(graph), copy.deepcopy(graph.state_dict())
    if config.clip_norm is None and graph.explodes:
        config = config.model_copy(update={"clip_norm": 1.0})
    done = fit(
        graph,
        batches,
        loss,
        config,
        seed=context.seed,
        device=context.device,
        validate=validate if config.patience else None,
        checkpoint=checkpoint,
        progress=context.progress,
        label="quantization-aware training",
    )
    trained = validate(graph)
    if config.patience and trained < calibrated:
        graph.load_state_dict(start)
    found = strip(graph.learned())
    evidence: dict[str, Any] = {"left_in_fp32": left_in_fp32(found), "operators": operators(found)}
    (scratch / ONNX).write_bytes(shorten_names(found).SerializeToString())
    evidence |= {
        "method": method,
        "taught_by": taught_by,
        "fit": done.evidence(),
        "kept": "calibrated" if config.patience and trained < calibrated else "trained",
        "validation": _before_and_after(source, calibrated, trained, context),
        "scales": scale_summary(graph),
        "agreement": compare(
            graph, scratch / ONNX, task.validation, labels=task.kind != "regression"
        ),
        "size_bytes": [size_bytes(source), size_bytes(scratch / ONNX)],
    }
    return Made(None, None, evidence | inherited_cost(inputs.parent))


def _lesson(config: QatConfig, inputs: Inputs, context: Context) -> tuple[Batches, Loss, str]:
    """What is trained on: batches, the loss, and who teaches, for people."""
    task = context.task
    if config.alpha == 0:
        augment = task.augment if config.augment else None
        batches = LabelledBatches(task.train, config.batch_size, augment)
        return batches, label_loss(task.kind, config.label_smoothing), "labels"
    teacher = inputs.teacher_artifact or _fp32(inputs)
    views = Views(task, config.views, seed=context.seed, augment=config.augment)
    taught = taught_batches(
        teacher.onnx,
        views,
        config.batch_size,
        device=context.device,
        threads=context.threads,
        cache=context.cache,
        progress=context.progress,
    )
    loss = soft_target_loss(config.temperature, config.alpha, config.label_smoothing, task.kind)
    return taught, loss, teacher.card.name


def _fp32(inputs: Inputs) -> Artifact:
    """Who teaches where nobody is named: the model that comes in, while it still is fp32."""
    for artifact in (inputs.parent, inputs.baseline):
        if artifact is not None and not is_int8(load_graph(artifact.onnx)):
            return artifact
    assert inputs.parent is not None
    raise InputError(
        f"{inputs.parent.folder}: is int8 already, and nothing says which fp32 model it came from; "
        "name that with `teacher`, or train on labels with alpha=0."
    )


def _before_and_after(
    source: Path, calibrated: float, trained: float, context: Context
) -> dict[str, Any]:
    """The task's metric on the validation split: of what came in, calibrated alone, and trained."""
    task = context.task
    sign = 1.0 if task.metric.higher_is_better else -1.0
    outputs = run_onnx(Session(source, context.device, context.threads), task.validation)
    return {
        "metric": task.metric.name,
        "before": quality(task, outputs, task.validation).value,
        "calibrated": sign * calibrated,
        "trained": sign * trained,
    }

"""One function a kind of stage: from its inputs and settings to a model and its evidence.

A stage that makes an ONNX file writes it as `model.onnx` into its scratch folder; for a torch model
that is done behind it, in `runner.py`.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from compress.artifact import ONNX, Artifact
from compress.data.task import Task
from compress.distillation.config import DistillConfig
from compress.distillation.soft_targets import soft_target_loss
from compress.distillation.teacher import TaughtBatches, Views, teacher_logits
from compress.errors import InputError, NoEffect, ShapeMismatch
from compress.export.config import ExportConfig
from compress.export.graph import load_onnx, operators
from compress.export.torch_to_onnx import export
from compress.measure.quality import quality
from compress.models.build import build, count_macs, count_parameters
from compress.models.plan import make_plan
from compress.models.references import ModelSpec, resolve
from compress.pipeline.context import Context, Inputs, Made
from compress.pruning.config import PruneConfig
from compress.pruning.structured import prune
from compress.quantization import best
from compress.quantization.config import QuantizeConfig
from compress.training.batches import Batch, LabelledBatches
from compress.training.checkpoint import Checkpoint
from compress.training.config import FitConfig, TrainConfig
from compress.training.crossvalidation import cross_validate
from compress.training.loop import fit
from compress.training.precision import Loss

StageFunction = Callable[[Any, Inputs, Context, Checkpoint, Path], Made]


def _label_loss(config: FitConfig) -> Loss:
    def loss(outputs: Tensor, batch: Batch) -> Tensor:
        targets = batch.targets.to(outputs.device)
        return F.cross_entropy(outputs, targets, label_smoothing=config.label_smoothing)

    return loss


def _validate(task: Task) -> Callable[[nn.Module], float]:
    def value(model: nn.Module) -> float:
        with torch.inference_mode():
            outputs = torch.cat([model.eval()(part) for part in task.validation.inputs.split(500)])
        found = quality(task, outputs.float().numpy(), task.validation)
        return found.value if found.higher_is_better else -found.value

    return value


def _fresh(reference: str | dict[str, Any], context: Context) -> tuple[nn.Module, ModelSpec]:
    settings = {"name": reference} if isinstance(reference, str) else dict(reference)
    spec = resolve(settings.pop("name"), settings, context.task.facts)
    torch.manual_seed(context.seed)
    model = build(spec)
    check_fits(model, context.task)
    return model, spec


def check_fits(model: nn.Module, task: Task) -> None:
    """Run two samples, so that a model that does not fit its data is told before the long work.

    Raises:
        ShapeMismatch: it fails on them, or does not give one score a class.
    """
    sample, name = task.train.inputs[:2], type(model).__name__
    try:
        with torch.inference_mode():
            outputs = model.eval()(sample)
    except (RuntimeError, TypeError, ValueError, IndexError) as error:
        line = str(error).strip().partition("\n")[0]
        raise ShapeMismatch(
            f"{name} does not take the data of task '{task.name}', "
            f"shape {list(sample.shape)}: {line}"
        ) from error
    expected = (len(sample), len(task.classes))
    if not isinstance(outputs, Tensor) or outputs.shape != expected:
        found = list(outputs.shape) if isinstance(outputs, Tensor) else type(outputs).__name__
        raise ShapeMismatch(
            f"{name} gives {found} for {len(sample)} samples; task '{task.name}' with "
            f"{len(task.classes)} classes expects one tensor of shape {list(expected)}."
        )


def _fit_labels(
    model: nn.Module, config: FitConfig, context: Context, checkpoint: Checkpoint, label: str
) -> dict[str, Any]:
    augment = context.task.augment if config.augment else None
    done = fit(
        model,
        LabelledBatches(context.task.train, config.batch_size, augment),
        _label_loss(config),
        config,
        seed=context.seed,
        device=context.device,
        validate=_validate(context.task) if config.patience else None,
        checkpoint=checkpoint,
        progress=context.progress,
        label=label,
    )
    return done.evidence()


def train(
    config: TrainConfig, inputs: Inputs, context: Context, checkpoint: Checkpoint, scratch: Path
) -> Made:
    """Train on labels: the recipe's model, or another stage's architecture as its control."""
    if inputs.like is None:
        model, spec = _fresh(context.model, context)
    else:
        spec = _spec(inputs.like)
        torch.manual_seed(context.seed)
        model = build(spec)
        check_fits(model, context.task)
    evidence: dict[str, Any] = {}
    if config.folds:
        evidence["cross_validation"] = cross_validate(
            lambda: build(spec),
            context.task,
            config,
            _label_loss(config),
            seed=context.seed,
            device=context.device,
            progress=context.progress,
        )
    evidence["fit"] = _fit_labels(model, config, context, checkpoint, "training")
    return Made(model, spec, evidence | _cost(model, model, context.task))


def prune_stage(
    config: PruneConfig, inputs: Inputs, context: Context, checkpoint: Checkpoint, scratch: Path
) -> Made:
    """Prune the parent's model, then train it to recover."""
    assert inputs.parent is not None
    spec = _spec(inputs.parent)
    whole = inputs.parent.load_model()
    check_fits(whole, context.task)
    model, evidence = prune(whole, context.task, config, seed=context.seed)
    plan = make_plan(model, build(spec.model_copy(update={"plan": {}})))
    if config.epochs:
        evidence["recovery"] = _fit_labels(model, config, context, checkpoint, "recovery")
    return Made(model, spec.model_copy(update={"plan": plan}), evidence)


def distill(
    config: DistillConfig, inputs: Inputs, context: Context, checkpoint: Checkpoint, scratch: Path
) -> Made:
    """Teach a fresh student, or the parent's model, with the teacher's answers."""
    assert inputs.teacher is not None
    if config.student is not None:
        model, spec = _fresh(config.student, context)
    elif inputs.parent is not None:
        model, spec = inputs.parent.load_model(), _spec(inputs.parent)
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
    logits = teacher_logits(
        inputs.teacher,
        views,
        device=context.device,
        threads=context.threads,
        cache=context.cache,
        progress=context.progress,
    )
    before = model.state_dict()
    before = {name: value.clone() for name, value in before.items()}
    done = fit(
        model,
        TaughtBatches(views, logits, config.batch_size),
        soft_target_loss(config.temperature, config.alpha, config.label_smoothing),
        config,
        seed=context.seed,
        device=context.device,
        validate=_validate(context.task) if config.patience else None,
        checkpoint=checkpoint,
        progress=context.progress,
        label="distillation",
    )
    if all(torch.equal(value, before[name]) for name, value in model.state_dict().items()):
        raise NoEffect("distillation changed no weight; raise learning_rate or epochs.")
    agreement = _agreement(inputs.teacher, model, context)
    evidence = {"fit": done.evidence(), "teacher_agreement": agreement}
    return Made(model, spec, evidence | _cost(model, model, context.task))


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
    )
    with tempfile.TemporaryDirectory() as folder:
        files, failures = best.build(source, Path(folder), context.task, config, context.seed)
        chosen, account = best.choose(
            source,
            files,
            failures,
            context.task,
            goal,
            stage="",
            device=context.device,
            progress=context.progress,
        )
        if chosen is None and config.method != "best":
            reason = next((c.reason for c in account if c.name != "fp32 input"), "not built")
            raise NoEffect(
                f"quantization by '{config.method}' was refused: {reason}. "
                "Use method=best, or raise budget.max_drop."
            )
        shutil.copyfile(files[chosen] if chosen else source, scratch / ONNX)
    candidates = [entry.model_dump(exclude={"stage"}) for entry in account]
    evidence = {
        "candidates": candidates,
        "chosen": chosen or "fp32 input",
        "operators": operators(load_onnx(scratch / ONNX)),
        "size_bytes": [source.stat().st_size, (scratch / ONNX).stat().st_size],
    }
    return Made(None, None, evidence | _inherited(inputs.parent))


def export_stage(
    config: ExportConfig, inputs: Inputs, context: Context, checkpoint: Checkpoint, scratch: Path
) -> Made:
    """Export the parent's torch model once more, with other settings."""
    assert inputs.parent is not None
    model = inputs.parent.load_model()
    evidence = export(model, context.task.validation.inputs[:8], scratch / ONNX, config)
    return Made(None, None, {"export": evidence} | _inherited(inputs.parent))


def _spec(artifact: Artifact) -> ModelSpec:
    if artifact.card.model is None:
        raise InputError(
            f"{artifact.folder}: a {artifact.card.kind} stage leaves an ONNX file without torch "
            "weights; name the stage before it in `from`."
        )
    return artifact.card.model


def _cost(before: nn.Module, after: nn.Module, task: Task) -> dict[str, Any]:
    sample = (task.train.inputs[:1],)
    return {
        "parameters": [count_parameters(before), count_parameters(after)],
        "macs": [count_macs(before, sample), count_macs(after, sample)],
    }


def _inherited(parent: Artifact) -> dict[str, Any]:
    known = parent.card.evidence
    return {key: [known[key][-1]] * 2 for key in ("parameters", "macs") if key in known}


def _agreement(teacher: Path, model: nn.Module, context: Context) -> float:
    """Share of validation samples on which student and teacher name the same class."""
    from compress.runtime.onnxruntime import Session

    expected = Session(teacher, context.device).run(context.task.validation.inputs.numpy())
    with torch.inference_mode():
        found = model(context.task.validation.inputs).numpy()
    return float((expected.argmax(axis=1) == found.argmax(axis=1)).mean())


FUNCTIONS: dict[str, StageFunction] = {
    "train": train,
    "prune": prune_stage,
    "distill": distill,
    "quantize": quantize,
    "export": export_stage,
}

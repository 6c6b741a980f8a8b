"""Who judges a model, by what the caller names: a task, a metric of his own, or the fp32 model."""

from __future__ import annotations

import inspect
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from compress.artifact import Artifact, wrap_onnx
from compress.data.references import TASKS, load_task
from compress.data.samples import LEAST, NPZ, Array, Samples, inputs_like, read_data, to_samples
from compress.errors import InputError, UnknownName
from compress.measure.agreement import Agreement, Rule
from compress.measure.judge import Judge, TaskJudge
from compress.measure.own_data import OwnMetric
from compress.quantization.rewriting.crashing import loadable
from compress.runtime.onnxruntime import Session

#: Calls that an export is compared on.
_COMPARED = 8
#: Relative difference of an answer that may be put down to what stands beside a sample, such as
#: the range of a call that dynamic int8 takes.
_ALIKE = 0.05
_ALONE = "The file declares any batch size and fails for two samples at once: calls stay as given."
_MIXED = (
    "The first axis is no batch: a row answers otherwise beside another one, as the steps of a "
    "sequence do. Calls stay as given."
)


def read_any(data: str) -> Any:
    """What a data reference gives: a task, or inputs as `to_samples` takes them.

    Args:
        data: a task's name, `npz:FILE`, or `package.module:factory` or `file.py:factory`.

    Raises:
        UnknownName: no such task.
        InputError: the data is not there, or its factory fails.
    """
    if ":" in data:
        found = read_data(data)
        return list(found) if inspect.isgenerator(found) else found
    if data not in TASKS:
        raise UnknownName("task", data, [*TASKS, f"{NPZ}FILE", "file.py:factory"])
    return load_task(data)


def judge_for(
    data: str,
    made: Any,
    model: Path,
    *,
    metric: str | None = None,
    higher_is_better: bool = True,
    agreement: Rule = "auto",
    seed: int = 0,
) -> Judge:
    """A judgement for a model on what `read_any` gave.

    Args:
        data: the data reference.
        model: ONNX file of the fp32 model.
        metric: `file.py:function` or `package.module:function` for data without labels.
        agreement: how outputs are compared where there is no metric.

    Raises:
        InputError: the metric is not there, or the data does not fit the model.
    """
    from compress.data.task import Task

    if isinstance(made, Task):
        given = {"--metric": metric is not None, "--agreement": agreement != "auto"}
        for option in (option for option, there in given.items() if there):
            name = made.metric.name
            raise InputError(f"{option}: task '{data}' has its own metric, {name}; leave it out.")
        return TaskJudge(made)
    if metric is not None and agreement != "auto":
        raise InputError("--agreement: --metric says what is right; leave one of them out.")
    with tempfile.TemporaryDirectory() as folder:
        model = loadable(model, Path(folder))
        samples = _as_it_runs(data, made, Session(model))
        if metric is not None:
            return OwnMetric(samples, metric, higher_is_better=higher_is_better, seed=seed)
        return Agreement(samples, model, agreement, seed=seed)


def _as_it_runs(data: str, made: Any, session: Session) -> Samples:
    """Samples a row each, or whole calls where the rows of a call are no samples.

    The first axis may be open in the file and yet no batch: exporters leave files behind in which a
    Reshape holds 1, and in others it is the time, which a recurrent layer goes along.
    """
    declared = session.declared()
    samples = to_samples(data, made, declared)
    if not samples.batched:
        return samples
    pair = next((places for places in samples.chunks(2) if len(places) == 2), [0, 0])
    try:
        alone = [session.every_output(samples.take([place])) for place in pair]
    except Exception:  # it is told by whoever needs the answers
        return samples
    try:
        together = session.every_output(samples.take(pair))
    except Exception:  # onnxruntime's own classes share no public base
        return replace(to_samples(data, made, declared, whole=True), notes=(_ALONE,))
    whole = to_samples(data, made, declared, whole=True)
    if _apart(alone, together) or len(whole) < LEAST:  # so few calls are batches of samples
        return samples
    return replace(whole, notes=(_MIXED,))


def _apart(alone: list[list[Array]], together: list[Array]) -> bool:
    """Whether two rows answer the same beside each other; what has other axes is not compared."""
    for first, second, both in zip(*alone, together, strict=True):
        if not isinstance(both, np.ndarray) or both.dtype.kind != "f" or not both.ndim:
            continue
        if not first.ndim or first.shape != second.shape or both.shape != (2, *first.shape[1:]):
            continue
        rows = np.concatenate([first, second]).astype(np.float64)
        away = np.linalg.norm(both - rows)
        if np.isfinite(away) and away > _ALIKE * np.linalg.norm(rows):
            return False
    return True


def export_named(reference: str, data: str, made: Any, folder: Path) -> Artifact:
    """The user's own torch model as ONNX, exported and compared on its data.

    Args:
        reference: `package.module:factory` or `file.py:factory` that gives a `torch.nn.Module`,
            weights and all.
        made: what `read_any` gave for `data`.
        folder: for the file.

    Raises:
        InputError: the factory fails, or torch cannot export what it gives.
        ExportMismatch: the file does not compute what the model does.
    """
    import torch

    from compress.data.task import Task
    from compress.export.torch_to_onnx import export
    from compress.models.build import build
    from compress.models.references import ModelSpec
    from compress.pipeline.stages import export_model

    model = build(ModelSpec(architecture=reference, config={})).eval()
    path = folder / f"{reference.rpartition(':')[2]}.onnx"
    if isinstance(made, Task):
        export_model(model, made, path)
        return wrap_onnx(path)
    names = list(inspect.signature(model.forward).parameters)
    calls = to_samples(data, made, inputs_like(data, made, names))
    rows = calls.chunks(_COMPARED)[0]
    tensors = tuple(torch.from_numpy(array) for array in calls.take(rows))
    export(model, tensors, path, names=calls.names)
    return wrap_onnx(path)

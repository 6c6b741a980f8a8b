"""How right a model is, from its outputs; the same for torch and for any runtime."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from compress.data.answers import Outputs, answer
from compress.data.task import Split, Task
from compress.errors import ShapeMismatch
from compress.measure.further import further_metrics
from compress.report.schema import Quality
from compress.runtime.interface import Feeds, Model
from compress.stats import mean_interval


def quality(task: Task, outputs: Outputs, split: Split) -> Quality:
    """The task's metric with its interval, and further metrics beside it.

    Args:
        outputs: as `Task.output_shape` has them.
        split: where the targets are.

    Raises:
        ShapeMismatch: the outputs are not what the task expects.
    """
    check_outputs(task, outputs, split)
    scores = task.metric.score(outputs, split.targets.numpy())
    return Quality(
        metric=task.metric.name,
        value=float(scores.mean()),
        n=len(scores),
        interval=mean_interval(scores),
        higher_is_better=task.metric.higher_is_better,
        details=_details(task, outputs, split.targets.numpy()),
    )


def check_outputs(task: Task, outputs: Outputs, split: Split) -> None:
    """Raise ShapeMismatch unless outputs are what that task expects."""
    expected = task.output_shape(split.whole())
    if outputs.shape != expected:
        raise ShapeMismatch(
            f"the model's outputs have shape {outputs.shape}; task '{task.name}' with "
            f"{len(task.classes)} {task.output_name} expects {expected}."
        )


def _details(task: Task, outputs: Outputs, targets: npt.NDArray[Any]) -> dict[str, float]:
    return {
        name: float(metric.combine(metric.terms(outputs, targets).mean(axis=0)))
        for name, metric in further_metrics(task).items()
    }


def confusion(outputs: Outputs, targets: npt.NDArray[np.int64], classes: int) -> list[list[int]]:
    """Confusion matrix, (classes, classes): rows are true classes, columns predicted ones."""
    from sklearn.metrics import confusion_matrix

    found: list[list[int]] = confusion_matrix(
        targets, outputs.argmax(axis=1), labels=range(classes)
    ).tolist()
    return found


def run_onnx(model: Model, split: Split) -> Outputs:
    """Outputs of a loaded model on a split, (n, …).

    Short sequences are padded beside long ones, as where the model serves: runtimes have bugs that
    show nowhere else (OpenVINO 2026.4 lets a backward LSTM read the padding).
    """
    return answer(
        lambda inputs: model.run(tuple(part.numpy() for part in inputs)), split, mixed=True
    )


def feeds(split: Split) -> Callable[[int], Feeds]:
    """The samples of a timed call for a batch size, see `Split.typical`."""
    return lambda batch: tuple(part.numpy() for part in split.typical(batch))


def qualities(task: Task, outputs: dict[str, Outputs]) -> dict[str, Any]:
    """For a card: validation and test quality as plain JSON; of a classifier the confusion too."""
    splits = {"validation": task.validation, "test": task.test}
    found: dict[str, Any] = {
        name: quality(task, values, splits[name]).model_dump(mode="json")
        for name, values in outputs.items()
    }
    if task.kind == "classification":
        targets = task.test.targets.numpy()
        found["confusion"] = confusion(outputs["test"], targets, len(task.classes))
    return found

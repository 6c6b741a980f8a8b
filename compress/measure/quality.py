"""How right a model is, from its outputs; the same for torch and for any runtime."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from compress.data.task import Split, Task
from compress.errors import ShapeMismatch
from compress.report.schema import Quality
from compress.runtime.onnxruntime import Session
from compress.stats import mean_interval

Outputs = npt.NDArray[np.float32]


def quality(task: Task, outputs: Outputs, split: Split) -> Quality:
    """The task's metric with its interval, and loss and macro F1 beside it.

    Args:
        outputs: (n, classes), logits.
        split: where the targets are.

    Raises:
        ShapeMismatch: the outputs are not one row of scores a sample and one column a class.
    """
    check_outputs(task, outputs, split)
    scores = task.metric.score(outputs, split.targets.numpy())
    return Quality(
        metric=task.metric.name,
        value=float(scores.mean()),
        n=len(scores),
        interval=mean_interval(scores),
        higher_is_better=task.metric.higher_is_better,
        details=_details(outputs, split.targets.numpy()),
    )


def check_outputs(task: Task, outputs: Outputs, split: Split) -> None:
    """Raise ShapeMismatch unless outputs are (n, classes) of that task."""
    expected = (len(split), len(task.classes))
    if outputs.shape != expected:
        raise ShapeMismatch(
            f"the model's outputs have shape {outputs.shape}; task '{task.name}' with "
            f"{len(task.classes)} classes expects {expected}."
        )


def _details(outputs: Outputs, targets: npt.NDArray[np.int64]) -> dict[str, float]:
    from sklearn.metrics import f1_score

    shifted = outputs.astype(np.float64) - outputs.max(axis=1, keepdims=True)
    log_sum = np.log(np.exp(shifted).sum(axis=1))
    loss = (log_sum - shifted[np.arange(len(targets)), targets]).mean()
    macro = f1_score(targets, outputs.argmax(axis=1), average="macro", zero_division=0.0)
    return {"cross_entropy": float(loss), "macro_f1": float(macro)}


def confusion(outputs: Outputs, targets: npt.NDArray[np.int64], classes: int) -> list[list[int]]:
    """Confusion matrix, (classes, classes): rows are true classes, columns predicted ones."""
    from sklearn.metrics import confusion_matrix

    found: list[list[int]] = confusion_matrix(
        targets, outputs.argmax(axis=1), labels=range(classes)
    ).tolist()
    return found


def run_onnx(session: Session, split: Split) -> Outputs:
    """Outputs of an ONNX model on a split, (n, classes)."""
    outputs: Outputs = session.run(split.inputs.numpy())
    return outputs


def qualities(task: Task, outputs: dict[str, Outputs]) -> dict[str, Any]:
    """For a card: validation and test quality as plain JSON, and the test confusion matrix."""
    splits = {"validation": task.validation, "test": task.test}
    found: dict[str, Any] = {
        name: quality(task, values, splits[name]).model_dump(mode="json")
        for name, values in outputs.items()
    }
    found["confusion"] = confusion(outputs["test"], task.test.targets.numpy(), len(task.classes))
    return found

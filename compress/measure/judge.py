"""What says how right a model is, whatever the data: a task, the user's metric, the fp32 model."""

from __future__ import annotations

from typing import Any, Literal, Protocol

import numpy as np
import numpy.typing as npt

from compress.data.task import Task
from compress.measure.quality import check_outputs, feeds, quality, run_onnx
from compress.report.schema import Quality
from compress.runtime.interface import Feeds, Model
from compress.stats import mean_interval

Floats = npt.NDArray[np.float64]
#: "validation" decides what is chosen, "test" is only reported.
Part = Literal["validation", "test"]

_CALIBRATION_BATCH = 32


class Judge(Protocol):
    """Data for calibration and for timing, and a score for each sample of two more parts.

    Attributes:
        data: the data reference.
        metric: its name, such as "accuracy".
        higher_is_better: False for losses and errors.
        outputs_are_scores: whether the largest output is the answer.
        notes: what a reader of the result has to know of the judgement.
    """

    data: str
    metric: str
    higher_is_better: bool
    outputs_are_scores: bool
    notes: list[str]

    def calibration(self, count: int, seed: int) -> list[Feeds]:
        """Calls of so many samples in all, drawn without replacement from data to calibrate on."""

    def sizes(self, wanted: tuple[int, ...]) -> tuple[int, ...]:
        """The batch sizes that can be timed: those wanted, or the one that the data has."""

    def batch(self, size: int) -> Feeds:
        """One timed call of so many samples."""

    def scores(self, model: Model, part: Part) -> Floats:
        """One score a sample, (n,); the metric is their mean."""

    def judged(self, model: Model, part: Part) -> tuple[Quality, Floats]:
        """The metric on a part, with its interval where there are scores enough, and the scores."""


def quality_of(judge: Judge, scores: Floats) -> Quality:
    """The metric from its scores alone."""
    alone = len(scores) < 2
    return Quality(
        metric=judge.metric,
        value=float(scores.mean()),
        n=len(scores),
        interval=None if alone else mean_interval(scores),
        higher_is_better=judge.higher_is_better,
    )


class TaskJudge:
    """A task, with its own splits and metric."""

    def __init__(self, task: Task) -> None:
        self.task, self.data = task, task.name
        self.metric, self.higher_is_better = task.metric.name, task.metric.higher_is_better
        self.outputs_are_scores = task.kind != "regression"
        self.notes: list[str] = []
        self._batches = feeds(task.validation)

    def calibration(self, count: int, seed: int) -> list[Feeds]:
        """Batches of training samples; sequences beside others of their length."""
        import torch

        split = self.task.train
        order = torch.randperm(len(split), generator=torch.Generator().manual_seed(seed))
        drawn = split.subset(order[:count])
        batches = [drawn.take(rows) for rows in drawn.chunks(_CALIBRATION_BATCH)]
        return [tuple(part.numpy() for part in batch) for batch in batches]

    def sizes(self, wanted: tuple[int, ...]) -> tuple[int, ...]:
        return wanted

    def batch(self, size: int) -> Feeds:
        return self._batches(size)

    def scores(self, model: Model, part: Part) -> Floats:
        outputs, targets = self._answers(model, part)
        return self.task.metric.score(outputs, targets)

    def judged(self, model: Model, part: Part) -> tuple[Quality, Floats]:
        outputs, targets = self._answers(model, part)
        found = quality(self.task, outputs, getattr(self.task, part))
        return found, self.task.metric.score(outputs, targets)

    def _answers(self, model: Model, part: Part) -> tuple[Any, Any]:
        split = getattr(self.task, part)
        outputs = run_onnx(model, split)
        check_outputs(self.task, outputs, split)
        return outputs, split.targets.numpy()

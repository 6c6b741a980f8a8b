"""What every stage of a run is given, and what it gives back."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compress.artifact import Artifact
from compress.measure.config import BenchConfig
from compress.measure.machine import cores
from compress.models.references import ModelSpec
from compress.progress import Progress
from compress.recipe import BudgetConfig

if TYPE_CHECKING:
    from torch import nn

    from compress.data.task import Task


@dataclass(frozen=True)
class Context:
    """What all stages of a run share.

    Attributes:
        data: the reference that `task` was loaded by.
        model: the recipe's model reference with its settings.
        bench: batch sizes and thread counts that choices are made by.
        cache: folder of teachers' answers and checkpoints.
    """

    task: Task
    data: str
    model: dict[str, Any]
    budget: BudgetConfig
    bench: BenchConfig
    seed: int
    device: str
    cache: Path
    progress: Progress

    @property
    def threads(self) -> int:
        """Threads for work that is not timed."""
        return cores()


@dataclass(frozen=True)
class Inputs:
    """The artifacts that a stage builds on.

    Attributes:
        parent: whose model it takes; None for a stage that starts anew.
        baseline: what drops are counted from; None in the first stage.
        teacher_artifact: what teaches.
        like: whose architecture is trained.
    """

    parent: Artifact | None = None
    baseline: Artifact | None = None
    teacher_artifact: Artifact | None = None
    like: Artifact | None = None

    @property
    def teacher(self) -> Path | None:
        """ONNX file of the teacher."""
        return self.teacher_artifact.onnx if self.teacher_artifact else None


@dataclass(frozen=True)
class Made:
    """What a stage made.

    Attributes:
        model: None where the stage made an ONNX file only.
        spec: how to rebuild `model`.
        evidence: proof of effect.
    """

    model: nn.Module | None
    spec: ModelSpec | None
    evidence: dict[str, Any]

"""What a recipe is once it has been read: a budget, and stages with their settings."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from compress.distillation.config import DistillConfig
from compress.export.config import ExportConfig
from compress.measure.config import BenchConfig
from compress.pruning.config import PruneConfig
from compress.quantization.config import QuantizeConfig
from compress.quantization.qat.config import QatConfig
from compress.training.config import TrainConfig
from compress.training.pretrain_config import PretrainConfig

KINDS: dict[str, type[BaseModel]] = {
    "pretrain": PretrainConfig,
    "train": TrainConfig,
    "prune": PruneConfig,
    "distill": DistillConfig,
    "quantize": QuantizeConfig,
    "qat": QatConfig,
    "export": ExportConfig,
    "benchmark": BenchConfig,
}


class BudgetConfig(BaseModel):
    """What the user allows and wants.

    Attributes:
        max_drop: largest drop of the task's metric against the trained model, in its unit; for a
            metric where lower is better, the largest rise.
        relative: whether `max_drop` is a share of the trained model's metric instead: 0.03 allows
            3 % more bits, or 3 % more error.
        minimise: what the final model is the best in.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    max_drop: Annotated[float, Field(ge=0)] = 0.01
    relative: bool = False
    minimise: Literal["latency", "size"] = "latency"

    def limit(self, baseline: float) -> float:
        """The allowed drop in the metric's unit, given the trained model's metric."""
        return self.max_drop * abs(baseline) if self.relative else self.max_drop


@dataclass(frozen=True)
class Stage:
    """One operation of a recipe.

    Attributes:
        kind: a key of `KINDS`.
        name: unique in the recipe.
        parent: name of the stage whose model it takes; None for a stage that starts anew.
        config: the technique's settings.
    """

    kind: str
    name: str
    parent: str | None
    config: Any


@dataclass(frozen=True)
class Recipe:
    """A validated recipe.

    Attributes:
        task: data reference.
        model: model reference with its settings: `{"name": …, …}`.
        stages: in order; a benchmark is always there and last.
        source: where it came from, for messages.
    """

    task: str
    model: dict[str, Any]
    budget: BudgetConfig
    stages: tuple[Stage, ...]
    seed: int
    source: str

    @property
    def baseline(self) -> str:
        """Name of the stage that drops are counted from: the first that trains on the task."""
        return next(stage.name for stage in self.stages if stage.kind == "train")

    def stage(self, name: str) -> Stage:
        """The stage of that name; KeyError where there is none."""
        for stage in self.stages:
            if stage.name == name:
                return stage
        raise KeyError(name)

    def resolved(self) -> dict[str, Any]:
        """The recipe as plain data, every default filled in."""
        stages = []
        for stage in self.stages:
            settings = {"name": stage.name, "from": stage.parent}
            stages.append({stage.kind: settings | stage.config.model_dump(mode="json")})
        return {
            "task": self.task,
            "model": self.model,
            "seed": self.seed,
            "budget": self.budget.model_dump(),
            "stages": stages,
        }

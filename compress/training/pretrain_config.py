"""Settings of masked-token pretraining."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from compress.training.config import FitConfig


class PretrainConfig(FitConfig):
    """Masked-token pretraining, see `compress.training.pretraining`; only what differs is here.

    Attributes:
        mask: share of the tokens that have to be told. BERT has 0.15; a little more teaches small
            models more an epoch (Wettig et al., 2022, arXiv:2202.08005).
    """

    mask: Annotated[float, Field(gt=0, le=0.5)] = 0.2
    epochs: Annotated[int, Field(ge=1, le=100_000)] = 10
    optimizer: Literal["sgd", "adamw", "adam", "rmsprop", "muon"] = "adamw"
    learning_rate: Annotated[float, Field(gt=0)] = 1e-3
    weight_decay: Annotated[float, Field(ge=0)] = 0.01
    warmup: Annotated[float, Field(ge=0, lt=1)] = 0.1
    clip_norm: Annotated[float, Field(ge=0)] = 1.0

    @model_validator(mode="after")
    def _nothing_idle(self) -> Self:
        idle = [
            name
            for name, on in (
                ("patience", self.patience),
                ("label_smoothing", self.label_smoothing),
                ("augment", not self.augment),
            )
            if on
        ]
        if idle:
            raise ValueError(f"{', '.join(idle)}: without effect on masked tokens; leave it out")
        return self

"""How a model is fitted to data; shared by training, recovery after pruning, and distillation."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator


class FitConfig(BaseModel):
    """Settings of the training loop.

    Attributes:
        epochs: passes over the training split.
        batch_size: samples a step.
        optimizer: "sgd" is with Nesterov momentum; "adamw" decouples the weight decay; "muon" takes
            orthogonal steps for hidden matrices and AdamW's for the rest, see `training.muon`.
        learning_rate: the largest of the schedule.
        table_rate: learning rate of embedding tables, relative to the others'; most of their rows
            are seen seldom.
        momentum: of SGD, Muon and RMSprop; the first beta of Adam and AdamW.
        weight_decay: on matrices and kernels; biases and normalization are never decayed.
        schedule: "one_cycle" (Smith & Topin, 2018, arXiv:1708.07120), "cosine" to zero behind a
            linear warm-up (Loshchilov & Hutter, 2017, arXiv:1608.03983), or "constant".
        warmup: share of all steps in which the learning rate rises.
        label_smoothing: probability spread over the wrong classes (Szegedy et al., 2016,
            arXiv:1512.00567).
        clip_norm: the gradient is scaled down to this norm; 0 for never; where left out, 1 for
            recurrent networks and Transformers, and never for others.
        patience: epochs without a better validation metric until training stops and the best
            weights come back; 0 trains to the end and keeps the last weights.
        augment: whether the task's random changes are applied to training batches.
        precision: "bf16" runs forward and backward under autocast; "auto" measures fp32 and bf16,
            each with and without channels-last memory, on this model and takes the fastest, fp32
            unless another is at least 1.3 × faster.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    epochs: Annotated[int, Field(ge=1, le=100_000)] = 15
    batch_size: Annotated[int, Field(ge=2)] = 64
    optimizer: Literal["sgd", "adamw", "adam", "rmsprop", "muon"] = "sgd"
    learning_rate: Annotated[float, Field(gt=0)] = 0.1
    table_rate: Annotated[float, Field(gt=0)] = 1.0
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    weight_decay: Annotated[float, Field(ge=0)] = 5e-4
    schedule: Literal["one_cycle", "cosine", "constant"] = "one_cycle"
    warmup: Annotated[float, Field(ge=0, lt=1)] = 0.25
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0
    clip_norm: Annotated[float, Field(ge=0)] | None = None
    patience: Annotated[int, Field(ge=0)] = 0
    augment: bool = True
    precision: Literal["auto", "fp32", "bf16"] = "auto"


class TrainConfig(FitConfig):
    """Training on labels: from random initialisation, or from the stage named in `from`.

    Attributes:
        like: the stage whose architecture is trained, as a control for it; the recipe's model
            otherwise.
        folds: folds of a cross-validation on the training split that runs before; 0 for none.
    """

    like: str | None = None
    folds: Annotated[int, Field(ge=0, le=50)] = 0

    @field_validator("folds")
    @classmethod
    def _none_or_several(cls, folds: int) -> int:
        if folds == 1:
            raise ValueError("0 for no cross-validation, or at least 2")
        return folds

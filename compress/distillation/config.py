"""Settings of distillation."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from compress.training.config import FitConfig


class DistillConfig(FitConfig):
    """How the teacher's answers reach the student.

    Attributes:
        teacher: name of an earlier stage, an artifact folder, or an ONNX file.
        student: model reference of a freshly initialised student, alone or as a mapping of `name`
            and settings; None teaches the model of the stage before.
        temperature: softens both distributions before they are compared; 1 leaves them as they are.
        alpha: weight of the teacher's answers; 1 - alpha is the weight of the labels.
        views: differently augmented copies of the training split that the teacher answers once;
            epoch k shows the student copy k mod views, so that teacher and student always see the
            same sample (Beyer et al., 2022, arXiv:2106.05237). 0 asks the teacher again for every
            batch: fresh copies in each epoch, at the price of one teacher call a step; this is
            also done where the answers would not fit into memory.
        mixup: largest share of a second image in a mixed one; half of the images of a copy, drawn
            by chance, are mixed, and the teacher answers the mixture, which shows the student what
            it thinks between the classes (Zhang et al., 2018, arXiv:1710.09412). Below 0.5 the
            label stays the larger part's. 0 mixes nothing. Only for samples of one size.
    """

    teacher: str = "train"
    student: str | dict[str, Any] | None = None
    temperature: Annotated[float, Field(gt=0)] = 4.0
    alpha: Annotated[float, Field(gt=0, le=1)] = 0.9
    views: Annotated[int, Field(ge=0, le=10_000)] = 16
    mixup: Annotated[float, Field(ge=0, le=0.5)] = 0.0
    epochs: Annotated[int, Field(ge=1, le=100_000)] = 20
    batch_size: Annotated[int, Field(ge=2)] = 128
    optimizer: Literal["sgd", "adamw", "adam", "rmsprop", "muon"] = "adamw"
    learning_rate: Annotated[float, Field(gt=0)] = 5e-3
    weight_decay: Annotated[float, Field(ge=0)] = 1e-2
    warmup: Annotated[float, Field(ge=0, lt=1)] = 0.1

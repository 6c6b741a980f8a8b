"""Settings of quantization-aware training."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, field_validator

from compress.quantization.config import Method
from compress.training.config import FitConfig


class QatConfig(FitConfig):
    """Which operators become int8, where their scales start from, and what teaches.

    Attributes:
        method: "static" (int8 weights and activations, QDQ), "dynamic" (activations quantized at
            run time), "static and dynamic" (convolutions the one way, LSTM and products the
            other), "step by step" (GRU and RNN like LSTM), "weight-only", or "auto": what the
            model's operators gain from. Without effect where the model is int8 already: then its
            own scales are trained.
        teacher: name of an earlier stage, an artifact folder, or an ONNX file; the fp32 model that
            comes in where left out.
        alpha: weight of the teacher's answers; 1 - alpha is the weight of the labels; 0 asks no
            teacher.
        temperature: softens both distributions before they are compared.
        views: see `DistillConfig`; 0 asks the teacher for every batch.
        calibration: how activation ranges are found that static scales start from.
        samples: training samples that calibrate.
        activations: type of static activations.
        per_channel: a scale for each output channel of a weight instead of one for the tensor.
        keep_fp32: names of ONNX nodes that stay as they are; for static int8.
        patience: epochs without a better validation metric until training stops; the best epoch's
            weights and scales are kept, or the calibrated ones where no epoch was better.
        precision: always fp32: in bf16 values would be rounded twice.
    """

    method: Literal[
        "auto", "static", "dynamic", "static and dynamic", "step by step", "weight-only"
    ] = "auto"
    teacher: str | None = None
    alpha: Annotated[float, Field(ge=0, le=1)] = 1.0
    temperature: Annotated[float, Field(gt=0)] = 2.0
    views: Annotated[int, Field(ge=0, le=10_000)] = 0
    calibration: Method = "minmax"
    samples: Annotated[int, Field(ge=1)] = 256
    activations: Literal["uint8", "int8"] = "uint8"
    per_channel: bool = True
    keep_fp32: tuple[str, ...] = ()
    epochs: Annotated[int, Field(ge=1, le=100_000)] = 3
    optimizer: Literal["sgd", "adamw", "adam", "rmsprop", "muon"] = "adamw"
    learning_rate: Annotated[float, Field(gt=0)] = 2e-4
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    schedule: Literal["one_cycle", "cosine", "constant"] = "cosine"
    warmup: Annotated[float, Field(ge=0, lt=1)] = 0.1
    patience: Annotated[int, Field(ge=0)] = 5
    precision: Literal["auto", "fp32", "bf16"] = "fp32"

    @field_validator("precision")
    @classmethod
    def _rounded_once(cls, precision: str) -> str:
        if precision != "fp32":
            raise ValueError("fp32: in bf16 values would be rounded twice")
        return precision

"""Settings of quantization."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field


class QuantizeConfig(BaseModel):
    """Which models are built, and how they are calibrated.

    Attributes:
        method: "static" (int8 weights and activations, QDQ), "dynamic" (activations quantized at
            run time), "weight-only" (int8 weights in the file, fp32 arithmetic), or "best", which
            builds all that the model's operators can gain from, see `quantization.candidates`, and
            keeps the fastest within the budget, the smallest among equals.
        calibration: how activation ranges are found for "static".
        samples: training samples that calibrate.
        activations: type of quantized activations; "uint8" fits the CPU's VNNI instructions.
        per_channel: a scale for each output channel of a weight instead of one for the tensor; for
            "static" and "dynamic".
        keep_fp32: names of ONNX nodes that static quantization leaves as they are.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    method: Literal["best", "static", "dynamic", "weight-only"] = "best"
    calibration: Literal["minmax", "entropy", "percentile"] = "minmax"
    samples: Annotated[int, Field(ge=1)] = 256
    activations: Literal["uint8", "int8"] = "uint8"
    per_channel: bool = True
    keep_fp32: tuple[str, ...] = ()

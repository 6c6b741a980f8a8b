"""Settings of quantization."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

#: How the range of an activation follows from what it was on samples.
Method = Literal["minmax", "moving-average", "percentile", "entropy", "mse"]


class QuantizeConfig(BaseModel):
    """Which models are built, and how they are calibrated.

    Attributes:
        method: "static" (int8 weights and activations, QDQ), "dynamic" (activations quantized at
            run time), "weight-only" (int8 weights in the file, fp32 arithmetic), "fp16" (all of it,
            but for inputs, outputs and what needs fp32; what is fast on CUDA, and half the size
            anywhere), or "best", which builds all that the model's operators can gain from on the
            device, see `quantization.candidates`, and keeps the fastest within the budget, the
            smallest among equals.
        calibration: how activation ranges are found for "static": the least and largest value
            ("minmax"), their average over batches ("moving-average"), what is left when the rarest
            are cut off ("percentile"), the range that loses least information ("entropy") or whose
            squared error is least ("mse").
        percentile: share of the values that "percentile" keeps, in percent.
        samples: training samples that calibrate.
        activations: type of quantized activations; "uint8" fits the CPU's VNNI instructions.
        symmetric: static activations with values below zero are int8 around zero instead, so that
            every zero point is zero: OpenVINO multiplies those faster; half of the levels are lost
            where one side is small.
        weights: type of static weights; "uint8" with "uint8" activations does not saturate on CPUs
            without VNNI, and is slower elsewhere.
        reduce_range: static weights of 7 bits, so that sums of 16 bits do not saturate on CPUs
            without VNNI.
        per_channel: a scale for each output channel of a weight instead of one for the tensor; for
            "static" and "dynamic".
        keep_fp32: names of ONNX nodes that static quantization leaves as they are.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    method: Literal["best", "static", "dynamic", "weight-only", "fp16"] = "best"
    calibration: Method = "minmax"
    percentile: Annotated[float, Field(gt=50, le=100)] = 99.99
    samples: Annotated[int, Field(ge=1)] = 256
    activations: Literal["uint8", "int8"] = "uint8"
    symmetric: bool = False
    weights: Literal["int8", "uint8"] = "int8"
    reduce_range: bool = False
    per_channel: bool = True
    keep_fp32: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _is_known_to_onnxruntime(self) -> Self:
        if self.weights == "uint8" and (self.symmetric or self.activations == "int8"):
            raise ValueError(
                "activations int8 with weights uint8: onnxruntime has no such operators; "
                "expected weights=int8, or activations=uint8"
            )
        return self

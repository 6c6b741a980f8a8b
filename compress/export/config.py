"""Settings of an export."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field


class ExportConfig(BaseModel):
    """How a torch model becomes ONNX.

    Attributes:
        opset: version of the ONNX operator set.
        tolerance: largest allowed difference of any output, relative to the largest output.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    opset: Annotated[int, Field(ge=18, le=23)] = 20
    tolerance: Annotated[float, Field(gt=0)] = 1e-3

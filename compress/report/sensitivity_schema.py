"""How much each layer of a model loses in int8, where that was asked for."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from compress.report.record import Record


class Sensitivity(Record):
    """One layer, or a group of them, quantized alone.

    Attributes:
        name: of the node; of a group what its nodes share.
        operator: its type, such as "Conv"; all types of a group, separated by commas.
        nodes: how many of the group are int8.
        divergence: of the model's outputs from those in fp32, when nothing else is int8; None where
            no numbers came out.
        measure: what it counts: "relative error" is the L2 norm of the difference over that of the
            fp32 outputs, "KL divergence" is of the softmax of the scores, in nats.
        fp32: whether the model that came of it leaves the layer in fp32.
    """

    name: str
    operator: str
    nodes: int = Field(default=1, ge=1)
    divergence: float | None = Field(ge=0)
    measure: Literal["relative error", "KL divergence"]
    fp32: bool = False

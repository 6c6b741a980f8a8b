"""Settings of structured pruning and of the recovery training behind it."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from compress.training.config import FitConfig


class PruneConfig(FitConfig):
    """What to remove and how to recover.

    Attributes:
        ratio: share of channels, hidden units, heads, … to remove, over all layers together; or
        macs: share of the multiply-accumulates to keep. One of the two is given, or `layers`.
        importance: "magnitude" of the weights, or "taylor", the loss's first-order change
            (Molchanov et al., 2019, arXiv:1906.10771). Both over whole dependency groups
            (Fang et al., 2023, arXiv:2301.12900) and comparable across layers. Of recurrent
            networks and Transformers it is divided by the weights that would go, as a head is
            hundreds of times larger than a feed-forward unit.
        round_to: channels that stay are a multiple of this; onnxruntime's kernels work on blocks of
            16 (AVX-512) or 8 (AVX2), and an odd count can be slower than the whole layer.
        strides: layer name to a new stride. A convolution that skips positions makes every feature
            map behind it smaller; weights and layers stay as they are.
        keep: names of layers, or of groups such as "layers.0.heads", that are not pruned.
        kinds: of Transformers and recurrent networks, which units may go; all where left out.
        layers: whole layers of those to remove first, each the one whose loss is felt least on
            training batches.
        batches: training batches that the Taylor importance is averaged over.
        epochs: of recovery training on labels; 0 leaves it to a later stage.
    """

    ratio: Annotated[float, Field(gt=0, lt=1)] | None = None
    macs: Annotated[float, Field(gt=0, lt=1)] | None = None
    importance: Literal["magnitude", "taylor"] = "taylor"
    round_to: Annotated[int, Field(ge=1, le=256)] = 8
    strides: dict[str, Annotated[int, Field(ge=1, le=8)]] = Field(default_factory=dict)
    keep: tuple[str, ...] = ()
    kinds: tuple[Literal["units", "front", "heads", "feed_forward", "width"], ...] = ()
    layers: Annotated[int, Field(ge=0, le=64)] = 0
    batches: Annotated[int, Field(ge=1)] = 20
    epochs: Annotated[int, Field(ge=0, le=100_000)] = 3
    learning_rate: Annotated[float, Field(gt=0)] = 0.02

    @model_validator(mode="after")
    def _one_target(self) -> Self:
        given = (self.ratio is not None) + (self.macs is not None)
        if given > 1 or not (given or self.layers):
            raise ValueError(
                "give either ratio (share of channels to remove) or macs (share to keep)"
            )
        return self

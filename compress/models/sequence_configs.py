"""Configurations of the sequence models: frozen, validated, and free of torch."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from compress.models.configs import Probability, Width

Vocabulary = Annotated[int, Field(ge=0, le=1 << 20)]
Order = Annotated[int, Field(ge=1, le=8)]
Rows = Annotated[int, Field(ge=1, le=1 << 24)]
Length = Annotated[int, Field(ge=1, le=1 << 20)]


class SequenceConfig(BaseModel):
    """What every sequence model is told by its task, and the layers in front of it.

    Attributes:
        in_features: numbers a step; 0 where the steps are tokens.
        vocabulary: number of tokens; 0 where the steps are numbers.
        outputs: classes, tokens or values that are predicted.
        per_step: whether every step gives outputs, (batch, time, outputs), instead of one row a
            sample.
        max_length: longest sequence that the model is made for.
        embedding: width of a token's vector; 0 for the width of the first layer.
        ngrams: order to rows of a table: each token and those before it, so many together, are
            hashed to one of the rows (Bojanowski et al., 2017, arXiv:1607.04606), whose vector is
            projected and added to the token's own.
        ngram_width: width of these vectors.
        wide: order to rows of a table with a value for each output: the sum over a text's n-grams,
            over the root of its length, is added to the outputs (Cheng et al., 2016,
            arXiv:1606.07792, "wide and deep").
        front_width: channels of a convolution over time before the first layer; 0 for none.
        front_kernel: its width, in steps.
        front_stride: its stride; the layers behind it see that many times fewer steps.
        dropout: probability of zeroing a feature between layers, in training only.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    in_features: Annotated[int, Field(ge=0, le=4096)] = 0
    vocabulary: Vocabulary = 0
    outputs: Annotated[int, Field(ge=1, le=1 << 20)] = 2
    per_step: bool = False
    max_length: Length = 512
    embedding: Annotated[int, Field(ge=0, le=4096)] = 0
    ngrams: dict[Order, Rows] = Field(default_factory=dict)
    ngram_width: Width = 64
    wide: dict[Order, Rows] = Field(default_factory=dict)
    front_width: Annotated[int, Field(ge=0, le=4096)] = 0
    front_kernel: Annotated[int, Field(ge=1, le=64)] = 5
    front_stride: Annotated[int, Field(ge=1, le=64)] = 2
    dropout: Probability = 0.0

    @model_validator(mode="after")
    def _tokens_or_numbers(self) -> Self:
        if self.in_features and self.vocabulary:
            raise ValueError("steps are tokens or numbers: give vocabulary or in_features")
        if self.in_features and (self.embedding or self.ngrams or self.wide):
            raise ValueError("embedding, ngrams and wide are for tokens; this task has numbers")
        if self.per_step and self.wide:
            raise ValueError(
                "wide sums over a whole text, but this task wants outputs for each step"
            )
        fields = type(self).model_fields
        for name, needed in (
            ("front_kernel", self.front_width),
            ("front_stride", self.front_width),
            ("ngram_width", self.ngrams),
        ):
            if not needed and getattr(self, name) != fields[name].default:
                owner = "ngrams" if name == "ngram_width" else "front_width"
                raise ValueError(f"{name} does nothing without {owner}; set that, or leave it out")
        if self.per_step and self.front_width:
            raise ValueError("front_width merges steps, but this task wants an output for each")
        return self


class RecurrentConfig(SequenceConfig):
    """A stack of recurrent layers and a linear layer.

    Attributes:
        cell: "rnn" (Elman, 1990, tanh), "lstm" (Hochreiter & Schmidhuber, 1997, with forget gates)
            or "gru" (Cho et al., 2014, arXiv:1406.1078).
        widths: hidden units of each layer and direction.
        bidirectional: whether every layer also reads from the end; doubles a layer's output.
        pooling: "last" takes the state behind the last step of each direction, "mean" and "max" go
            over all steps; without effect where `per_step` is set.
    """

    cell: Literal["rnn", "lstm", "gru"] = "lstm"
    widths: Annotated[tuple[Width, ...], Field(min_length=1, max_length=64)] = (128,)
    bidirectional: bool = False
    pooling: Literal["last", "mean", "max"] = "last"

    @model_validator(mode="after")
    def _sees_no_future(self) -> Self:
        if self.per_step and self.bidirectional:
            raise ValueError("a bidirectional model sees the step that it has to predict")
        return self


class TransformerConfig(SequenceConfig):
    """A Transformer with pre-norm blocks (Vaswani et al., 2017; Xiong et al., 2020).

    Attributes:
        width: of the residual stream.
        heads: attention heads of each layer; their number is the number of layers.
        head_width: of each head's queries, keys and values.
        feed_forward: hidden width of each layer's feed-forward part.
        positions: "learned" vectors, or "sinusoidal" ones that need no training.
        causal: whether a step sees only those before it (GPT); else all (BERT).
        pooling: how the steps become one row; "mean_max" puts both beside each other. Without
            effect where `per_step` is set.
    """

    width: Width = 128
    heads: Annotated[tuple[Width, ...], Field(min_length=1, max_length=64)] = (4, 4)
    head_width: Width = 32
    feed_forward: tuple[Width, ...] = (512, 512)
    positions: Literal["learned", "sinusoidal"] = "learned"
    causal: bool = False
    pooling: Literal["mean", "max", "mean_max", "last"] = "mean"

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if len(self.heads) != len(self.feed_forward):
            raise ValueError("heads and feed_forward need one value for each layer")
        if self.positions == "sinusoidal" and self.width % 2:
            raise ValueError(f"sinusoidal positions need an even width, found {self.width}")
        if self.per_step and not self.causal:
            raise ValueError("without `causal` every step sees the one that it has to predict")
        return self

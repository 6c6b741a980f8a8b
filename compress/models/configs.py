"""Configurations of the reference architectures: frozen, validated, and free of torch."""

from __future__ import annotations

from typing import Annotated, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

Width = Annotated[int, Field(ge=1, le=4096)]
Probability = Annotated[float, Field(ge=0, lt=1)]


class ModelConfig(BaseModel):
    """What every image classifier is told by its task.

    Attributes:
        in_channels: channels of the input image.
        image_size: height and width of the input image, in pixels.
        classes: number of classes, the width of the output.
        dropout: probability of zeroing a feature before the last layer, in training only.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    in_channels: Width = 1
    image_size: Width = 28
    classes: Annotated[int, Field(ge=2)] = 10
    dropout: Probability = 0.0


class ResNetConfig(ModelConfig):
    """A residual network of basic blocks (He et al., 2015, arXiv:1512.03385, section 4.2).

    Attributes:
        widths: output channels of each stage; every stage but the first halves the image.
        blocks: residual blocks in each stage; depth is 2 · stages · blocks + 2.
        stem_stride: stride of the first convolution.
    """

    widths: Annotated[tuple[Width, ...], Field(min_length=1)] = (16, 32, 64)
    blocks: Annotated[int, Field(ge=1, le=64)] = 3
    stem_stride: Annotated[int, Field(ge=1, le=4)] = 1


class StridedConfig(ModelConfig):
    """Plain convolutions that shrink the image early, where a small network spends its time.

    Attributes:
        widths: output channels of each convolution.
        kernels: side of each convolution's square kernel.
        strides: stride of each convolution.
        paddings: zeros added on each side before each convolution.
        hidden: width of a linear layer before the last one; 0 for none.
    """

    widths: Annotated[tuple[Width, ...], Field(min_length=1)] = (16, 32, 32, 32)
    kernels: tuple[Width, ...] = (5, 3, 3, 3)
    strides: tuple[Width, ...] = (3, 1, 2, 1)
    paddings: tuple[Annotated[int, Field(ge=0)], ...] = (0, 0, 1, 1)
    hidden: Annotated[int, Field(ge=0)] = 0

    @model_validator(mode="after")
    def _one_value_a_layer(self) -> Self:
        lengths = {len(self.widths), len(self.kernels), len(self.strides), len(self.paddings)}
        if len(lengths) > 1:
            raise ValueError("widths, kernels, strides and paddings need one value for each layer")
        if min(self.feature_sizes()) < 1:
            raise ValueError(
                f"an image of {self.image_size} pixels is used up before the last layer"
            )
        return self

    def feature_sizes(self) -> list[int]:
        """Side of the feature map behind each convolution, in pixels."""
        sizes, size = [], self.image_size
        for kernel, stride, padding in zip(self.kernels, self.strides, self.paddings, strict=True):
            size = (size + 2 * padding - kernel) // stride + 1
            sizes.append(size)
        return sizes


class LeNetConfig(ModelConfig):
    """LeNet-5's layout (LeCun et al., 1998): two convolutions with pooling, three linear layers.

    Attributes:
        widths: output channels of the two convolutions.
        hidden: widths of the two hidden linear layers.
    """

    image_size: Annotated[int, Field(ge=16)] = 28
    widths: tuple[Width, Width] = (6, 16)
    hidden: tuple[Width, Width] = (120, 84)

"""Random changes of images that keep their meaning; drawn from a generator, so repeatable."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from compress.data.task import Augment, Inputs


def images(change: Callable[[Tensor, Generator], Tensor]) -> Augment:
    """A task's augmentation from a change of images, such as `partial(warp, background=0.0)`."""
    return partial(_on_images, change=change)


def _on_images(
    inputs: Inputs, generator: Generator, change: Callable[[Tensor, Generator], Tensor]
) -> Inputs:
    return (change(inputs[0], generator),)


def warp(
    images: Tensor,
    generator: Generator,
    *,
    background: float,
    rotation: float = 15.0,
    scale: float = 0.1,
    shear: float = 0.1,
    shift: float = 2.0,
    elastic: float = 0.06,
) -> Tensor:
    """A random affine map and a smooth elastic one for each image (Simard et al., 2003).

    Args:
        images: (batch, channels, height, width).
        generator: source of randomness; the same state gives the same images.
        background: value of the pixels that come in from outside.
        rotation: largest angle, in degrees.
        scale, shear: largest relative change.
        shift: largest translation, in pixels.
        elastic: standard deviation of the elastic field, as a share of half the image; 0 for none.

    Returns:
        Images of the same shape.
    """
    count, _, height, width = images.shape

    def uniform(limit: float) -> Tensor:
        return (torch.rand(count, generator=generator) * 2 - 1) * limit

    angle, size, skew = uniform(math.radians(rotation)), 1 + uniform(scale), uniform(shear)
    cosine, sine = torch.cos(angle) * size, torch.sin(angle) * size
    rows = [cosine, skew * size - sine, uniform(2 * shift / width)]
    columns = [sine, cosine, uniform(2 * shift / height)]
    maps = torch.stack([torch.stack(rows, dim=1), torch.stack(columns, dim=1)], dim=1)
    grid = F.affine_grid(maps, list(images.shape), align_corners=False)
    if elastic:
        coarse = torch.randn(count, 2, 6, 6, generator=generator) * elastic
        field = F.interpolate(coarse, size=(height, width), mode="bicubic", align_corners=True)
        grid = grid + field.permute(0, 2, 3, 1)
    return F.grid_sample(images - background, grid, align_corners=False) + background

"""The warp against scipy's interpolation, and that it repeats."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import ndimage
from torch import Generator

from compress.data.augment import warp

STILL = {"rotation": 0.0, "scale": 0.0, "shear": 0.0, "shift": 0.0, "elastic": 0.0}


@pytest.fixture
def images() -> torch.Tensor:
    return torch.rand(6, 2, 13, 13, generator=Generator().manual_seed(0))


def generator(seed: int = 1) -> Generator:
    return Generator().manual_seed(seed)


def test_equal_states_give_equal_images(images):
    one, again = (warp(images, generator(), background=0.0) for _ in range(2))
    assert torch.equal(one, again)
    assert one.shape == images.shape
    assert not torch.equal(one, warp(images, generator(2), background=0.0))


def test_every_image_is_moved_differently():
    same = torch.rand(1, 1, 13, 13).expand(4, 1, 13, 13)
    moved = warp(same, generator(), background=0.0)
    assert not torch.allclose(moved[0], moved[1])


def test_without_any_change_the_image_stays(images):
    torch.testing.assert_close(
        warp(images, generator(), background=0.5, **STILL), images, atol=1e-5, rtol=0
    )


def test_background_comes_in_from_outside():
    flat = torch.full((5, 1, 13, 13), -0.4)
    torch.testing.assert_close(warp(flat, generator(), background=-0.4), flat)
    far = warp(torch.ones(50, 1, 13, 13), generator(), background=-3.0, **STILL | {"shift": 6.0})
    assert far.min().item() == pytest.approx(-3.0, abs=1e-5)
    assert far.max().item() == pytest.approx(1.0, abs=1e-5)


def test_affine_map_is_scipys(images):
    limits = {"rotation": 15.0, "scale": 0.1, "shear": 0.1, "shift": 2.0}
    found = warp(images, generator(), background=0.2, elastic=0.0, **limits).numpy()
    draws, source = generator(), images.double().numpy()
    drawn = (torch.rand(5, 6, generator=draws) * 2 - 1).double().numpy()
    middle = (13 - 1) / 2
    for image, result, (turn, grow, skew, right, down) in zip(source, found, drawn.T, strict=True):
        angle = math.radians(15.0) * turn
        turned = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
        matrix = (1 + 0.1 * grow) * (turned + np.array([[0, 0.1 * skew], [0, 0]]))
        matrix, move = matrix[::-1, ::-1], 2.0 * np.array([down, right])
        offset = middle - matrix @ np.full(2, middle) + move
        for channel, expected in zip(result, image, strict=True):
            reference = ndimage.affine_transform(
                expected, matrix, offset, order=1, mode="grid-constant", cval=0.2
            )
            np.testing.assert_allclose(channel, reference, atol=2e-4)


def test_elastic_field_bends_lines():
    lines = torch.zeros(8, 1, 28, 28)
    lines[:, :, :, 14] = 1.0
    bent = warp(lines, generator(), background=0.0, **STILL | {"elastic": 0.06})
    columns = torch.arange(28.0)
    centres = (bent * columns).sum(3) / bent.sum(3).clamp(min=1e-6)
    spread = centres[:, 0, 4:24].std(dim=1)
    assert (spread > 0.1).all()
    assert (spread < 4).all()

"""Changes of sequences: against numpy's interpolation, and what they must never do."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Generator

from compress.data.sequence_augment import distort_frames, distort_tokens

STILL = {
    "stretch": 0.0,
    "bend": 0.0,
    "time_mask": 0.0,
    "feature_mask": 0.0,
    "gain": 0.0,
    "offset": 0.0,
    "noise": 0.0,
}
LENGTHS = torch.tensor([20, 1, 7, 13, 2, 20])


def generator(seed: int = 1) -> Generator:
    return Generator().manual_seed(seed)


def valid(lengths: torch.Tensor, time: int) -> torch.Tensor:
    return torch.arange(time) < lengths[:, None]


@pytest.fixture
def frames() -> torch.Tensor:
    """(6, 20, 5), zeros behind each of `LENGTHS`; no other number is zero."""
    drawn = 1 + torch.rand(6, 20, 5, generator=generator(0))
    return drawn * valid(LENGTHS, 20).unsqueeze(2)


@pytest.fixture
def tokens() -> torch.Tensor:
    """(4, 60), each text counting from 3; zeros behind."""
    lengths = torch.tensor([60, 5, 40, 1])
    return torch.arange(3, 63) * valid(lengths, 60)


TEXT_LENGTHS = torch.tensor([60, 5, 40, 1])


def test_equal_states_give_equal_frames(frames):
    one, again = (distort_frames((frames, LENGTHS), generator(), longest=20) for _ in range(2))
    assert torch.equal(one[0], again[0])
    assert torch.equal(one[1], again[1])
    other, _ = distort_frames((frames, LENGTHS), generator(2), longest=20)
    assert not torch.equal(one[0][:, :5], other[:, :5])


def test_without_any_change_the_frames_stay(frames):
    found, lengths = distort_frames((frames, LENGTHS), generator(), longest=20, **STILL)
    torch.testing.assert_close(found, frames, atol=1e-5, rtol=0)
    assert torch.equal(lengths, LENGTHS)


@settings(max_examples=50, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 30), min_size=1, max_size=5),
    longest=st.integers(30, 40),
    seed=st.integers(0, 9999),
)
def test_padding_stays_zero_and_nothing_becomes_empty(lengths, longest, seed):
    before = torch.tensor(lengths)
    time = max(lengths)
    drawn = torch.randn(len(lengths), time, 3, generator=generator(seed))
    frames = drawn * valid(before, time).unsqueeze(2)
    found, after = distort_frames((frames, before), generator(seed), longest=longest, noise=1.0)
    assert found.shape == (len(lengths), int(after.max()), 3)
    assert found.dtype == torch.float32
    assert after.dtype == torch.int64
    assert 1 <= int(after.min()) <= int(after.max()) <= longest
    assert ((after - before).abs() <= 0.2 * before + 0.5).all()
    assert found[~valid(after, found.shape[1])].count_nonzero() == 0
    assert found.isfinite().all()


def test_stretching_reads_between_the_frames(frames):
    found, lengths = distort_frames(
        (frames, LENGTHS), generator(), longest=24, **STILL | {"stretch": 0.2}
    )
    assert not torch.equal(lengths, LENGTHS)
    pairs = zip(LENGTHS.tolist(), lengths.tolist(), strict=True)
    for sample, result, (old, new) in zip(frames.numpy(), found.numpy(), pairs, strict=True):
        place = np.linspace(0, old - 1, new)
        for feature in range(5):
            expected = np.interp(place, np.arange(old), sample[:old, feature])
            np.testing.assert_allclose(result[:new, feature], expected, atol=1e-5)


def test_bending_keeps_the_ends_and_the_order():
    line = torch.arange(30.0).expand(40, 30).unsqueeze(2)
    lengths = torch.full((40,), 30)
    found, after = distort_frames((line, lengths), generator(), longest=30, **STILL | {"bend": 0.3})
    assert torch.equal(after, lengths)
    assert found[:, 0].abs().max() == 0
    torch.testing.assert_close(found[:, -1], line[:, -1])
    speed = found[:, :, 0].diff(dim=1)
    assert 0.7 - 0.02 <= speed.min() < 0.85
    assert 1.15 < speed.max() <= 1.3 + 0.02
    middle = found[:, 15, 0] - line[:, 15, 0]  # u + b u (1 - u) is off by b / 4 there
    assert 0.05 * 29 < middle.abs().max() <= 0.3 / 4 * 29 + 1e-3


def test_nothing_grows_beyond_the_longest(frames):
    for seed in range(5):
        found, lengths = distort_frames((frames, LENGTHS), generator(seed), longest=20)
        assert lengths.max() <= 20
        assert found.shape[1] <= 20


def test_masks_hide_one_stretch_of_bounded_width():
    frames, lengths = torch.ones(200, 50, 10), torch.full((200,), 50)
    changes = STILL | {"time_mask": 0.2, "feature_mask": 0.3}
    found, _ = distort_frames((frames, lengths), generator(), longest=50, **changes)
    hidden = found == 0
    steps, features = hidden.all(dim=2), hidden.all(dim=1)
    for mask, most in ((steps, 10), (features, 3)):
        widths = mask.sum(dim=1)
        assert widths.max() == most
        assert widths.min() == 0
        edges = mask.int().diff(dim=1, prepend=torch.zeros(200, 1), append=torch.zeros(200, 1))
        assert (edges.abs().sum(dim=1) == 2 * (widths > 0)).all()
        assert mask.any(dim=0).all()  # anywhere
    assert torch.equal(hidden, steps.unsqueeze(2) | features.unsqueeze(1))


def test_noise_gain_and_offset_are_of_the_given_size():
    frames, lengths = torch.ones(400, 40, 6), torch.full((400,), 40)

    def spread(name: str) -> torch.Tensor:
        changed = STILL | {name: 0.25}
        return distort_frames((frames, lengths), generator(), longest=40, **changed)[0] - 1

    noise = spread("noise")
    assert noise.std().item() == pytest.approx(0.25, rel=0.02)
    assert noise.mean(dim=1).std().item() == pytest.approx(0.25 / 40**0.5, rel=0.1)
    for name in ("gain", "offset"):
        level = spread(name)
        torch.testing.assert_close(level, level[:, :1].expand_as(level))  # one a sequence
        assert level.std().item() == pytest.approx(0.25, rel=0.05)


def test_equal_states_give_equal_texts(tokens):
    one, again = (distort_tokens((tokens, TEXT_LENGTHS), generator(), unknown=1) for _ in range(2))
    assert torch.equal(one[0], again[0])
    assert torch.equal(one[1], again[1])


def test_without_any_change_the_text_stays(tokens):
    found, lengths = distort_tokens(
        (tokens, TEXT_LENGTHS), generator(), unknown=1, dropout=0.0, crop=0.0
    )
    assert torch.equal(found, tokens)
    assert torch.equal(lengths, TEXT_LENGTHS)


def test_crops_are_pieces_of_the_longer_texts(tokens):
    starts = set()
    for seed in range(30):
        found, lengths = distort_tokens(
            (tokens, TEXT_LENGTHS), generator(seed), unknown=1, dropout=0.0
        )
        assert lengths[[1, 3]].tolist() == [5, 1]
        assert 45 <= lengths[0] <= 60
        assert 30 <= lengths[2] <= 40
        for text, source, length in zip(found, tokens, lengths, strict=True):
            start = int(text[0]) - 3  # texts count from 3
            starts.add(start)
            assert torch.equal(text[:length], source[start : start + length])
            assert text[length:].count_nonzero() == 0
    assert len(starts) > 5


def test_dropout_makes_a_tenth_unknown():
    tokens, lengths = torch.full((300, 32), 7), torch.full((300,), 32)
    found, _ = distort_tokens((tokens, lengths), generator(), unknown=1)
    assert set(found.unique().tolist()) == {1, 7}
    assert (found == 1).double().mean().item() == pytest.approx(0.1, abs=0.01)


def test_padding_is_never_unknown(tokens):
    found, lengths = distort_tokens((tokens, TEXT_LENGTHS), generator(), unknown=1, dropout=1.0)
    assert torch.equal(found, valid(lengths, found.shape[1]).long())

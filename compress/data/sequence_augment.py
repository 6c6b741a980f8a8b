"""Random changes of sequences that keep their meaning; drawn from a generator, so repeatable.

Padding stays zero behind every sequence's end, and no sequence becomes empty.
"""

from __future__ import annotations

import torch
from torch import Generator, Tensor

from compress.data.task import Inputs
from compress.models.sequence import valid_steps


def distort_frames(
    inputs: Inputs,
    generator: Generator,
    *,
    longest: int,
    stretch: float = 0.2,
    bend: float = 0.3,
    time_mask: float = 0.2,
    feature_mask: float = 0.2,
    gain: float = 0.1,
    offset: float = 0.2,
    noise: float = 0.2,
) -> Inputs:
    """Other speed, level and noise, and hidden steps and features, for each sequence.

    Warping and masks are SpecAugment's (Park et al., 2019, arXiv:1904.08779), one mask of each
    sort. Features are expected standardised: a mask's zeros are then their mean.

    Args:
        inputs: frames (batch, time, features) and lengths (batch,).
        generator: source of randomness; the same state gives the same sequences.
        longest: most steps of any result.
        stretch: largest relative change of a sequence's length.
        bend: largest relative change of speed within a sequence, below 1.
        time_mask, feature_mask: largest share of a sequence's steps, and of features, set to 0.
        gain, offset: standard deviation of one factor around 1 and one summand a feature.
        noise: standard deviation of the noise added to every number.

    Returns:
        Frames (batch, the longest result's steps, features) and their lengths.
    """
    frames, lengths = _resample(inputs[0], inputs[1], generator, longest, stretch, bend)
    count, time, features = frames.shape

    def normal(steps: int, deviation: float) -> Tensor:
        return torch.randn(count, steps, features, generator=generator) * deviation

    frames = frames * (1 + normal(1, gain)) + normal(1, offset) + normal(time, noise)
    hidden_steps = _spans(lengths, time, time_mask, generator)
    hidden_features = _spans(
        lengths.new_full((count,), features), features, feature_mask, generator
    )
    kept = (valid_steps(lengths, time) & ~hidden_steps).unsqueeze(2) & ~hidden_features.unsqueeze(1)
    return frames * kept, lengths


def distort_tokens(
    inputs: Inputs,
    generator: Generator,
    *,
    unknown: int,
    dropout: float = 0.1,
    crop: float = 0.25,
    shortest: int = 32,
) -> Inputs:
    """Some tokens made unknown, and a piece of each longer text.

    Word dropout is that of Iyyer et al. (2015, "Deep Unordered Composition Rivals Syntactic
    Methods for Text Classification").

    Args:
        inputs: tokens (batch, time), 0 behind the end, and lengths (batch,).
        generator: source of randomness; the same state gives the same texts.
        unknown: the token that others are replaced by.
        dropout: probability of replacing a token.
        crop: largest share of a text that is left out, at its two ends together.
        shortest: texts up to this many tokens are not cropped.

    Returns:
        Tokens (batch, the longest result's steps) and their lengths.
    """
    tokens, lengths = inputs
    count = len(tokens)
    cut = (torch.rand(count, generator=generator) * crop * lengths).long() * (lengths > shortest)
    start = (torch.rand(count, generator=generator) * (cut + 1)).long()
    lengths = lengths - cut
    time = int(lengths.max())
    place = start.unsqueeze(1) + torch.arange(time)
    tokens = tokens.gather(1, place.clamp(max=tokens.shape[1] - 1))
    dropped = torch.rand(count, time, generator=generator) < dropout
    return tokens.masked_fill(dropped, unknown) * valid_steps(lengths, time), lengths


def _resample(
    frames: Tensor, lengths: Tensor, generator: Generator, longest: int, stretch: float, bend: float
) -> tuple[Tensor, Tensor]:
    """Each sequence read at another speed that drifts from its start to its end.

    The place that is read, from 0 to 1, is u + b · u · (1 - u): it keeps both ends, and its
    slope, from 1 + b to 1 - b, is the speed.
    """
    count, _, features = frames.shape
    rates = 1 + (torch.rand(count, generator=generator) * 2 - 1) * stretch
    bends = (torch.rand(count, 1, generator=generator) * 2 - 1) * bend
    found = (lengths * rates).round().long().clamp(1, longest)
    u = torch.arange(int(found.max())) / (found - 1).clamp(min=1).unsqueeze(1)
    u = u.clamp(max=1)
    last = (lengths - 1).unsqueeze(1)
    place = (u + bends * u * (1 - u)) * last
    before = place.long()
    after = torch.minimum(before + 1, last)
    share = (place - before).unsqueeze(2)

    def read(steps: Tensor) -> Tensor:
        return frames.gather(1, steps.unsqueeze(2).expand(-1, -1, features))

    return torch.lerp(read(before), read(after), share), found


def _spans(lengths: Tensor, steps: int, share: float, generator: Generator) -> Tensor:
    """(batch, steps), True in one stretch of each sequence, of up to that share of its length."""
    width = torch.rand(len(lengths), generator=generator) * share * lengths
    start = torch.rand(len(lengths), generator=generator) * (lengths - width)
    width, start = width.round().unsqueeze(1), start.round().unsqueeze(1)
    place = torch.arange(steps)
    return (place >= start) & (place < start + width)

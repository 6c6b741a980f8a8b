"""Divergence of outputs against numpy and scipy."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.special import rel_entr, softmax

from compress.quantization.divergence import relative_error, score_divergence

RANDOM = np.random.default_rng(0)


def pairs(*shapes: tuple[int, ...], count: int = 3, noise: float = 0.1):
    """Batches of outputs of these shapes, and the same under noise."""
    expected = [[RANDOM.normal(size=shape) for shape in shapes] for _ in range(count)]
    found = [[one + noise * RANDOM.normal(size=one.shape) for one in batch] for batch in expected]
    return expected, found


def test_relative_error_is_that_of_all_batches_together():
    expected, found = pairs((4, 5))
    whole, other = (np.concatenate([batch[0] for batch in part]) for part in (expected, found))
    reference = np.linalg.norm(other - whole) / np.linalg.norm(whole)
    assert relative_error(expected, found) == pytest.approx(reference)
    assert relative_error(expected, expected) == 0


def test_every_output_counts_alike_whatever_its_size():
    expected, found = pairs((4, 5), (4, 100))
    large = [[a, 1000 * b] for a, b in expected], [[a, 1000 * b] for a, b in found]
    each = [
        relative_error([[batch[at]] for batch in expected], [[batch[at]] for batch in found])
        for at in (0, 1)
    ]
    assert relative_error(*large) == pytest.approx(math.hypot(*each) / math.sqrt(2))


def test_whole_numbers_count_by_the_share_that_differs():
    assert relative_error([[np.array([1, 2, 3, 4])]], [[np.array([1, 2, 3, 5])]]) == 0.25


def test_what_is_no_number():
    good, bad = np.array([1.0, 2.0]), np.array([1.0, math.nan])
    assert relative_error([[good]], [[bad]]) == math.inf
    assert relative_error([[bad]], [[good]]) == 0
    assert relative_error([[good]], [[np.array([1.0])]]) == 1
    assert relative_error([[np.zeros(2)]], [[np.zeros(2)]]) == 0
    assert relative_error([[np.zeros(2)]], [[good]]) == math.inf


def kl(expected: np.ndarray, found: np.ndarray, axis: int) -> float:
    return float(rel_entr(softmax(expected, axis), softmax(found, axis)).sum(axis=axis).mean())


@pytest.mark.parametrize(("shape", "axis"), [((6, 5), 1), ((2, 3, 5), 2), ((2, 5, 3, 3), 1)])
def test_scores_are_compared_as_probabilities(shape: tuple[int, ...], axis: int):
    expected, found = pairs(shape, noise=0.5)
    means = [kl(one[0], other[0], axis) for one, other in zip(expected, found, strict=True)]
    assert score_divergence(expected, found) == pytest.approx(np.mean(means))


def test_a_shift_of_all_scores_is_not_seen_and_probabilities_are_taken_as_they_are():
    expected, found = pairs((6, 5), count=1)
    shifted = [[found[0][0] + 100]]
    assert score_divergence(expected, shifted) == pytest.approx(kl(expected[0][0], found[0][0], 1))
    assert relative_error(expected, shifted) > 10
    chances = [[[softmax(batch[0][0], 1)]] for batch in (expected, found)]
    assert score_divergence(*chances) == pytest.approx(kl(expected[0][0], found[0][0], 1))


def test_outputs_that_hold_no_scores_have_no_say():
    expected, found = pairs((6, 5), (6,), (6, 1))
    only = [[batch[0]] for batch in expected], [[batch[0]] for batch in found]
    assert score_divergence(expected, found) == pytest.approx(score_divergence(*only))
    lone = [[batch[1]] for batch in expected], [[batch[1]] for batch in found]
    assert score_divergence(*lone) == relative_error(*lone)


def test_scores_that_are_no_numbers():
    good, bad = np.array([[1.0, 2.0]]), np.array([[1.0, math.nan]])
    assert score_divergence([[good]], [[bad]]) == math.inf
    assert score_divergence([[bad]], [[good]]) == 0
    masked = np.array([[1.0, -math.inf]])
    assert score_divergence([[masked]], [[masked]]) == 0
    assert score_divergence([[good]], [[np.array([[1.0, 2.0, 3.0]])]]) == math.inf

"""Splits with lengths, scores against a hand-worked case, and what no model could read."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import tiny
import torch
from torch import Tensor

from compress.data.answers import answer
from compress.data.task import BITS, MSE, Inputs, Split
from compress.errors import InputError


def ragged(lengths: list[int], steps: int = 9) -> Split:
    """Sample number i holds i + 1 in each of its valid steps."""
    count = len(lengths)
    values = torch.arange(1.0, count + 1).unsqueeze(1).repeat(1, steps)
    values[torch.arange(steps) >= torch.tensor(lengths).unsqueeze(1)] = 0
    return Split(
        values.unsqueeze(2), torch.zeros(count), np.arange(count), lengths=torch.tensor(lengths)
    )


def test_take_cuts_padding_that_no_sample_needs():
    inputs, lengths = ragged([2, 9, 4]).take(torch.tensor([2, 0]))
    assert inputs.shape == (2, 4, 1)
    assert lengths.tolist() == [4, 2]
    assert inputs[:, :, 0].tolist() == [[3, 3, 3, 3], [1, 1, 0, 0]]


def test_one_typical_sample_is_the_one_of_median_length():
    assert ragged([9, 1, 5, 2, 7]).typical(1)[1].tolist() == [5]
    assert ragged([9, 1, 5, 2, 7]).typical(5)[1].tolist() == [1, 2, 5, 7, 9]
    assert ragged([3, 1]).typical(4)[1].tolist() == [1, 1, 3, 3]


def test_typical_samples_of_one_size_are_the_first():
    split = Split(torch.arange(3.0).reshape(3, 1), torch.zeros(3), np.arange(3))
    (inputs,) = split.typical(5)
    assert inputs.flatten().tolist() == [0, 1, 2, 0, 1]


@pytest.mark.parametrize(
    ("lengths", "found"), [([0, 3], "from 0 to 3"), ([1, 10], "from 1 to 10")], ids=str
)
def test_empty_and_overlong_sequences_are_refused(lengths, found):
    with pytest.raises(
        InputError, match=f"sequence lengths {found}; expected 1 to 9, one a sample"
    ):
        ragged(lengths)


def test_a_split_needs_as_many_targets_as_inputs():
    with pytest.raises(InputError, match="2 inputs, 3 targets and 2 indices"):
        Split(torch.zeros(2, 1), torch.zeros(3), np.arange(2))


def test_answers_stand_in_the_splits_order_whatever_the_lengths(monkeypatch):
    monkeypatch.setattr("compress.data.answers.CHUNK", 2)
    split, calls = ragged([7, 1, 5, 2, 3]), []

    def call(inputs: Inputs) -> np.ndarray:
        values, lengths = inputs
        calls.append(values.shape[1])
        return values.amax(dim=1).numpy() + 0 * lengths.numpy()[:, None]

    assert answer(call, split).flatten().tolist() == [1, 2, 3, 4, 5]
    assert calls == [2, 5, 7]  # together with others of their length


def test_answers_for_each_step_are_filled_up():
    def call(inputs: Inputs) -> np.ndarray:
        return inputs[0].repeat(1, 1, 3).numpy()

    found = answer(call, ragged([2, 4], steps=6))
    assert found.shape == (2, 6, 3)
    assert found[0, :, 0].tolist() == [1, 1, 0, 0, 0, 0]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"inputs": torch.full((60, 10), 12)},
            "test split: tokens from 12 to 12; the vocabulary has",
        ),
        ({"inputs": torch.full((60, 10), -1)}, "test split: tokens from -1 to -1"),
        (
            {"targets": torch.full((60,), 2)},
            "test split: targets from 2 to 2; there are 2, counted",
        ),
    ],
    ids=["outside", "negative", "class"],
)
def test_tokens_and_classes_that_do_not_exist(change, message):
    task = tiny.tokens()
    split = dataclasses.replace(task.test, **change)
    with pytest.raises(InputError, match=f"task 'tiny:tokens', {message}"):
        dataclasses.replace(task, test=split)


def test_an_empty_split_is_told():
    task = tiny.series()
    empty = task.validation.subset(torch.arange(0))
    with pytest.raises(InputError, match="task 'tiny:series', validation split: is empty"):
        dataclasses.replace(task, validation=empty)


def test_bits_of_a_hand_worked_case():
    # Two steps over four tokens: a sure one costs 0 bits, a uniform one 2.
    logits = np.array([[[0, 50, 0, 0], [0, 0, 0, 0]]], dtype=np.float32)
    assert BITS.score(logits, np.array([[1, 3]])) == pytest.approx([1.0])
    assert not BITS.higher_is_better


def test_bits_are_torchs_cross_entropy():
    logits, targets = torch.randn(3, 5, 7) * 4, torch.randint(7, (3, 5))
    nats: Tensor = torch.nn.functional.cross_entropy(
        logits.transpose(1, 2), targets, reduction="none"
    )
    expected = nats.mean(dim=1) / np.log(2)
    found = BITS.score(logits.numpy(), targets.numpy())
    np.testing.assert_allclose(found, expected.numpy(), rtol=1e-5)


def test_squared_error_of_each_sample():
    found = MSE.score(np.array([[1, 2], [0, 0]], np.float32), np.array([[1, 4], [3, 0]]))
    assert found.tolist() == [2.0, 4.5]

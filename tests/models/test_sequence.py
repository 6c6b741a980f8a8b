"""Hashed n-grams against a loop over tokens, and the wide path as the sum that it is."""

from __future__ import annotations

import pytest
import torch

from compress.errors import InputError
from compress.models.references import resolve
from compress.models.sequence import _PRIMES, Front, Wide, ngram_rows
from compress.models.sequence_configs import RecurrentConfig, SequenceConfig


def test_hashes_of_characters_are_whole_numbers_in_fp32_too():
    """OpenVINO multiplies integers as fp32, which holds them all up to 2^24."""
    assert sum(127 * prime for prime in _PRIMES) < 2**24


def test_ngram_rows_are_those_of_a_loop():
    tokens = torch.randint(3, 4000, (3, 7), generator=torch.Generator().manual_seed(0))
    orders = {1: 5000, 3: 97, 2: 64}
    found, starts = ngram_rows(tokens, orders), (0, 5000, 5097)
    assert found.shape == (3, 7, 3)
    for number, (order, start) in enumerate(zip(orders, starts, strict=True)):
        for row in range(3):
            for place in range(7):
                before = [int(tokens[row, place - k]) if place >= k else 0 for k in range(order)]
                mixed = sum(token * prime for token, prime in zip(before, _PRIMES, strict=False))
                assert int(found[row, place, number]) == start + mixed % orders[order]


def test_ngrams_spread_over_the_rows():
    pairs = torch.cartesian_prod(torch.arange(3, 103), torch.arange(3, 103))
    filled = len(ngram_rows(pairs, {2: 16384})[:, 1].unique())
    assert filled > 0.85 * 16384 * (1 - torch.exp(torch.tensor(-10000 / 16384)))


def test_the_wide_path_is_a_sum_over_the_roots_of_lengths():
    config = SequenceConfig(vocabulary=9, outputs=2, wide={1: 9, 2: 30}, dropout=0.5)
    wide = Wide(config).eval()
    torch.nn.init.normal_(wide.table.weight)
    tokens, lengths = torch.randint(1, 9, (2, 6)), torch.tensor([6, 3])
    ids = ngram_rows(tokens, config.wide)
    found = wide(tokens, lengths)
    for row, length in enumerate((6, 3)):
        said = wide.table.weight[ids[row, :length].flatten()]
        expected = 10 * said.sum(dim=0) / length**0.5
        torch.testing.assert_close(found[row], expected)
    torch.testing.assert_close(wide(tokens[:1], None), found[:1])


def test_a_token_alone_needs_no_table():
    front = Front(SequenceConfig(vocabulary=9, outputs=2, ngrams={2: 5}, ngram_width=3), 4)
    assert front.writers() == [("tokens.weight", 1), ("mix.weight", 0)]
    assert Front(SequenceConfig(in_features=2), 4).writers() == []


@pytest.mark.parametrize(
    ("settings", "facts", "text"),
    [
        ({"wide": {2: 10}}, {"in_features": 3}, "ngrams and wide are for tokens; this task has"),
        ({"front_stride": 3}, {"in_features": 3}, "front_stride does nothing without front_width"),
        ({"ngram_width": 8}, {"vocabulary": 3}, "ngram_width does nothing without ngrams"),
        ({"ngrams": {9: 10}}, {"vocabulary": 3}, r"ngrams\.9.* less than or equal to 8"),
        ({"ngrams": {2: 0}}, {"vocabulary": 3}, r"ngrams\.2.*greater than or equal to 1"),
        (
            {"wide": {1: 5}, "front_width": 0},
            {"vocabulary": 3, "per_step": True},
            "wide sums over a whole text, but this task wants outputs for each step",
        ),
    ],
    ids=str,
)
def test_settings_that_contradict_the_data(settings, facts, text):
    with pytest.raises(InputError, match=text):
        resolve("lstm", settings, {"outputs": 3, **facts})


def test_a_card_keeps_the_orders():
    config = RecurrentConfig(vocabulary=9, ngrams={2: 5, 3: 7})
    assert RecurrentConfig.model_validate(config.model_dump(mode="json")) == config

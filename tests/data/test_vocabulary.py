"""Text to tokens and back, and what a vocabulary lacks."""

from __future__ import annotations

import pytest

from compress.data.vocabulary import UNKNOWN, card_vocabulary, decode, encode
from compress.errors import InputError

LETTERS = list("abc ")


def test_there_and_back():
    tokens = encode("cab a", LETTERS)
    assert tokens.tolist() == [[2, 0, 1, 3, 0]]
    assert decode(tokens[0], LETTERS) == "cab a"


def test_an_unknown_character_has_its_token_where_there_is_one():
    assert encode("axb", ["<padding>", UNKNOWN, "a", "b"]).tolist() == [[2, 1, 3]]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "the text is empty; give at least one character"),
        ("abcabc", "the text has 6 characters; the model takes up to 5"),
        ("abé", r"'é', character 3 of the text, is not in the model's vocabulary of 4"),
    ],
    ids=str,
)
def test_what_cannot_be_read(text, message):
    with pytest.raises(InputError, match=message):
        encode(text, LETTERS, longest=5)


def test_a_card_without_a_vocabulary():
    assert card_vocabulary({"preprocessing": {"vocabulary": "ab"}}, "here") == ["a", "b"]
    with pytest.raises(InputError, match="here: was not trained on text"):
        card_vocabulary({"preprocessing": {"divide": 255}}, "here")

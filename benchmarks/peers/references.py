"""The reference models as subjects: trained by their recipes, judged by their tasks' labels."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

import torch

from benchmarks.distillation import make_teacher
from benchmarks.peers.inputs import SPLITS, Rows
from benchmarks.peers.subject import Subject
from compress.data.references import load_task
from compress.data.task import Split
from compress.recipe.parse import load_recipe

RUNS = Path("runs/quantization")
_NAMES = ("input", "lengths")


@dataclass(frozen=True)
class Reference:
    """A recipe's trained model.

    Attributes:
        subject: named like the recipe.
        counts: most rows to calibrate, to choose and for the final figures.
    """

    subject: Subject
    counts: tuple[int, int, int] = (128, 1000, 2000)


def make_reference(reference: Reference) -> Subject:
    """The subject with its file and rows; minutes where its recipe has to train first."""
    subject = reference.subject
    if (subject.folder / "subject.json").exists():
        return subject
    subject.folder.mkdir(parents=True, exist_ok=True)
    recipe = load_recipe(Path(f"recipes/{subject.name}.yaml"))
    trained = make_teacher(recipe, "train", RUNS / subject.name)
    shutil.copyfile(trained.onnx, subject.onnx)
    task = load_task(recipe.task)
    parts = {
        split: _some(getattr(task, split), count)
        for split, count in zip(SPLITS, reference.counts, strict=True)
    }
    rows = {split: _rows(part.whole()) for split, part in parts.items()}
    truth = {split: part.targets.numpy() for split, part in parts.items()}
    timed = {batch: _rows(task.validation.typical(batch)) for batch in subject.batches}
    subject.store(rows, truth, timed)
    return subject


def _some(split: Split, count: int) -> Split:
    order = torch.randperm(len(split), generator=torch.Generator().manual_seed(0))
    return split.subset(order[:count])


def _rows(inputs: tuple[torch.Tensor, ...]) -> Rows:
    return {name: part.numpy() for name, part in zip(_NAMES, inputs, strict=False)}


_SPOKEN = "spoken digits; typical lengths are timed"
REFERENCES = {
    reference.subject.name: reference
    for reference in (
        Reference(Subject("cnn", "ResNet-20", "MNIST digits", "accuracy", task="mnist")),
        Reference(Subject("rnn", "BiLSTM 2 × 256", _SPOKEN, "accuracy", task="spoken-digits")),
        Reference(Subject("gru", "BiGRU 2 × 192", _SPOKEN, "accuracy", task="spoken-digits")),
        Reference(
            Subject(
                "transformer",
                "encoder",
                "reviews; typical lengths are timed",
                "accuracy",
                attention=True,
                task="reviews",
            ),
            counts=(128, 500, 1500),
        ),
        Reference(
            Subject(
                "gpt",
                "decoder with hashed n-grams",
                "King James Bible, 128 characters",
                "bits per character",
                tolerance=0.02,
                attention=True,
                task="kjv",
            ),
            counts=(128, 128, 256),
        ),
    )
}

"""The teacher's answers: kept for augmented copies of the data, or asked batch by batch."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Generator, Tensor

from compress.artifact import digest
from compress.data.answers import answer
from compress.data.task import Inputs, Split, Task, trim
from compress.errors import InputError, OutputError, ShapeMismatch, first_line
from compress.onnx_files import model_digest
from compress.progress import Progress, quiet
from compress.runtime.onnxruntime import Session
from compress.training.batches import Batch, Batches, LabelledBatches, shuffled
from compress.training.loop import epoch_seed

#: Augmented copies are kept in memory up to this many bytes, and so are the teacher's answers.
MEMORY = 1 << 30
_CHUNK = 500


@dataclass(frozen=True)
class Views:
    """Augmented copies of a task's training inputs, each the same whenever it is asked for.

    Attributes:
        count: how many copies.
        seed: of the augmentation.
        augment: False makes every copy the plain data.
        mixup: largest share of a second sample, see `DistillConfig`.
    """

    task: Task
    count: int
    seed: int = 0
    augment: bool = True
    mixup: float = 0.0

    def __post_init__(self) -> None:
        """Refuse to mix what has no mean: tokens, and sequences of different lengths."""
        split = self.task.train
        if self.mixup and (split.lengths is not None or not split.inputs.is_floating_point()):
            raise InputError(
                f"mixup: samples of task '{self.task.name}' are sequences or tokens, which cannot "
                "be averaged; set mixup to 0."
            )

    @property
    def different(self) -> int:
        """How many of the copies differ: without any change they are all the same."""
        changes = (self.augment and self.task.augment is not None) or self.mixup
        return self.count if changes else min(self.count, 1)

    def inputs(self, view: int) -> Inputs:
        """Copy number `view`, (n, …): number 0 as the data is, the others changed."""
        plain = self.task.train.whole()
        if view == 0:
            return plain
        generator = Generator().manual_seed(epoch_seed(self.seed, view))
        if self.augment and self.task.augment is not None:
            rows = torch.arange(len(plain[0])).split(_CHUNK)
            parts = [
                self.task.augment(tuple(part[chunk] for part in plain), generator) for chunk in rows
            ]
            plain = tuple(_joined(column) for column in zip(*parts, strict=True))
        return (self._mixed(plain[0], generator),) if self.mixup else plain

    def _mixed(self, inputs: Tensor, generator: Generator) -> Tensor:
        count = len(inputs)
        share = torch.rand(count, generator=generator) * self.mixup
        share = share * (torch.rand(count, generator=generator) < 0.5)
        share = share.view(-1, *[1] * (inputs.dim() - 1))
        others = inputs[torch.randperm(count, generator=generator)]
        return inputs * (1 - share) + others * share

    def facts(self) -> list[object]:
        """What the copies follow from, for the key of the teacher's answers."""
        data = hashlib.sha256()
        for part in self.task.train.whole():
            data.update(part.numpy().tobytes())
        return [self.task.name, data.hexdigest(), self.count, self.seed, self.augment, self.mixup]


def _joined(parts: tuple[Tensor, ...]) -> Tensor:
    """Chunks below each other, filled up with zeros where their sequences are shorter."""
    if parts[0].dim() < 2:
        return torch.cat(parts)
    longest = max(part.shape[1] for part in parts)
    joined = parts[0].new_zeros(sum(map(len, parts)), longest, *parts[0].shape[2:])
    for part, place in zip(parts, joined.split([len(part) for part in parts]), strict=True):
        place[:, : part.shape[1]] = part
    return joined


@dataclass
class TaughtBatches:
    """Batches of augmented copies with the teacher's answers to exactly these samples.

    Attributes:
        logits: (views, n, …).
    """

    views: Views
    logits: Tensor
    batch_size: int
    _kept: dict[int, Inputs] = field(default_factory=dict)

    @property
    def steps(self) -> int:
        return max(1, len(self.views.task.train) // self.batch_size)

    def epoch(self, number: int, generator: Generator) -> Iterator[Batch]:
        view = number % len(self.logits)
        inputs, targets = self._inputs(view), self.views.task.train.targets
        lengths = inputs[1] if len(inputs) > 1 else None
        for rows in shuffled(lengths, len(targets), self.batch_size, generator):
            yield Batch(trim(inputs, rows), targets[rows], self.logits[view][rows])

    def _inputs(self, view: int) -> Inputs:
        if view in self._kept:
            return self._kept[view]
        inputs = self.views.inputs(view)
        if (len(self._kept) + 1) * sum(part.nbytes for part in inputs) <= MEMORY:
            self._kept[view] = inputs
        return inputs


@dataclass
class AskedBatches:
    """Batches with labels, fresh in every epoch, and the teacher's answers as they come."""

    batches: LabelledBatches
    teacher: Session

    @property
    def steps(self) -> int:
        return self.batches.steps

    def epoch(self, number: int, generator: Generator) -> Iterator[Batch]:
        for batch in self.batches.epoch(number, generator):
            answers = self.teacher.run(tuple(part.numpy() for part in batch.inputs))
            yield Batch(batch.inputs, batch.targets, torch.from_numpy(answers))


def taught_batches(
    teacher: Path,
    views: Views,
    batch_size: int,
    *,
    device: str = "cpu",
    threads: int = 1,
    cache: Path | None = None,
    progress: Progress = quiet,
) -> Batches:
    """Batches with the teacher's answers: kept ones, or fresh ones for `views.count` 0.

    Args:
        teacher: an ONNX file; it answers as it would in production.
        cache: folder of kept answers; None for no cache.

    Raises:
        ShapeMismatch: the teacher answers something else than the task asks.
    """
    task, session = views.task, Session(teacher, device, threads)
    shape = check_teacher(session, task)
    size = 4 * len(task.train) * views.different
    for width in shape[1:]:
        size *= width
    if views.count and size <= MEMORY:
        logits = teacher_logits(
            teacher, views, device=device, threads=threads, cache=cache, progress=progress
        )
        return TaughtBatches(views, logits, batch_size)
    if views.mixup:
        raise InputError("mixup: needs kept copies; set views to at least 1 and less than memory.")
    augment = task.augment if views.augment else None
    return AskedBatches(LabelledBatches(task.train, batch_size, augment), session)


def check_teacher(session: Session, task: Task) -> tuple[int, ...]:
    """The shape of the teacher's answers to two samples.

    Raises:
        ShapeMismatch: it has other classes or another vocabulary than the task, or takes other
            inputs.
    """
    sample = task.train.take(torch.arange(2) % len(task.train))
    try:
        found = session.run(tuple(part.numpy() for part in sample)).shape
    except ShapeMismatch:
        raise
    except Exception as error:  # onnxruntime's own classes share no public base
        raise ShapeMismatch(
            f"{session.file}: the teacher cannot answer task '{task.name}'; was it trained on "
            f"another vocabulary? onnxruntime says: {first_line(error)}"
        ) from error
    expected = task.output_shape(sample)
    if found != expected:
        raise ShapeMismatch(
            f"{session.file}: the teacher answers with shape {found}; task '{task.name}' with "
            f"{len(task.classes)} {task.output_name} expects {expected}."
        )
    return expected


def teacher_logits(
    teacher: Path,
    views: Views,
    *,
    device: str = "cpu",
    threads: int = 1,
    cache: Path | None = None,
    progress: Progress = quiet,
) -> Tensor:
    """The teacher's answers to all copies of the training split, from the cache where they are.

    Args:
        teacher: an ONNX file; it answers as it would in production.
        views: the copies to answer.
        cache: folder of cached answers; None for no cache.

    Returns:
        (views, n, …), fp32.

    Raises:
        OutputError: the cache cannot be written.
    """
    key = digest([model_digest(teacher), *views.facts()])
    path = cache / f"teacher-{key[:16]}.safetensors" if cache else None
    if path is not None and (found := _read(path)) is not None:
        return found
    session, train = Session(teacher, device, threads), views.task.train
    answers = []
    for view in range(views.different):
        inputs = views.inputs(view)
        lengths = inputs[1] if len(inputs) > 1 else None
        copy = Split(inputs[0], train.targets, train.indices, lengths)
        outputs = answer(lambda part: session.run(tuple(a.numpy() for a in part)), copy)
        answers.append(torch.from_numpy(outputs))
        progress("teacher's answers", view + 1, views.different)
    logits = torch.stack(answers)
    if path is not None:
        _write(path, logits)
    return logits


def _read(path: Path) -> Tensor | None:
    try:
        with safe_open(path, framework="pt") as file:
            logits: Tensor = file.get_tensor("logits")
            return logits
    except (OSError, SafetensorError):
        return None


def _write(path: Path, logits: Tensor) -> None:
    scratch = path.with_suffix(".partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file({"logits": logits}, scratch)
        scratch.replace(path)
    except (OSError, SafetensorError) as error:
        with suppress(OSError):
            scratch.unlink()
        raise OutputError(f"{path}: the teacher's answers cannot be cached: {error}.") from error

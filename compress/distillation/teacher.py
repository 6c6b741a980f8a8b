"""The teacher's answers: computed once for augmented copies of the training split, then cached."""

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

from compress.artifact import digest, sha256
from compress.data.task import Task
from compress.errors import OutputError, ShapeMismatch
from compress.progress import Progress, quiet
from compress.runtime.onnxruntime import Session
from compress.training.batches import Batch
from compress.training.loop import epoch_seed

#: Augmented copies are kept in memory up to this many bytes; later ones are made again when needed.
MEMORY = 1 << 30
_CHUNK = 500


@dataclass(frozen=True)
class Views:
    """Augmented copies of a task's training inputs, each the same whenever it is asked for.

    Attributes:
        count: how many copies.
        seed: of the augmentation.
        augment: False makes every copy the plain data.
        mixup: largest share of a second image, see `DistillConfig`.
    """

    task: Task
    count: int
    seed: int = 0
    augment: bool = True
    mixup: float = 0.0

    def inputs(self, view: int) -> Tensor:
        """Copy number `view`, (n, …): number 0 as the data is, the others changed."""
        plain = self.task.train.inputs
        if view == 0:
            return plain
        generator = Generator().manual_seed(epoch_seed(self.seed, view))
        augment = self.task.augment
        if self.augment and augment is not None:
            plain = torch.cat([augment(chunk, generator) for chunk in plain.split(_CHUNK)])
        return self._mixed(plain, generator) if self.mixup else plain

    def _mixed(self, inputs: Tensor, generator: Generator) -> Tensor:
        count = len(inputs)
        share = torch.rand(count, generator=generator) * self.mixup
        share = share * (torch.rand(count, generator=generator) < 0.5)
        share = share.view(-1, *[1] * (inputs.dim() - 1))
        others = inputs[torch.randperm(count, generator=generator)]
        return inputs * (1 - share) + others * share

    def facts(self) -> list[object]:
        """What the copies follow from, for the key of the teacher's answers."""
        data = hashlib.sha256(self.task.train.inputs.numpy().tobytes()).hexdigest()
        return [self.task.name, data, self.count, self.seed, self.augment, self.mixup]


@dataclass
class TaughtBatches:
    """Batches of augmented copies with the teacher's answers to exactly these images.

    Attributes:
        logits: (views, n, classes).
    """

    views: Views
    logits: Tensor
    batch_size: int
    _kept: dict[int, Tensor] = field(default_factory=dict)

    @property
    def steps(self) -> int:
        return max(1, len(self.views.task.train) // self.batch_size)

    def epoch(self, number: int, generator: Generator) -> Iterator[Batch]:
        view = number % len(self.logits)
        inputs, targets = self._inputs(view), self.views.task.train.targets
        order = torch.randperm(len(targets), generator=generator)
        for rows in order.split(self.batch_size)[: self.steps]:
            yield Batch(inputs[rows], targets[rows], self.logits[view][rows])

    def _inputs(self, view: int) -> Tensor:
        if view in self._kept:
            return self._kept[view]
        inputs = self.views.inputs(view)
        if (len(self._kept) + 1) * inputs.nbytes <= MEMORY:
            self._kept[view] = inputs
        return inputs


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
        (views, n, classes), fp32.

    Raises:
        ShapeMismatch: the teacher has other classes than the task.
        OutputError: the cache cannot be written.
    """
    key = digest([sha256(teacher), *views.facts()])
    path = cache / f"teacher-{key[:16]}.safetensors" if cache else None
    if path is not None and (found := _read(path)) is not None:
        return found
    session = Session(teacher, device, threads)
    answers = []
    for view in range(views.count):
        outputs = session.run(views.inputs(view).numpy())
        if outputs.shape[1:] != (len(views.task.classes),):
            raise ShapeMismatch(
                f"{teacher}: the teacher answers with shape {outputs.shape[1:]}, task "
                f"'{views.task.name}' has {len(views.task.classes)} classes."
            )
        answers.append(torch.from_numpy(outputs))
        progress("teacher's answers", view + 1, views.count)
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

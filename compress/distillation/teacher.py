"""The teacher's answers: computed once for augmented copies of the training split, then cached."""

from __future__ import annotations

from collections.abc import Iterator
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


@dataclass
class TaughtBatches:
    """Batches of augmented copies with the teacher's answers to exactly these images.

    Attributes:
        logits: (views, n, classes).
    """

    task: Task
    logits: Tensor
    batch_size: int
    augment: bool
    seed: int
    _views: dict[int, Tensor] = field(default_factory=dict)

    @property
    def steps(self) -> int:
        return max(1, len(self.task.train) // self.batch_size)

    def epoch(self, number: int, generator: Generator) -> Iterator[Batch]:
        view = number % len(self.logits)
        inputs, targets = self._inputs(view), self.task.train.targets
        order = torch.randperm(len(targets), generator=generator)
        for rows in order.split(self.batch_size)[: self.steps]:
            yield Batch(inputs[rows], targets[rows], self.logits[view][rows])

    def _inputs(self, view: int) -> Tensor:
        if view in self._views:
            return self._views[view]
        inputs = view_inputs(self.task, view, self.seed, self.augment)
        if (len(self._views) + 1) * inputs.nbytes <= MEMORY:
            self._views[view] = inputs
        return inputs


def view_inputs(task: Task, view: int, seed: int, augment: bool) -> Tensor:
    """Copy number `view` of the training inputs: number 0 as it is, the others augmented.

    Returns:
        (n, …); the same for equal arguments.
    """
    inputs = task.train.inputs
    if view == 0 or not augment or task.augment is None:
        return inputs
    generator = Generator().manual_seed(epoch_seed(seed, view))
    return torch.cat([task.augment(chunk, generator) for chunk in inputs.split(_CHUNK)])


def teacher_logits(
    teacher: Path,
    task: Task,
    views: int,
    *,
    seed: int,
    augment: bool,
    device: str = "cpu",
    threads: int = 1,
    cache: Path | None = None,
    progress: Progress = quiet,
) -> Tensor:
    """The teacher's answers to all copies of the training split, from the cache where they are.

    Args:
        teacher: an ONNX file; it answers as it would in production.
        cache: folder of cached answers; None for no cache.

    Returns:
        (views, n, classes), fp32.

    Raises:
        ShapeMismatch: the teacher has other classes than the task.
        OutputError: the cache cannot be written.
    """
    key = digest([sha256(teacher), task.name, len(task.train), views, seed, augment])
    path = cache / f"teacher-{key[:16]}.safetensors" if cache else None
    if path is not None and (found := _read(path)) is not None:
        return found
    session = Session(teacher, device, threads)
    answers = []
    for view in range(views):
        outputs = session.run(view_inputs(task, view, seed, augment).numpy())
        if outputs.shape[1:] != (len(task.classes),):
            raise ShapeMismatch(
                f"{teacher}: the teacher answers with shape {outputs.shape[1:]}, task "
                f"'{task.name}' has {len(task.classes)} classes."
            )
        answers.append(torch.from_numpy(outputs))
        progress("teacher's answers", view + 1, views)
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
        scratch.unlink(missing_ok=True)
        raise OutputError(f"{path}: the teacher's answers cannot be cached: {error}.") from error

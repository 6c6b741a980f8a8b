"""What every runtime gives: a model that is loaded, runs samples, and repeats one fixed batch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from compress.errors import UnknownName

Array = npt.NDArray[Any]
#: One array for each of a model's inputs.
Feeds = tuple[Array, ...]


class Model(Protocol):
    """One model, loaded by one runtime with a fixed number of threads."""

    def run(self, inputs: Array | Feeds, batch_size: int = 250) -> Array:
        """First output for all rows of the inputs, computed in batches; (n, …)."""

    def outputs_of(self, feeds: Feeds) -> list[Array]:
        """All outputs of one call, in the model's order."""

    def bind(self, inputs: Array | Feeds) -> Callable[[], None]:
        """A call that runs one fixed batch; it is run once to make it, which is the first call."""

    def example(self, batch: int, seed: int = 0, length: int | None = None) -> Feeds:
        """A batch of the declared shapes, of made-up values; see `example_feeds`."""

    def prepare(self) -> None:
        """Undo what another model in this process may have set; before every block of calls."""


#: Name of a runtime to the module and class that open its models.
RUNTIMES = {
    "onnxruntime": ("compress.runtime.onnxruntime", "Session"),
    "openvino": ("compress.runtime.openvino", "OpenVinoModel"),
    "openvino-bf16": ("compress.runtime.openvino", "OpenVinoBf16"),
    "torch": ("compress.runtime.torch", "Eager"),
    "torchscript": ("compress.runtime.torch", "Script"),
    "compile": ("compress.runtime.torch", "Compiled"),
}
#: Runtimes that take an artifact's torch weights instead of an ONNX file.
TORCH = ("torch", "torchscript", "compile")


@dataclass(frozen=True)
class Target:
    """What an arm loads.

    Attributes:
        path: an ONNX file; for the runtimes of torch the folder of an artifact with weights.
        runtime: a key of `RUNTIMES`.
    """

    path: Path
    runtime: str = "onnxruntime"


def split_runtime(name: str) -> tuple[str, str]:
    """The path and the runtime that an arm's name means: `model.onnx@openvino`.

    Raises:
        UnknownName: no such runtime.
    """
    path, mark, runtime = name.rpartition("@")
    if not mark or Path(name).exists():  # an @ may stand in a path as well
        return name, "onnxruntime"
    if runtime not in RUNTIMES:
        raise UnknownName("runtime", runtime, RUNTIMES, name)
    return path, runtime


def import_runtime(runtime: str) -> Any:
    """The class that opens models of a runtime.

    Raises:
        InputError: the runtime is not installed.
    """
    module, name = RUNTIMES[runtime]
    return getattr(import_module(module), name)


def open_model(runtime: str, path: Path, device: str = "cpu", threads: int = 1) -> Model:
    """Load a model.

    Raises:
        ModelFileError: the file is missing, damaged, or the runtime cannot run it.
        DeviceUnavailable: this machine has no such device.
    """
    model: Model = import_runtime(runtime)(path, device, threads)
    return model


def example_feeds(
    inputs: Sequence[tuple[Sequence[int | None], np.dtype[Any]]],
    batch: int,
    seed: int = 0,
    length: int | None = None,
) -> Feeds:
    """Random numbers in the declared shapes, and ones where whole numbers are taken.

    A one is a token of every vocabulary. Whole numbers with no dimension but the batch are taken
    for the lengths of the sequences, and are `length` as well.

    Args:
        inputs: of each the sizes, the batch first, None where one is open; and the type.
        length: of every open dimension behind the batch; 1 where None, a sequence of one step.
    """
    random, steps = np.random.default_rng(seed), length or 1
    feeds = []
    for sizes, kind in inputs:
        shape = [batch, *(steps if size is None else size for size in sizes[1:])][: len(sizes)]
        whole = np.full(shape, steps if len(shape) == 1 else 1)
        values = random.standard_normal(shape) if kind.kind == "f" else whole
        feeds.append(values.astype(kind))
    return tuple(feeds)


def in_batches(
    call: Callable[[Feeds], Array], feeds: Feeds, size: int, *, filled: bool = False
) -> Array:
    """What a call gives for all rows, so many at a time; (n, …).

    Args:
        filled: the last batch is filled up to the size, for models that take no other.
    """
    runs = []
    for at in range(0, len(feeds[0]), size):
        part = tuple(feed[at : at + size] for feed in feeds)
        rows = len(part[0])
        runs.append(call(tuple(fill(feed, size) for feed in part) if filled else part)[:rows])
    return np.concatenate(runs)


def fill(feed: Array, rows: int) -> Array:
    """The array with its last row repeated until there are `rows`; unchanged if there are."""
    missing = rows - len(feed)
    if missing <= 0:
        return feed[:rows]
    return np.concatenate([feed, np.repeat(feed[-1:], missing, axis=0)])


def contiguous(feed: Array) -> Array:
    """The array as runtimes read it; numpy's function of that name makes a list of a scalar."""
    return np.asarray(feed, order="C")

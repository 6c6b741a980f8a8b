"""Inputs of any model from the user's own files, without labels: `npz:FILE`, or a Python factory.

What is right is then said by a metric of the user's own (`compress.measure.own_data`), or by the
fp32 model (`compress.measure.agreement`).
"""

from __future__ import annotations

import zipfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from compress.errors import InputError, ShapeMismatch, first_line
from compress.named_object import load_named

Array = npt.NDArray[Any]
#: One array for each input of a model, in the model's order.
Feeds = tuple[Array, ...]

NPZ = "npz:"
#: One to calibrate, one to choose by, one to judge.
LEAST = 3
#: Of all samples, what choosing and judging get each; the rest calibrates.
_SHARE = 0.3


@dataclass(frozen=True)
class Declared:
    """An input as the model declares it; None in `shape` for a size that is open."""

    name: str
    dtype: np.dtype[Any]
    shape: tuple[int | None, ...]


@dataclass(frozen=True)
class Samples:
    """Inputs, one sample or one whole call an entry.

    Attributes:
        name: the data reference.
        names: of the model's inputs, in its order.
        entries: each with one array an input: (1, …) where `batched`, else what one call takes.
        batched: whether entries can be put together to batches.
        rows: samples of an entry: more than one where the model's file fixes its batch.
        notes: what is to be told of them.
    """

    name: str
    names: tuple[str, ...]
    entries: tuple[Feeds, ...]
    batched: bool
    rows: int = 1
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.entries)

    def subset(self, places: Iterable[int]) -> Samples:
        """The samples at those positions."""
        return replace(self, entries=tuple(self.entries[place] for place in places))

    def split(self, seed: int) -> dict[str, Samples]:
        """Disjoint parts, drawn at random: "calibration", "validation" and "test".

        Raises:
            InputError: there are fewer samples than parts, or all are the same.
        """
        if len(self) < LEAST:
            raise InputError(
                f"{self.name}: samples: {len(self)}; at least {LEAST} are needed: one to "
                "calibrate, one to choose by, one to judge. Hundreds give figures worth having."
            )
        first = self.entries[0]
        if all(all(map(np.array_equal, entry, first)) for entry in self.entries[1:]):
            raise InputError(
                f"{self.name}: all {len(self)} samples are the same; ranges and answers taken on "
                "them would say nothing. Give inputs such as the model will see."
            )
        order = np.random.default_rng(seed).permutation(len(self)).tolist()
        held = max(1, int(len(self) * _SHARE))
        return {
            "validation": self.subset(sorted(order[:held])),
            "test": self.subset(sorted(order[held : 2 * held])),
            "calibration": self.subset(sorted(order[2 * held :])),
        }

    def chunks(self, size: int) -> list[list[int]]:
        """Positions of all samples in groups for one call: of equal shapes, at most `size`."""
        groups: dict[tuple[tuple[int, ...], ...], list[int]] = {}
        for place, entry in enumerate(self.entries):
            groups.setdefault(tuple(array.shape for array in entry), []).append(place)
        size = size if self.batched else 1
        return [
            group[at : at + size] for group in groups.values() for at in range(0, len(group), size)
        ]

    def take(self, places: Sequence[int]) -> Feeds:
        """One call's arrays for samples of equal shapes."""
        if len(places) == 1:
            return self.entries[places[0]]
        rows = [self.entries[place] for place in places]
        return tuple(np.concatenate(parts) for parts in zip(*rows, strict=True))

    def typical(self, count: int) -> Feeds:
        """A timed call of `count` samples: those of median size, repeated where they are few.

        Where samples cannot be put together, the call of median size as it is.
        """
        sizes = [sum(array.size for array in entry) for entry in self.entries]
        median = sorted(range(len(self)), key=sizes.__getitem__)[(len(self) - 1) // 2]
        if not self.batched:
            return self.entries[median]
        shapes = [array.shape for array in self.entries[median]]
        alike = [
            place
            for place, entry in enumerate(self.entries)
            if [array.shape for array in entry] == shapes
        ]
        return self.take([alike[at % len(alike)] for at in range(count)])


def is_samples(reference: str) -> bool:
    """Whether a data reference can only be inputs without labels."""
    return reference.startswith(NPZ)


def read_data(reference: str) -> Any:
    """What a data reference gives, as `to_samples` takes it, or a task.

    Args:
        reference: `npz:FILE`, or `package.module:factory` or `file.py:factory`.

    Raises:
        InputError: the file or factory is not there, or fails.
    """
    return _read(reference) if is_samples(reference) else _made(reference)


def to_samples(
    reference: str, made: Any, inputs: Sequence[Declared], *, whole: bool = False
) -> Samples:
    """Samples for a model, checked against what it takes.

    Args:
        made: calls of any number of rows, each a dictionary of arrays by the names of the inputs, a
            sequence of arrays, or the one array of a model with one input; or one dictionary.
        inputs: in the model's order.
        whole: each call is one sample, whatever the model declares.

    Raises:
        InputError: there is nothing, or what is no number.
        ShapeMismatch: the model takes other names, types or shapes.
    """
    return from_calls(reference, _calls(reference, made, inputs), inputs, whole=whole)


def inputs_like(reference: str, made: Any, names: Sequence[str]) -> list[Declared]:
    """What a model that declares nothing takes: arrays as in the first call, of any batch size.

    Args:
        names: of all its inputs, in its order.
    """
    item = made if isinstance(made, Mapping) else next(iter(made), ())
    arrays = item if isinstance(item, Mapping) else dict(zip(names, _arrays(item), strict=False))
    if len(arrays) == 1:
        arrays = dict(zip(names[:1], arrays.values(), strict=False))
    known = [name for name in names if name in arrays]
    if len(known) < len(arrays) or not known:
        raise ShapeMismatch(
            f"{reference}: holds {', '.join(map(str, arrays)) or 'nothing'}; the model takes "
            f"{', '.join(names)}."
        )
    found = {name: np.asarray(arrays[name]) for name in known}
    return [Declared(name, array.dtype, (None, *array.shape[1:])) for name, array in found.items()]


def from_calls(
    reference: str, calls: Sequence[Feeds], inputs: Sequence[Declared], *, whole: bool = False
) -> Samples:
    """Samples from calls of any number of rows.

    A model that takes any batch gets a sample a row, one whose file fixes the batch a sample for
    each of its batches, and one whose inputs do not share their first axis each call as it is.

    Raises:
        InputError, ShapeMismatch: see `to_samples`.
    """
    names = tuple(entry.name for entry in inputs)
    firsts = {entry.shape[0] if entry.shape else 0 for entry in inputs}
    batch = firsts.pop() if len(firsts) == 1 else 0  # None: any; 0: the first axis is no batch
    for number, call in enumerate(calls):
        place = reference if len(calls) == 1 else f"{reference}: call {number + 1}"
        _check(call, inputs, place, whole=batch == 0)
    rows = [_rows(call) for call in calls]
    if batch == 0 or None in rows or whole:
        return Samples(reference, names, tuple(calls), batched=False)
    entries = [
        tuple(array[at : at + (batch or 1)] for array in call)
        for call, count in zip(calls, rows, strict=True)
        for at in range(0, (count or 0) // (batch or 1) * (batch or 1), batch or 1)
    ]
    if not entries:
        fewest = f", {batch} rows a call as the model's file fixes them" if batch else ""
        raise InputError(f"{reference}: is empty; expected samples of {_names(inputs)}{fewest}.")
    return Samples(reference, names, tuple(entries), batched=batch is None, rows=batch or 1)


def _rows(call: Feeds) -> int | None:
    """How many samples a call holds; None where its inputs do not agree in that."""
    counts = {array.shape[0] if array.ndim else None for array in call}
    return counts.pop() if len(counts) == 1 else None


def _read(reference: str) -> dict[str, Array]:
    path = Path(reference.removeprefix(NPZ))
    if not path.is_file():
        raise InputError(f"{reference}: no such file; expected one by numpy.savez.")
    try:
        with path.open("rb") as file:  # numpy leaves the file open where it is no archive
            found = np.load(file, allow_pickle=False)
            return {"array": found} if isinstance(found, np.ndarray) else dict(found.items())
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise InputError(
            f"{reference}: cannot be read ({first_line(error)}); expected a file by numpy.savez of "
            "numbers."
        ) from None


def _made(reference: str) -> Any:
    try:
        found = load_named(reference)
        return found() if callable(found) else found
    except Exception as error:
        raise InputError(f"data '{reference}': {type(error).__name__}: {error}") from error


def _calls(reference: str, made: Any, inputs: Sequence[Declared]) -> list[Feeds]:
    if isinstance(made, Mapping):
        made = [made]
    calls = []
    try:
        for number, item in enumerate(made):
            place = f"{reference}: call {number + 1}"
            if isinstance(item, Mapping):
                named = {str(name): np.asarray(value) for name, value in item.items()}
                calls.append(_by_name(named, inputs, place))
            else:
                calls.append(_arrays(item))
    except InputError:
        raise
    except Exception as error:  # the user's own generator
        raise InputError(f"data '{reference}': {type(error).__name__}: {error}") from error
    if not calls:
        raise InputError(f"{reference}: gave no calls; expected inputs for {_names(inputs)}.")
    return calls


def _arrays(item: Any) -> Feeds:
    return tuple(np.asarray(array) for array in ([item] if hasattr(item, "shape") else item))


def _by_name(arrays: Mapping[str, Array], inputs: Sequence[Declared], place: str) -> Feeds:
    """Arrays in the model's order; one array under any name serves a model with one input."""
    names = [entry.name for entry in inputs]
    if len(names) == len(arrays) == 1:
        return tuple(arrays.values())
    if set(arrays) != set(names):
        raise ShapeMismatch(
            f"{place}: holds {', '.join(sorted(arrays)) or 'nothing'}; the model takes "
            f"{', '.join(names)}. Name the arrays after the model's inputs."
        )
    return tuple(arrays[name] for name in names)


def _check(call: Feeds, inputs: Sequence[Declared], place: str, *, whole: bool) -> None:
    if len(call) != len(inputs):
        raise ShapeMismatch(
            f"{place}: {len(call)} arrays; the model takes {len(inputs)}: {_names(inputs)}."
        )
    for array, entry in zip(call, inputs, strict=True):
        if array.dtype != entry.dtype or not _fits(array.shape, entry.shape, whole):
            raise ShapeMismatch(
                f"{place}: input '{entry.name}' is {array.dtype} {list(array.shape)}; the model "
                f"takes {entry.dtype} {_shown(entry.shape)}."
            )
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            wrong = int((~np.isfinite(array)).sum())
            raise InputError(
                f"{place}: input '{entry.name}' holds {wrong} values that are NaN or infinite, of "
                f"{array.size:,}; leave those samples out."
            )


def _fits(found: tuple[int, ...], declared: tuple[int | None, ...], whole: bool) -> bool:
    """Whether sizes agree wherever they are declared; the first one where calls stay whole."""
    if len(found) != len(declared):
        return False
    return all(
        want in (None, size) or (place == 0 and not whole)
        for place, (size, want) in enumerate(zip(found, declared, strict=True))
    )


def _shown(shape: tuple[int | None, ...]) -> str:
    return f"[{', '.join('?' if size is None else str(size) for size in shape)}]"


def _names(inputs: Sequence[Declared]) -> str:
    return ", ".join(entry.name for entry in inputs)

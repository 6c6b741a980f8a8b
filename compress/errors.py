"""Everything that `compress` raises on purpose, and the exit code that goes with it.

    CompressError
    ├── InputError              2   wrong use or bad input: the caller can mend it
    │   ├── UnknownName             a name that is not in a registry
    │   ├── RecipeError             all errors of a recipe at once
    │   ├── ArtifactError           an artifact or card that is missing, corrupt or does not fit
    │   ├── ModelFileError          an ONNX file that does not load or does not fit
    │   ├── ShapeMismatch           two models, or a model and its data, that do not fit each other
    │   └── DeviceUnavailable       a device that this machine does not have
    ├── OutputError             2   the output folder cannot be written
    ├── NoEffect                1   a stage that changed nothing
    ├── TrainingDiverged        1   the loss is no longer a number
    ├── ExportMismatch          1   the exported model does not compute what torch computes
    └── WorkerFailed            1   a measuring process died or hung

A message says what was found, what was expected, where, and what to do, in one line.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class CompressError(Exception):
    """Base of all errors raised on purpose; the command line prints it as one line."""

    exit_code = 1


class InputError(CompressError):
    """Wrong use or bad input."""

    exit_code = 2


class UnknownName(InputError):
    """A name that no registry knows.

    Args:
        kind: what was looked for, such as "task".
        name: what was given.
        known: the names that exist.
        place: where the name stood, such as "recipes/cnn.yaml: stages[2]".
    """

    def __init__(self, kind: str, name: object, known: Iterable[str], place: str = "") -> None:
        names = sorted(known)
        prefix = f"{place}: " if place else ""
        hint = suggest(str(name), names)
        super().__init__(f"{prefix}No {kind} named '{name}'. Known: {', '.join(names)}.{hint}")


class RecipeError(InputError):
    """Every error of one recipe.

    Attributes:
        errors: one line each, with the place inside the recipe.
    """

    def __init__(self, source: str, errors: list[str]) -> None:
        # What stands in a file may hold line ends of its own.
        self.errors = [" ".join(error.splitlines()) for error in errors]
        super().__init__("\n".join(f"{source}: {error}" for error in self.errors))


class ArtifactError(InputError):
    """An artifact folder or card that is missing, corrupt or does not fit."""


class ModelFileError(InputError):
    """An ONNX file that does not load or does not fit."""


class ShapeMismatch(InputError):
    """Two models, or a model and its data, that do not fit each other."""


class DeviceUnavailable(InputError):
    """A device was asked for that this machine does not have."""


class OutputError(CompressError):
    """The output folder cannot be written: read-only, full, or in the way."""

    exit_code = 2


class NoEffect(CompressError):
    """A stage that changed nothing; never reported as a success."""


class TrainingDiverged(CompressError):
    """The loss is no longer a number."""


class ExportMismatch(CompressError):
    """The exported model does not compute what the torch model computes."""


class WorkerFailed(CompressError):
    """A measuring process died or hung."""


def suggest(name: str, known: Iterable[str]) -> str:
    """` Did you mean 'x'?` for the nearest known name, or an empty string."""
    near = difflib.get_close_matches(name, list(known), n=1, cutoff=0.6)
    return f" Did you mean '{near[0]}'?" if near else ""


def first_line(error: BaseException) -> str:
    """What an error says, in one line; its type where it says nothing."""
    text = str(error).strip()
    return text.splitlines()[0] if text else type(error).__name__

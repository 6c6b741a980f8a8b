"""What a data reference names. Free of torch until a task is loaded."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import TYPE_CHECKING

from compress.errors import InputError, UnknownName
from compress.named_object import load_named

if TYPE_CHECKING:
    from compress.data.task import Task

#: Name to the module that loads it and one line about it.
TASKS: dict[str, tuple[str, str]] = {
    "mnist": (
        "compress.data.mnist",
        "5,000 handwritten digits, 28 × 28, ten classes; 3,000 / 500 / 1,500; accuracy",
    ),
    "spoken-digits": (
        "compress.data.spoken_digits",
        "3,000 spoken digits, 6–92 frames of 13 MFCCs, ten classes; 1,800 / 300 / 900; accuracy",
    ),
    "reviews": (
        "compress.data.reviews",
        "17,363 Chinese reviews, two classes; 12,501 / 1,389 / 3,473; accuracy",
    ),
    "kjv": (
        "compress.data.kjv",
        "King James Bible, the next character, 128 a window; 29,312 / 1,664 / 1,664; "
        "bits per character",
    ),
    "co2": (
        "compress.data.co2",
        "weekly CO2 at Mauna Loa, 26 weeks ahead; 1,470 / 99 / 328 windows; mean squared error",
    ),
}


def check_task(name: str) -> None:
    """Raise UnknownName, or InputError for a factory that is not of the form `module:function`."""
    if ":" not in name and name not in TASKS:
        raise UnknownName("task", name, TASKS)


def data_is_there(name: str) -> bool:
    """Whether the data of a key of `TASKS` is installed; loads torch."""
    try:
        source: Path = importlib.import_module(TASKS[name][0]).source()
    except InputError:
        return False
    return source.exists()


def load_task(name: str) -> Task:
    """The task that a data reference stands for.

    Args:
        name: a key of `TASKS`, or `package.module:factory` or `file.py:factory` that gives a
            `Task`.

    Raises:
        UnknownName: no such task.
        InputError: its data is not there, or the factory fails or gives something else.
    """
    check_task(name)
    if ":" not in name:
        loaded: Task = importlib.import_module(TASKS[name][0]).load()
        return loaded
    from compress.data.task import Task

    try:
        task = load_named(name)()
    except Exception as error:
        raise InputError(f"data '{name}': {type(error).__name__}: {error}") from error
    if not isinstance(task, Task):
        raise InputError(f"data '{name}' gave a {type(task).__name__}; expected a Task.")
    return task

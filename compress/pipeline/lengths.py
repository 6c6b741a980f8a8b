"""How long made-up inputs are, and what is said of it: models differ by length as by batch size."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from compress.errors import InputError
from compress.export.graph import open_dimensions
from compress.export.loading import load_graph


def check_length(files: Mapping[str, Path], length: object, data: str | None) -> None:
    """Refuse a length that would change nothing, before anything is measured.

    Args:
        files: name to ONNX file; what is no file is left to others.
        length: None where none was asked for.
        data: task that gives the samples; None without one.

    Raises:
        InputError: with data, or where a file leaves no dimension open behind the batch.
    """
    if length is None:
        return
    if data is not None:
        raise InputError(
            f"length: the samples of '{data}' have lengths of their own; leave out one of the two."
        )
    for name, file in files.items():
        if file.is_file() and not open_dimensions(load_graph(file)):
            raise InputError(
                f"length: {name} leaves no dimension open behind the batch, so that its time would "
                "be the same at every length; leave out length, or this model."
            )


def told_length(files: Iterable[Path], lengths: Iterable[int | None]) -> list[str]:
    """One sentence on what stands for the open dimensions; none where there are none."""
    found = [open_dimensions(load_graph(file)) for file in files if file.is_file()]
    names = dict.fromkeys(name for each in found for name in each)
    if not names:
        return []
    known = [str(length) for length in lengths if length is not None]
    if not known:
        return [
            f"Open dimensions ({', '.join(names)}) were 1, which makes a sequence one step long; "
            "name a task, or set `length`."
        ]
    return [f"Open dimensions ({', '.join(names)}) were {', '.join(known)}."]

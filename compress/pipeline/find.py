"""Which model a path means."""

from __future__ import annotations

from pathlib import Path

from compress.artifact import CARD, Artifact, load_artifact, wrap_onnx
from compress.errors import InputError
from compress.report.schema import load_report

_REPORT = "report.json"


def nothing_there(path: Path) -> bool:
    """Whether a path leads nowhere, or to an empty folder, as a cache without content leaves it."""
    return not path.exists() or (path.is_dir() and not any(path.iterdir()))


def find_model(path: Path) -> Artifact:
    """The model that a path means: a file, an artifact, or the final one of a run.

    Raises:
        InputError: there is none.
    """
    folder = path.parent if path.name == _REPORT else path
    if path.suffix == ".onnx":
        return wrap_onnx(path)
    if (folder / CARD).is_file() or not (folder / _REPORT).is_file():
        if not path.exists():
            raise InputError(
                f"{path}: no such model. On a first run there is nothing to compare with: store "
                "the candidate as the baseline of the next one; `--missing-baseline pass` lets "
                "a check pass without."
            )
        return load_artifact(folder)
    report = load_report(folder / _REPORT)
    arm = report.arm(report.final or report.baseline)
    file = folder / arm.file
    if not file.is_file():
        raise InputError(
            f"{folder / _REPORT}: its model {arm.file} is not there. Latencies stored in a report "
            "are of another moment or machine and are not compared: keep the model beside it."
        )
    return load_artifact(file.parent) if (file.parent / CARD).is_file() else wrap_onnx(file)

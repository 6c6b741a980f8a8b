"""Options that several commands share, and what they mean."""

from __future__ import annotations

from collections.abc import Iterable
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer


class Device(StrEnum):
    """Where models run."""

    cpu = "cpu"
    cuda = "cuda"


DeviceOption = Annotated[Device, typer.Option(help="Where models are trained and run.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print the result as JSON, for machines.")]
SeedOption = Annotated[
    int, typer.Option(min=0, help="Seed of initialisation, order, augmentation.")
]
OutOption = Annotated[Path | None, typer.Option(help="Folder of the result.")]
DataOption = Annotated[
    str | None, typer.Option(help="Task, as in `compress list data`; a model's own if left out.")
]
SettingsArgument = Annotated[
    list[str] | None,
    typer.Argument(metavar="[KEY=VALUE]...", help="Settings of the stage, as in a recipe."),
]


def paths_and_settings(words: Iterable[str]) -> tuple[list[Path], dict[str, Any]]:
    """Arguments that name files, and those of `key=value`; what is there is a file in any case.

    Raises:
        InputError: a value is not YAML.
    """
    from compress.recipe.overrides import settings_from_pairs

    given = list(words)
    paths = [word for word in given if "=" not in word or Path(word).exists()]
    settings = settings_from_pairs([word for word in given if word not in paths])
    return list(map(Path, paths)), settings


def check_device(device: Device) -> None:
    """Raise DeviceUnavailable before any work where torch or onnxruntime cannot use the device."""
    if device is Device.cpu:
        return
    import torch

    from compress.errors import DeviceUnavailable
    from compress.runtime.onnxruntime import check_device as check_runtime

    if not torch.cuda.is_available():
        raise DeviceUnavailable(
            f"device '{device}': torch {torch.__version__} finds no CUDA device here; "
            "use --device cpu."
        )
    check_runtime(device)

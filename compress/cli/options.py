"""Options that several commands share, and what they mean."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

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

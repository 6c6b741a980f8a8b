"""Options that several commands share, and what they mean."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from compress.errors import InputError


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


def parse_settings(pairs: list[str] | None) -> dict[str, Any]:
    """`key=value` arguments as settings; values are read as YAML, dots make nested mappings.

    Raises:
        InputError: an argument without an equals sign.
    """
    import yaml

    settings: dict[str, Any] = {}
    for pair in pairs or []:
        path, equals, raw = pair.partition("=")
        if not equals or not path:
            raise InputError(f"'{pair}': expected key=value, such as epochs=5.")
        inner, keys = settings, path.split(".")
        for key in keys[:-1]:
            inner = inner.setdefault(key, {})
        try:
            inner[keys[-1]] = yaml.safe_load(raw)
        except yaml.YAMLError:
            raise InputError(f"'{pair}': the value is not YAML.") from None
    return settings


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

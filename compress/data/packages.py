"""Data files that installed packages carry: where they are, and what is said of bad ones."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

from compress.errors import InputError


def package_file(task: str, package: str, module: str, *parts: str) -> Path:
    """Path of a data file of an installed package, found without importing the package.

    Args:
        task: that needs the data.
        package: its name for pip.
        module: its top-level module; to look up a dotted name would import what is above it.
        parts: the path below the module's folder.

    Raises:
        InputError: the package is not installed.
    """
    found = find_spec(module)
    if found is None or found.origin is None:  # without origin it is any folder of that name
        raise InputError(
            f"task '{task}': its data comes with the package {package}, which is not installed; "
            "pip install 'compress-kit[reference]'."
        )
    return Path(found.origin).parent.joinpath(*parts)


def unreadable(task: str, package: str, path: Path, reason: object) -> InputError:
    """What to raise for a package's file that is gone, damaged or laid out in another way."""
    return InputError(
        f"task '{task}': {path.name} of {package} cannot be read ({reason}); "
        f"pip install --force-reinstall {package}."
    )

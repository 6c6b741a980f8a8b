"""What the user names in Python: `package.module:name`, or `file.py:name`."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from pathlib import Path
from typing import Any


def load_named(reference: str) -> Any:
    """The object that a reference names.

    Raises:
        Exception: whatever importing the module raises; FileNotFoundError where there is no such
            file, AttributeError where the module has no such name.
    """
    home, _, name = reference.rpartition(":")
    module = _import_file(Path(home)) if home.endswith(".py") else importlib.import_module(home)
    return getattr(module, name)


def _import_file(path: Path) -> Any:
    name = f"compress_factory_{path.stem}"  # a file `queue.py` must not replace Python's own
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None or not path.is_file():
        raise FileNotFoundError(f"no file {path}")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module

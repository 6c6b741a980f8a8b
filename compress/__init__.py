"""Compress trained models, prove that they still answer right, and keep them so in CI.

The names below are the public API; everything else may change without notice. Importing the package
imports no framework: torch and onnxruntime come with the first call that needs them.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from compress.artifact import Artifact as Artifact
    from compress.errors import CompressError as CompressError
    from compress.pipeline import run as run
    from compress.recipe import Recipe as Recipe
    from compress.recipe import load_recipe as load_recipe
    from compress.report import Report as Report
    from compress.report import load_report as load_report

__version__ = "0.1.0"

_HOMES = {
    "Artifact": "compress.artifact",
    "CompressError": "compress.errors",
    "Recipe": "compress.recipe",
    "Report": "compress.report",
    "load_recipe": "compress.recipe",
    "load_report": "compress.report",
    "run": "compress.pipeline",
}

__all__ = [
    "Artifact",
    "CompressError",
    "Recipe",
    "Report",
    "__version__",
    "load_recipe",
    "load_report",
    "run",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'compress' has no attribute '{name}'")
    return getattr(importlib.import_module(_HOMES[name]), name)

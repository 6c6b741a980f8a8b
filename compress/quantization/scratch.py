"""Where onnxruntime's quantizers may leave their files."""

from __future__ import annotations

import logging
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def inside_scratch_folder() -> Iterator[Path]:
    """A temporary current folder: onnxruntime's quantizers leave large files where they run."""
    here = Path.cwd()
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        level = logging.root.level
        logging.root.setLevel(logging.ERROR)  # they log to the root logger, as warnings
        try:
            yield Path(folder)
        finally:
            logging.root.setLevel(level)
            os.chdir(here)

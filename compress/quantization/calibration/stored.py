"""Statistics of earlier passes in one file, found again by the model and the samples they are of.

The file is a cache: a damaged, foreign or missing one, or one that cannot be written, costs a pass
and is no error.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

import numpy as np
import onnxruntime

from compress.artifact import digest, writing_file
from compress.errors import InputError, OutputError
from compress.measure.machine import machine
from compress.onnx_files import model_digest
from compress.quantization.calibration.statistics import Statistics, read, write
from compress.runtime.interface import Feeds

#: Name of the file in a folder.
FILE = "calibration.npz"
#: Passes that are kept, the last that were asked for.
_MOST = 8


class Store:
    """Statistics by the digest of all that they follow from.

    Attributes:
        note: why nothing could be read or written; empty where all went well.
    """

    def __init__(self, file: Path, older: Path | None = None) -> None:
        """Read nothing yet.

        Args:
            file: written after each pass, so that an interrupt loses none.
            older: read as well.
        """
        self.file, self._older, self.note = file, older, ""
        self._known: dict[str, Statistics] | None = None

    def find(self, key: str) -> Statistics | None:
        """Statistics of an earlier pass; None where there are none."""
        known = self._read()
        if key not in known:
            return None
        known[key] = known.pop(key)  # the last to be dropped
        return known[key]

    def add(self, key: str, found: Statistics) -> None:
        """Keep statistics, in place of the oldest where there are many."""
        known = self._read()
        known[key] = found
        for old in list(known)[:-_MOST]:
            del known[old]
        self.save(self.file)

    def save(self, path: Path) -> None:
        """Write all that is known to a file, where anything is."""
        if not self._read():
            return
        try:
            with writing_file(path) as scratch:
                write(scratch, self._read())
        except OutputError as error:
            self.note = f"not kept: {error}"

    def _read(self) -> dict[str, Statistics]:
        if self._known is None:
            self._known = {}
            for path in (self._older, self.file):
                try:
                    self._known |= read(path) if path is not None and path.exists() else {}
                except InputError as error:
                    self.note = f"not used: {error}"
        return self._known


def samples_digest(batches: Sequence[Feeds]) -> str:
    """SHA-256 of all arrays, their types and shapes, and how they are cut into batches."""
    found = hashlib.sha256()
    for number, feeds in enumerate(batches):
        for feed in map(np.asarray, feeds):
            found.update(f"{number} {feed.dtype.str} {feed.shape};".encode())
            found.update(np.ascontiguousarray(feed).reshape(-1).view(np.uint8).data)
    return found.hexdigest()


def pass_key(
    source: Path, samples: str, *, channels: Mapping[str, int], kinds: Collection[str]
) -> str:
    """All that statistics follow from; the last bits of a tensor also from what computes it."""
    facts = machine()
    return digest(
        [
            model_digest(source),
            samples,
            sorted(channels.items()),
            sorted(kinds),
            onnxruntime.__version__,
            [facts["architecture"], facts["instruction_sets"]],
        ]
    )

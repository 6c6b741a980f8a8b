"""One calibration for all candidates that start from one file, or from one rewritten from it."""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from compress.export.bodies import has_bodies
from compress.export.loading import load_graph
from compress.progress import Progress, quiet
from compress.quantization.calibration.collecting import CannotRun, collect
from compress.quantization.calibration.observed import (
    STATIC_KINDS,
    tensors_made,
    tensors_needed,
)
from compress.quantization.calibration.statistics import Ranges, Statistics
from compress.quantization.calibration.stored import Store, pass_key, samples_digest
from compress.quantization.config import QuantizeConfig
from compress.runtime.interface import Feeds


class Calibration:
    """Ranges of files on the same samples, each found when it is first asked for."""

    def __init__(
        self,
        samples: Sequence[Feeds],
        config: QuantizeConfig,
        *,
        threads: int = 0,
        progress: Progress = quiet,
        store: Store | None = None,
    ) -> None:
        """Calibrate nothing yet.

        Args:
            samples: batches, each one array for each of the model's inputs.
            config: its `calibration` and `percentile`.
            threads: 0 for all cores.
            store: of earlier passes, which are not repeated; None keeps nothing.
        """
        self._samples, self._config = samples, config
        self._threads, self._progress = threads, progress
        self._store, self._digest = store, ""
        self._samples_seen = self._passes = self._reused = 0
        self._seconds = 0.0
        self._found: dict[Path, Statistics] = {}
        self._ranges: dict[tuple[str, str, float], Ranges] = {}

    def statistics(self, source: Path, rewritten_from: Path | None = None) -> Statistics:
        """What a file's tensors hold.

        Args:
            rewritten_from: a file that computes the same and whose tensors of the same names hold
                the same; it serves where it has all that `source` needs.
        """
        if source not in self._found:
            if rewritten_from and tensors_needed(source) <= tensors_made(rewritten_from):
                return self.statistics(rewritten_from)
            self._found[source] = self.passed(source)
        return self._found[source]

    def passed(
        self,
        source: Path,
        *,
        channels: Mapping[str, int] | None = None,
        kinds: Collection[str] = STATIC_KINDS,
    ) -> Statistics:
        """One pass of the samples through a file, or what an earlier one found; see `collect`."""
        key, found = "", None
        if self._store is not None:
            self._digest = self._digest or samples_digest(self._samples)
            key = pass_key(source, self._digest, channels=channels or {}, kinds=kinds)
            found = self._store.find(key)
        if found is not None:
            self._reused += 1
        else:
            found = self._run(source, channels, kinds)
            if self._store is not None:
                self._store.add(key, found)
        self._samples_seen = found.samples
        return found

    def _run(
        self, source: Path, channels: Mapping[str, int] | None, kinds: Collection[str]
    ) -> Statistics:
        began = time.monotonic()
        run = partial(
            collect,
            source,
            self._samples,
            progress=self._progress,
            channels=channels,
            kinds=kinds,
            threads=self._threads,
        )
        try:
            found = run()
        except CannotRun:  # such as a Scan whose steps give values of another shape each
            if not has_bodies(load_graph(source)):
                raise
            found = run(bodies=False)
        self._passes += 1
        self._seconds += time.monotonic() - began
        return found

    def account(self) -> dict[str, Any]:
        """For a card: how many passes were run and how long, and whether none had to be."""
        if not self._passes + self._reused:
            return {}
        found: dict[str, Any] = {
            "samples": self._samples_seen,
            "reused": not self._passes,
            "passes": self._passes,
            "passes_reused": self._reused,
            "seconds": round(self._seconds, 2),
        }
        note = self._store.note if self._store is not None else ""
        return found | ({"note": note} if note else {})

    def ranges(
        self,
        source: Path,
        rewritten_from: Path | None = None,
        config: QuantizeConfig | None = None,
    ) -> Ranges:
        """The ranges of a file's tensors, see `statistics`.

        Args:
            config: by whose method, instead of the calibration's own.
        """
        found, config = self.statistics(source, rewritten_from), config or self._config
        key = found.source, config.calibration, config.percentile
        if key not in self._ranges:
            self._ranges[key] = found.ranges(config.calibration, percentile=config.percentile)
        return self._ranges[key]

"""One calibration for all candidates that start from one file, or from one rewritten from it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from compress.progress import Progress, quiet
from compress.quantization.calibration.collecting import collect
from compress.quantization.calibration.observed import tensors_made, tensors_needed
from compress.quantization.calibration.statistics import Ranges, Statistics
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
    ) -> None:
        """Calibrate nothing yet.

        Args:
            samples: batches, each one array for each of the model's inputs.
            config: its `calibration` and `percentile`.
            threads: 0 for all cores.
        """
        self._samples, self._config = samples, config
        self._threads, self._progress = threads, progress
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
            self._found[source] = collect(
                source, self._samples, progress=self._progress, threads=self._threads
            )
        return self._found[source]

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

"""Judging any ONNX model on the user's own inputs, by his metric; see also `measure.agreement`."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from compress.data.samples import Array, Samples
from compress.errors import InputError, first_line
from compress.measure.judge import Floats, Part, quality_of
from compress.named_object import load_named
from compress.report.schema import Quality
from compress.runtime.interface import Feeds, Model

#: Takes inputs by name, gives all outputs in the model's order.
Run = Callable[[Mapping[str, Array] | Sequence[Array] | Array], list[Array]]

#: Samples that are answered at once.
CHUNK = 32


class OwnData:
    """What both ways of judging share: samples in three parts, for calls of any size."""

    data: str

    def __init__(self, samples: Samples, seed: int) -> None:
        self.data, self.notes = samples.name, list(samples.notes)
        self.parts = samples.split(seed)

    def calibration(self, count: int, seed: int) -> list[Feeds]:
        """Calls of at most 32 samples of equal shapes."""
        part = self.parts["calibration"]
        order = np.random.default_rng(seed).permutation(len(part))
        drawn = part.subset(order[:count].tolist())
        return [drawn.take(places) for places in drawn.chunks(CHUNK)]

    def sizes(self, wanted: tuple[int, ...]) -> tuple[int, ...]:
        """Those wanted; where samples stand alone, how many a call has."""
        part = self.parts["validation"]
        return wanted if part.batched else (part.rows,)

    def batch(self, size: int) -> Feeds:
        """The samples of median size; where samples stand alone, one call as it is."""
        return self.parts["validation"].typical(size)


class OwnMetric(OwnData):
    """The user's function: it gets `run`, and gives a number, or one for each sample."""

    def __init__(
        self, samples: Samples, reference: str, *, higher_is_better: bool = True, seed: int = 0
    ) -> None:
        """Find the function.

        Args:
            reference: `file.py:function` or `package.module:function`; called with `run`, and with
                `part="validation"` or "test" where it takes a `part`.

        Raises:
            InputError: it cannot be imported or called.
        """
        super().__init__(samples, seed)
        try:
            self._function: Callable[..., Any] = load_named(reference)
            self._by_part = "part" in inspect.signature(self._function).parameters
        except Exception as error:
            raise InputError(f"metric '{reference}': {type(error).__name__}: {error}") from error
        self.reference = reference
        self.metric = reference.rpartition(":")[2]
        self.higher_is_better = higher_is_better
        self.outputs_are_scores = False
        if not self._by_part:
            self.notes.append(
                f"{reference} takes no `part`: the data that the model was chosen by is the data "
                "that it is reported on."
            )

    def scores(self, model: Model, part: Part) -> Floats:
        """What the function gives, (n,); n is 1 for a single number.

        Raises:
            InputError: the function fails, or gives what is no number.
        """
        names = self.parts["test"].names

        def run(feeds: Mapping[str, Array] | Sequence[Array] | Array) -> list[Array]:
            if isinstance(feeds, Mapping) and len(feeds) > 1 and set(feeds) != set(names):
                raise ValueError(
                    f"run() got {', '.join(feeds)}; the model takes {', '.join(names)}"
                )
            if isinstance(feeds, Mapping):
                feeds = [feeds.get(name, next(iter(feeds.values()))) for name in names]
            arrays = [feeds] if isinstance(feeds, np.ndarray) else feeds
            return model.outputs_of(tuple(np.asarray(array) for array in arrays))

        try:
            found = self._function(run, part=part) if self._by_part else self._function(run)
            values: npt.NDArray[np.float64] = np.atleast_1d(np.asarray(found, dtype=np.float64))
        except Exception as error:
            raise InputError(
                f"metric '{self.reference}': {type(error).__name__}: {first_line(error)}"
            ) from error
        if values.ndim != 1 or not len(values) or not np.isfinite(values).all():
            raise InputError(
                f"metric '{self.reference}' gave {np.array2string(values, threshold=5)}; expected "
                "a number, or one for each sample."
            )
        return values

    def judged(self, model: Model, part: Part) -> tuple[Quality, Floats]:
        scores = self.scores(model, part)
        return quality_of(self, scores), scores

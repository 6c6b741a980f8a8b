"""The fewest layers in fp32 that keep the budget, found in at most 2 + log₂(layers) evaluations.

Layers are left in fp32 in the order of their sensitivity, the most sensitive first, so that only
their number has to be found: by bisection, as the quality lost falls along that order. Where to
look first comes from the sensitivities: rounding errors of different layers are independent, so
that their squares add up. A guess is taken only where the bound holds whatever comes of it.

What just keeps the budget on the data for choosing may exceed it on other data: the search can aim
lower, and gives the fastest that it met within the budget beside.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from compress.errors import InputError, ModelFileError
from compress.export.loading import load_graph
from compress.progress import Progress, quiet
from compress.quantization.layers import Groups, by_operator, check_names
from compress.quantization.rewriting.files import remove
from compress.quantization.sensitivity import Make, Probe, Samples, quantized_groups, size
from compress.report.sensitivity_schema import Sensitivity

#: Quality lost on the data for choosing; one call is one evaluation.
Evaluate = Callable[[Path], float]
Stop = Callable[[], bool]


@dataclass(frozen=True)
class Evaluation:
    """One model that was built and evaluated.

    Attributes:
        fp32: how many groups it leaves in fp32.
        drop: quality lost; None where it could not be told.
        failure: why not, in one line.
    """

    fp32: int
    drop: float | None
    failure: str = ""


@dataclass(frozen=True)
class Kept:
    """A model within the budget.

    Attributes:
        path, fp32, drop: as of `Mixed`.
    """

    path: Path
    fp32: frozenset[str]
    drop: float


@dataclass(frozen=True)
class Mixed:
    """What came of the search.

    Attributes:
        path: the model; None where none was found within the budget.
        fp32: names of the nodes that it leaves in fp32.
        drop: its quality lost, as it was evaluated.
        evaluations: all of them, in order.
        sensitivities: of all groups, the largest first, with what became of each; empty where the
            model with everything in int8 is that.
        kinds: the same of all convolutions, all products and all recurrent layers.
        stopped: whether it was interrupted; `path` is then the best so far.
        faster: with the fewest nodes in fp32 that keeps the budget, where that is another one.
    """

    path: Path | None
    fp32: frozenset[str]
    drop: float | None
    evaluations: tuple[Evaluation, ...]
    sensitivities: list[Sensitivity]
    kinds: list[Sensitivity]
    stopped: bool = False
    faster: Kept | None = None


class _Stopped(Exception):
    """Raised where `stop` says so."""


def mixed_precision(
    source: Path,
    make: Make,
    evaluate: Evaluate,
    groups: Groups,
    samples: Samples,
    max_drop: float,
    folder: Path,
    progress: Progress = quiet,
    *,
    aim: float | None = None,
    scores: bool = False,
    threads: int = 1,
    stop: Stop = lambda: False,
) -> Mixed:
    """The quantized model that leaves the fewest groups in fp32 and loses no more than allowed.

    An interrupt from the keyboard ends the search with the best model so far; so does `stop`.

    Args:
        source: ONNX file of the fp32 model that `make` starts from.
        make, evaluate: an error counts as a model over the budget, save that of wrong input. A
            file that does not load is a model's.
        groups: names of nodes that stay fp32 together, such as `layers` gives. A group that
            `make` leaves in fp32 anyway is left out.
        samples: batches on which sensitivities are measured, see `sensitivities`.
        max_drop: in the unit of `evaluate`.
        folder: where the model is left.
        progress: called with "sensitivity" and with "mixed precision".
        aim: what a model should lose at most, which is looked for; the budget where left out.
        scores: whether the outputs are scores of classes.
        threads: of the runtime, for the sensitivities.
        stop: asked before each step.

    Raises:
        ModelFileError: a node of the groups is not there, or has no name of its own.
        InputError: there are no samples.
    """
    check_names(load_graph(source), groups, source)
    aim = max_drop if aim is None else aim
    search = _Search(make, evaluate, max_drop, aim, folder, progress, stop, groups)
    stopped = False
    try:
        if not search.keeps(0) and search.evaluations[0].drop is not None:
            _rank(search, source, samples, scores=scores, threads=threads)
            _bisect(search)
    except (KeyboardInterrupt, _Stopped):
        stopped = True
    return search.result(stopped=stopped)


@dataclass
class _Search:
    """What is known so far.

    Attributes:
        order: groups, the most sensitive first.
        best: how many of them the model leaves in fp32 that loses no more than is aimed at, the
            fewest; None where there is none.
        fewest: the same of the one that keeps the budget.
    """

    make: Make
    evaluate: Evaluate
    max_drop: float
    aim: float
    folder: Path
    progress: Progress
    stop: Stop
    groups: Groups
    order: list[Sensitivity] = field(default_factory=list)
    kinds: list[Sensitivity] = field(default_factory=list)
    evaluations: list[Evaluation] = field(default_factory=list)
    best: int | None = None
    fewest: int | None = None

    def check(self) -> None:
        """Raise _Stopped where the search is to end."""
        if self.stop():
            raise _Stopped

    def path(self, count: int) -> Path:
        return self.folder / f"mixed-{count}.onnx"

    def fp32(self, count: int) -> frozenset[str]:
        """The nodes of the most sensitive groups, so many of them."""
        return frozenset[str]().union(*(self.groups[entry.name] for entry in self.order[:count]))

    def keeps(self, count: int) -> bool:
        """Build and evaluate a model; whether it loses no more than is aimed at."""
        self.check()
        entry = self._evaluation(count)
        self.evaluations.append(entry)
        self.progress("mixed precision", len(self.evaluations), 1 + len(self.groups).bit_length())
        drop = math.inf if entry.drop is None else entry.drop - 1e-9
        before = {self.best, self.fewest}
        if drop <= self.aim and (self.best is None or count < self.best):
            self.best = count
        if drop <= self.max_drop and (self.fewest is None or count < self.fewest):
            self.fewest = count
        for other in (before | {count}) - {self.best, self.fewest, None}:
            if other:  # the one with everything in int8 is still read
                self._remove(other)
        return drop <= self.aim

    def _evaluation(self, count: int) -> Evaluation:
        path = self.path(count)
        try:
            self.make(self.fp32(count), path)
            return Evaluation(count, self.evaluate(path))
        except Exception as error:  # onnxruntime's quantizers raise whatever they meet
            if isinstance(error, InputError) and not isinstance(error, ModelFileError):
                raise
            return Evaluation(count, None, f"{type(error).__name__}: {error}".splitlines()[0])
        except BaseException:
            remove(path)  # evaluated it was not
            raise

    def _remove(self, count: int) -> None:
        remove(self.path(count))

    def result(self, *, stopped: bool) -> Mixed:
        best, fewest = self.fewest if self.best is None else self.best, self.fewest
        if 0 not in (best, fewest):
            self._remove(0)
        left = {entry.name for entry in self.order[: best or 0]}
        drops = {entry.fp32: entry.drop or 0.0 for entry in self.evaluations}
        faster = None
        if fewest is not None and fewest != best:
            faster = Kept(self.path(fewest), self.fp32(fewest), drops[fewest])
        return Mixed(
            path=None if best is None else self.path(best),
            fp32=self.fp32(best or 0),
            drop=None if best is None else drops[best],
            evaluations=tuple(self.evaluations),
            sensitivities=[
                entry.model_copy(update={"fp32": entry.name in left}) for entry in self.order
            ],
            kinds=self.kinds,
            stopped=stopped,
            faster=faster,
        )


def _rank(search: _Search, source: Path, samples: Samples, *, scores: bool, threads: int) -> None:
    """First by kind of operator, then group by group."""
    int8 = search.path(0)
    search.groups = quantized_groups(source, int8, search.groups)
    if not search.groups:
        return
    probe = Probe(
        *(source, search.make, int8, search.groups, samples), scores=scores, threads=threads
    )
    every = frozenset[str]().union(*search.groups.values())
    kinds = {name: nodes & every for name, nodes in by_operator(load_graph(source)).items()}
    search.kinds = probe.ranking(quantized_groups(source, int8, kinds), stop=search.check)
    search.order = probe.ranking(search.groups, search.progress, search.check)


def _bisect(search: _Search) -> None:
    """Find the least number of groups in fp32; all of them would be the fp32 model."""
    errors = remaining_errors([size(entry) for entry in search.order])
    low, high, left = 0, len(search.order), len(search.order).bit_length()
    drop, back = search.evaluations[0].drop, 1
    while high - low > 1:
        guess = predict(errors, low, search.aim / drop if drop else 0.0)
        if guess is None:
            guess = (low + high) // 2
        elif guess >= high:  # where it was right, a few steps down tell that there is no better
            guess, back = high - back, 2 * back
        count = within_bound(guess, low, high, left)
        left -= 1
        if search.keeps(count):
            high = count
        else:
            low, drop = count, search.evaluations[-1].drop


def remaining_errors(divergences: Sequence[float]) -> list[float]:
    """The error expected with the first 0, 1, 2 … layers in fp32: the root of the sum of squares.

    Args:
        divergences: of each layer alone, the largest first.
    """
    return [
        math.sqrt(sum(value**2 for value in divergences[at:])) for at in range(len(divergences))
    ]


def predict(errors: Sequence[float], low: int, share: float) -> int | None:
    """The least number of layers in fp32 that should keep the budget; None where none should.

    Args:
        errors: see `remaining_errors`.
        low: a number that does not keep it.
        share: of the quality lost at `low`, how much is allowed. Quality falls with the error.
    """
    target = errors[low] * share if math.isfinite(errors[low]) else sys.float_info.max
    return next((at for at in range(low + 1, len(errors)) if errors[at] <= target), None)


def within_bound(guess: int, low: int, high: int, left: int) -> int:
    """The number nearest to the guess after which `left - 1` further evaluations are enough.

    So many tell 2^(left - 1) numbers apart, and either side may have to be searched.
    """
    most = 1 << (left - 1)
    return min(max(guess, low + 1, high - most), high - 1, low + most)

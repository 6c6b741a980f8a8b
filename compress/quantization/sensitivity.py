"""Which layers lose most in int8: how far the outputs are off when only one of them is quantized.

Where the quantizer writes QDQ, its one file for the whole model is enough: all layers are tried in
one session, see `compress.quantization.switches`. Elsewhere each group is built and loaded.

The error of a layer's own output would take a single pass, but its order is worse: it does not know
what becomes of the error (`benchmarks/mixed_precision.py` has how many more layers stay in fp32).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import onnx

from compress.errors import InputError
from compress.export.bodies import nodes_everywhere
from compress.export.loading import load_graph
from compress.progress import Progress, quiet
from compress.quantization.divergence import relative_error, score_divergence
from compress.quantization.layers import Groups, check_names, int8_layers
from compress.quantization.rewriting.files import remove, save
from compress.quantization.switches import with_switches
from compress.report.sensitivity_schema import Sensitivity
from compress.runtime.onnxruntime import Array, Feeds, Session, fill

#: Makes a quantized file in which these nodes, by name, stay fp32.
Make = Callable[[frozenset[str], Path], object]
Samples = Feeds | Sequence[Feeds]

#: Relative error at which the graph with switches, all off, counts as the fp32 model.
_SAME = 1e-3


def sensitivities(
    source: Path,
    make: Make,
    groups: Groups,
    samples: Samples,
    folder: Path,
    progress: Progress = quiet,
    *,
    scores: bool = False,
    threads: int = 1,
) -> list[Sensitivity]:
    """The divergence of the outputs when only one group is quantized, largest first.

    Args:
        source: ONNX file of the fp32 model that `make` starts from.
        groups: names of nodes, which have to be in the source; see `layers` and `by_operator`.
            A group that `make` leaves in fp32 anyway is left out.
        samples: batches that are run once for each group; a few will do.
        folder: for the files that this takes; they are removed.
        scores: whether the outputs are scores of classes, which the KL divergence compares; the
            relative error of all outputs else, see `compress.quantization.divergence`.
        threads: of the runtime.

    Raises:
        ModelFileError: a node of the groups is not there, or has no name of its own.
        InputError: there are no samples.
    """
    int8 = folder / "all-int8.onnx"
    check_names(load_graph(source), groups, source)
    make(frozenset(), int8)
    try:
        groups = quantized_groups(source, int8, groups)
        probe = Probe(source, make, int8, groups, samples, scores=scores, threads=threads)
        return probe.ranking(groups, progress)
    finally:
        remove(int8)


def quantized_groups(source: Path, int8: Path, groups: Groups) -> dict[str, frozenset[str]]:
    """The groups of which a layer is int8 in the quantized file."""
    became = int8_layers(load_graph(source), load_graph(int8))
    return {name: nodes for name, nodes in groups.items() if nodes & became}


class Probe:
    """Runs a model with any of its layers in int8, on the same few batches."""

    def __init__(
        self,
        source: Path,
        make: Make,
        int8: Path,
        groups: Groups,
        samples: Samples,
        *,
        scores: bool,
        threads: int,
    ) -> None:
        """Load what it takes.

        Args:
            int8: what `make` wrote with nothing left in fp32; files are put beside it.
            groups, samples, scores, threads: see `sensitivities`.

        Raises:
            InputError: there are no samples.
        """
        session = Session(source, threads=threads)
        self._threads = threads
        self._batches = _batches(samples, session)
        self._expected = [session.every_output(batch) for batch in self._batches]
        del session  # what follows takes as much memory
        self._make, self._beside = make, int8
        self._every = frozenset[str]().union(*groups.values())
        self._int8 = int8_layers(load_graph(source), load_graph(int8)) & self._every
        nodes = nodes_everywhere(load_graph(source).graph)
        self._kinds = {node.name: node.op_type for node in nodes}
        self._scores = scores
        self._order: list[str] = []
        self._switched = self._with_switches(source, int8)

    def ranking(
        self, groups: Groups, progress: Progress = quiet, stop: Callable[[], None] = lambda: None
    ) -> list[Sensitivity]:
        """All groups, each quantized alone, the largest divergence first.

        Args:
            stop: called before each group; raises to end it.
        """
        found = []
        for done, (name, nodes) in enumerate(groups.items(), 1):
            stop()
            found.append(self._sensitivity(name, nodes))
            progress("sensitivity", done, len(groups))
        return sorted(found, key=lambda entry: -size(entry))

    def _sensitivity(self, name: str, nodes: frozenset[str]) -> Sensitivity:
        divergence = self.divergence(nodes)
        return Sensitivity(
            name=name,
            operator=", ".join(sorted({self._kinds[node] for node in nodes & self._int8})),
            nodes=len(nodes & self._int8),
            divergence=divergence if math.isfinite(divergence) else None,
            measure="KL divergence" if self._scores else "relative error",
        )

    def divergence(self, nodes: frozenset[str]) -> float:
        """Of the outputs with only these nodes in int8 from those in fp32."""
        measure = score_divergence if self._scores else relative_error
        return measure(self._expected, self._outputs(nodes))

    def _outputs(self, nodes: frozenset[str]) -> list[list[Array]]:
        if self._switched is not None:
            switches = np.array([name in nodes for name in self._order])
            return [self._switched.every_output((*batch, switches)) for batch in self._batches]
        path = self._beside.with_name(f"{self._beside.stem}-alone.onnx")
        try:
            self._make(self._every - nodes, path)
            session = Session(path, threads=self._threads)
            return [session.every_output(batch) for batch in self._batches]
        finally:
            remove(path)

    def _with_switches(self, source: Path, int8: Path) -> Session | None:
        """The session that switches, where the file allows it and it computes what it should."""
        found = with_switches(onnx.load(source), onnx.load(int8), self._int8)
        if found is None:
            return None
        model, self._order = found
        path = int8.with_name(f"{int8.stem}-switches.onnx")
        try:
            save(model, path)
            del model, found
            session = Session(path, threads=self._threads)
        except Exception:  # a graph that onnxruntime does not take
            return None
        finally:
            remove(path)
        off = np.zeros(len(self._order), dtype=bool)
        outputs = [session.every_output((*batch, off)) for batch in self._batches]
        return session if relative_error(self._expected, outputs) <= _SAME else None


def size(entry: Sensitivity) -> float:
    """The divergence as a number: infinite where no numbers came out."""
    return math.inf if entry.divergence is None else entry.divergence


def _batches(samples: Samples, session: Session) -> list[Feeds]:
    """Batches as the model takes them: of the size that it was written for, where there is one."""
    given = [samples] if isinstance(samples, tuple) else list(samples)
    if not given or any(part.ndim and not len(part) for batch in given for part in batch):
        raise InputError("sensitivity: no samples; expected at least one batch of one sample.")
    firsts = {entry.shape[0] if entry.shape else None for entry in session.inputs}
    size = firsts.pop() if len(firsts) == 1 else None
    if not isinstance(size, int):  # any, or the first axes of the inputs are no batch
        return given
    return [
        tuple(fill(part[at : at + size], size) for part in batch)
        for batch in given
        for at in range(0, len(batch[0]), size)
    ]

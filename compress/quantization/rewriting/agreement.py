"""What a model computes on samples, all outputs of it, and whether a rewritten file still does."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from onnx import ModelProto, TensorProto, numpy_helper

from compress.errors import ModelFileError, first_line
from compress.export.bodies import graphs
from compress.quantization.rewriting.files import load, save
from compress.quantization.rewriting.widening import computes_in_fp16
from compress.runtime.isolated import Call, Crashed, here
from compress.runtime.onnxruntime import Array, Feeds, Session, fill

#: Allowed difference of an output, relative to its largest number.
TOLERANCE = 1e-4
#: The largest difference that may be put down to rounding.
MOST = 5e-3
#: The same where the original computes in fp16: eight roundings of half a step, 2^-11.
#: In fp32 the same weights give up to 1e-3 in 29 networks, from convolutions to Transformers.
FP16_ROUNDINGS = 8 * 2.0**-11
#: Tried one after the other for dimensions of unknown size, where there are no samples.
_SIZES = (8, 1, 32, 64, 224)
_BATCH = 2


class Disagreement(Exception):
    """A file does not load, or does not compute what it has to; says why."""


@dataclass(frozen=True)
class Reference:
    """What has to come out.

    Attributes:
        source: the original.
        feeds: one array for each input.
        outputs: every output of the original, in its order.
        call: where onnxruntime runs.
    """

    source: Path
    names: tuple[str, ...]
    feeds: Feeds
    outputs: tuple[Any, ...]
    call: Call = here

    def difference(self, file: Path) -> float:
        """The largest difference of any output, relative to that output's largest number.

        Raises:
            Disagreement: the file does not load or run, or the difference exceeds `TOLERANCE`, a
                step between two numbers of the output's type, and what roundings of its own make
                of the original, see `sensitivity`.
        """
        try:
            found = self.call(_every_output, file, self.feeds)
        except Exception as error:  # onnxruntime's own classes share no public base
            # What `Session` says begins with the name of a file that nobody knows.
            reason = first_line(error.__cause__ or error)
            raise Disagreement(f"does not run any more: {reason}") from error
        largest = 0.0
        for name, want, got in zip(self.names, self.outputs, found, strict=True):
            difference = relative_difference(want, got)
            least = max(TOLERANCE, _step(want))
            if not difference <= least and not difference <= self.sensitivity:
                raise Disagreement(
                    f"output '{name}' differs by {difference:.2g} of its largest number; "
                    f"allowed is {max(least, self.sensitivity):.2g}"
                )
            largest = max(largest, difference)
        return largest

    @cached_property
    def sensitivity(self) -> float:
        """How far the original's outputs move when every weight moves to the next number of fp32.

        A graph that differs from another one in the order of its sums differs by such roundings.
        Some networks answer to them a thousand times as much as others: variances as the difference
        of two means of squares, divided by. At most `MOST`; at least `FP16_ROUNDINGS` where the
        original computes in fp16. Weights of fp16 do not move, since constants that only stand
        beside them, such as the scales of a Resize or a mask, would take another meaning.
        """
        least = FP16_ROUNDINGS if computes_in_fp16(load(self.source)) else 0.0
        with tempfile.TemporaryDirectory() as folder:
            moved = Path(folder) / "moved.onnx"
            try:
                save(_moved(load(self.source)), moved)
                found = self.call(_every_output, moved, self.feeds)
            except Exception:  # what cannot be told is no excuse
                return least
        pairs = zip(self.outputs, found, strict=True)
        largest = max((relative_difference(want, got) for want, got in pairs), default=0.0)
        return max(least, min(largest, MOST)) if np.isfinite(largest) else least


def _moved(model: ModelProto) -> ModelProto:
    """Each fp32 weight up or down by the least step that there is."""
    random = np.random.default_rng(0)
    for graph in graphs(model.graph):
        nodes = (node for node in graph.node if node.op_type == "Constant")
        values = (entry.t for node in nodes for entry in node.attribute if entry.name == "value")
        for tensor in (*graph.initializer, *values):
            if tensor.data_type == TensorProto.FLOAT:
                weight = numpy_helper.to_array(tensor)
                way = random.choice(np.array([-np.inf, np.inf], np.float32), weight.shape)
                moved = np.where(weight == 0, weight, np.nextafter(weight, way))
                tensor.CopyFrom(numpy_helper.from_array(moved, tensor.name))
    return model


def reference(source: Path, samples: Feeds | None, call: Call = here) -> Reference:
    """Run the original.

    Args:
        samples: one array for each input; made up from the declared shapes where None.
        call: where onnxruntime runs, see `compress.runtime.isolated`.

    Raises:
        ModelFileError: onnxruntime cannot load it, or cannot run it on these inputs.
        ShapeMismatch: the samples are not what the model takes.
    """
    try:
        names, feeds, outputs = call(_reference, source, samples)
    except Crashed as crash:
        raise ModelFileError(f"{source}: {crash} as it loads or runs it.") from None
    return Reference(source, names, feeds, outputs, call)


def _every_output(file: Path, feeds: Feeds) -> list[Any]:
    return Session(file, exact=True).every_output(feeds)


def _reference(
    source: Path, samples: Feeds | None
) -> tuple[tuple[str, ...], Feeds, tuple[Any, ...]]:
    session = Session(source, exact=True)
    names = tuple(output.name for output in session.outputs)
    if samples is not None:
        feeds = fitted(session, samples)
        session.check(feeds)
        try:
            return names, feeds, tuple(session.every_output(feeds))
        except Exception as error:
            raise ModelFileError(
                f"{source}: does not run on the samples: {first_line(error)}"
            ) from error
    reason = ""
    for feeds in _guesses(session):
        try:
            return names, feeds, tuple(session.every_output(feeds))
        except Exception as error:  # such as a kernel that is larger than this image
            reason = first_line(error)
    raise ModelFileError(f"{source}: give samples; it does not run on made-up inputs: {reason}")


def fitted(session: Session, samples: Feeds) -> Feeds:
    """The samples with as many rows as the file asks for, where it does."""
    if len(samples) != len(session.inputs):
        return samples  # for `check` to refuse
    rows = [entry.shape[0] if entry.shape else None for entry in session.inputs]
    return tuple(
        fill(feed, size) if isinstance(size, int) and feed.ndim and len(feed) else feed
        for feed, size in zip(samples, rows, strict=True)
    )


def _guesses(session: Session) -> Iterator[Feeds]:
    """Inputs of the declared shapes, with one size after the other for what is not declared."""
    kinds = [feed.dtype for feed in session.example(1)]
    for size in _SIZES:
        random, sizes = np.random.default_rng(0), dict[str, int]()
        feeds = []
        for entry, kind in zip(session.inputs, kinds, strict=True):
            shape = []
            for place, found in enumerate(entry.shape):
                if isinstance(found, int):
                    shape.append(found)
                    continue
                guess = size if place else _BATCH
                shape.append(sizes.setdefault(found, guess) if found else guess)
            values = random.standard_normal(shape) if kind.kind == "f" else np.ones(shape)
            feeds.append(values.astype(kind))
        yield tuple(feeds)


def relative_difference(want: Any, got: Any) -> float:
    """Largest difference relative to the largest number wanted; infinite for what is another thing.

    Sequences and maps are compared part by part, whole numbers and text have to be equal, and NaN
    and infinity have to be in the same places.
    """
    if isinstance(want, dict) and isinstance(got, dict) and want.keys() == got.keys():
        return max((relative_difference(want[key], got[key]) for key in want), default=0.0)
    if isinstance(want, list) and isinstance(got, list) and len(want) == len(got):
        return max((relative_difference(*pair) for pair in zip(want, got, strict=True)), default=0)
    return _of_arrays(np.asarray(want), np.asarray(got))


def _step(want: Any) -> float:
    """What lies between two numbers of an output's type, relative to the lower one, at most.

    Numbers that are next to equal can be rounded to either of two.
    """
    kind = want.dtype if isinstance(want, np.ndarray) else np.dtype(bool)
    return float(np.finfo(kind).eps) if kind.kind == "f" else 0.0


def _of_arrays(want: Array, got: Array) -> float:
    if want.shape != got.shape or want.dtype != got.dtype:
        return np.inf
    if want.dtype.kind != "f":
        return 0.0 if np.array_equal(want, got) else np.inf
    want, got = want.astype(np.float64), got.astype(np.float64)
    finite = np.isfinite(want)
    if not np.array_equal(want[~finite], got[~finite], equal_nan=True):
        return np.inf
    difference = np.abs(want[finite] - got[finite]).max(initial=0.0)
    largest = np.abs(want[finite]).max(initial=0.0)
    return float(difference / largest) if largest else (np.inf if difference else 0.0)

"""One run of a graph: every tensor that is looked at is counted and dropped."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from compress.errors import InputError, first_line
from compress.quantization.calibration.observed import Observed
from compress.quantization.calibration.splitting import Run
from compress.quantization.calibration.tensor import Channels, Counter, NotFiniteError, Part
from compress.runtime.interface import Array


@dataclass(frozen=True)
class Seen:
    """What one run shows.

    Attributes:
        rows: samples of it.
        bytes: of all tensors that were looked at, without inputs.
        parts: by the name of each tensor that was looked at; its values have been counted.
        channels: of those whose channels were asked for.
        broken: names of tensors with NaN or infinity that no layer reads or gives, such as what a
            mask fills in.
    """

    rows: int
    bytes: int
    parts: dict[str, Part]
    channels: dict[str, Channels]
    broken: frozenset[str]


class RunError(Exception):
    """Onnxruntime fails on a run."""


def see(
    source: Path,
    observed: Observed,
    run: Run,
    *,
    counters: Mapping[str, Counter],
    channels: Mapping[str, int],
    number: int,
) -> Seen:
    """Carry out one run; several threads may do so on one session.

    Args:
        source: of the model, for messages.
        counters: by the name of each tensor that is looked at.
        channels: by name, the axis of tensors whose channels are looked at one by one.
        number: of the batch, for messages.

    Raises:
        RunError: onnxruntime fails on it.
        InputError: NaN or infinity in what a layer reads or gives.
    """
    values, needed = _values(observed, run), 0
    parts, found, broken = dict[str, Part](), dict[str, Channels](), set[str]()
    inputs = {entry.name for entry in observed.session.get_inputs()}
    for name in sorted(counters.keys() & values.keys()):
        array = values.pop(name)
        needed += 0 if name in inputs else array.nbytes
        try:
            parts[name] = counters[name].see(array, run.rows, run.filled)
        except NotFiniteError:
            if name not in observed.layered | inputs:
                broken.add(name)
                continue
            raise InputError(
                f"{source}: tensor '{name}' holds NaN or infinity in calibration batch {number}; "
                "check the model on this data in fp32."
            ) from None
        if name in channels:
            found[name] = Channels(channels[name])
            found[name].add(array)
    return Seen(run.rows, needed, parts, found, frozenset(broken))


def _values(observed: Observed, run: Run) -> dict[str, Array]:
    names = [entry.name for entry in observed.session.get_inputs()]
    given = dict(zip(names, run.feeds, strict=True))
    try:
        made = observed.session.run(observed.fetched, given) if observed.fetched else []
    except Exception as error:  # onnxruntime's own classes share no public base
        raise RunError(first_line(error)) from error
    return dict(zip(observed.fetched, made, strict=True)) | given

"""What can be done where static int8 loses too much, the cheapest first.

Better ranges, equalized layers, corrected biases and smoothed activations cost no time in a call.
Where none of that is enough, the layers that lose most stay fp32, as few as the budget allows.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from compress.errors import first_line
from compress.export.graph import load_onnx
from compress.progress import Progress
from compress.quantization.building import Built, finish, make_all
from compress.quantization.layers import layers
from compress.quantization.mixed_precision import Mixed, mixed_precision
from compress.report.sensitivity_schema import Sensitivity

#: Calibration batches on which layers are compared.
_BATCHES = 2


@dataclass(frozen=True)
class Rescued:
    """Further candidates.

    Attributes:
        files, failures: as in `Built`.
        drops: what each of the files loses.
        sensitivity: name of a candidate to what each layer loses, where it was made by that.
    """

    files: dict[str, Path] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)
    drops: dict[str, float] = field(default_factory=dict)
    sensitivity: dict[str, list[Sensitivity]] = field(default_factory=dict)


def rescue(
    built: Built,
    drops: dict[str, float],
    drop_of: Callable[[Path], float],
    max_drop: float,
    *,
    scores: bool,
    progress: Progress,
) -> Rescued:
    """Static candidates that lose less, where all that were built lose more than is allowed.

    Args:
        drops: what each candidate loses.
        drop_of: the same of a file.
        scores: whether the outputs are scores of classes.

    Raises:
        KeyboardInterrupt: while layers were compared.
    """
    candidates = built.candidates
    static = [drops[name] for name in drops if name.startswith("static")]
    if candidates is None or candidates.config.method != "best" or not static:
        return Rescued()
    if min(static) <= max_drop:
        return Rescued()
    folder = candidates.prepared.parent
    files, failures = make_all(candidates.variants(), folder)
    found = dict[str, float]()
    for name, path in list(files.items()):
        try:
            found[name] = drop_of(path)
        except Exception as error:  # a candidate may fail as runtimes do
            failures[name] = f"fails on the data: {first_line(error)}"
            del files[name]
    if any(drop <= max_drop for drop in found.values()):
        return Rescued(files, failures, found)
    mixed = mixed_precision(
        candidates.prepared,
        candidates.part_static,
        drop_of,
        layers(load_onnx(candidates.prepared)),
        candidates.samples[:_BATCHES],
        max_drop,
        folder,
        progress,
        scores=scores,
    )
    if mixed.stopped:
        raise KeyboardInterrupt
    if mixed.path is None or mixed.drop is None:
        failures["static, mixed precision"] = _why_not(mixed)
        return Rescued(files, failures, found)
    finish(mixed.path)
    name = f"static, {len(mixed.fp32)} of {len(mixed.sensitivities)} layers fp32"
    return Rescued(
        files | {name: mixed.path},
        failures,
        found | {name: mixed.drop},
        {name: mixed.sensitivities},
    )


def _why_not(mixed: Mixed) -> str:
    least = [entry.drop for entry in mixed.evaluations if entry.drop is not None]
    best = f"; the least drop was {min(least):.4f}" if least else ""
    return (
        f"no part of the layers could be int8 within the budget, in {len(mixed.evaluations)} "
        f"evaluations{best}"
    )

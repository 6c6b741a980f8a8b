"""What can be done where static int8 loses too much, the cheapest first.

Better ranges, equalized layers, corrected biases and smoothed activations cost no time in a call.
Where none of that is enough, the layers that lose most stay fp32, as few as the budget allows, or
are multiplied in two parts in int8, which is faster.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from compress.errors import first_line
from compress.export.loading import load_graph
from compress.progress import Progress
from compress.quantization.building import Built, finish, make_all
from compress.quantization.candidates import FP32_SUMS
from compress.quantization.layers import layers
from compress.quantization.mixed_precision import Kept, Mixed, mixed_precision
from compress.quantization.prepared import Maker
from compress.quantization.rewriting.files import copy
from compress.quantization.variants import BY_ROWS, Variants
from compress.quantization.weight_only import quantize_tables
from compress.report.sensitivity_schema import Sensitivity

_Makers = list[dict[str, Maker]]
#: Calibration batches on which layers are compared.
_BATCHES = 2
#: Of the budget, what mixed precision aims at: the rest is for other data.
_AIM = 0.5


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
    prepared = built.prepared
    static = [
        drop for name, drop in drops.items() if name.startswith("static") and FP32_SUMS not in name
    ]
    if prepared is None or prepared.config.method != "best" or not static:
        return Rescued()
    if min(static) <= max_drop:
        return Rescued()
    folder = prepared.folder
    variants = Variants(prepared)
    files, failures = make_all(variants.makers(), folder)
    found = _judge(files, failures, drop_of)
    by_rows = {name: path for name, path in files.items() if name == BY_ROWS}
    found |= {one: _with_tables(at, found[one], drop_of, max_drop) for one, at in by_rows.items()}
    # A range for each row loses little, and may be no faster than fp32.
    within = {
        name.partition(",")[0] for name in found if found[name] <= max_drop and name != BY_ROWS
    }
    if "static" in within:
        return Rescued(files, failures, found)
    variants.choose_ranges(drops | found)
    every = layers(load_graph(prepared.file))
    mixed = mixed_precision(
        prepared.file,
        variants.part_static,
        drop_of,
        every,
        prepared.samples[:_BATCHES],
        max_drop,
        folder,
        progress,
        aim=_AIM * max_drop,
        scores=scores,
    )
    if mixed.stopped:
        raise KeyboardInterrupt
    if mixed.path is None or mixed.drop is None:
        failures["static, mixed precision"] = _why_not(mixed)
        return Rescued(files, failures, found)
    slower = len(every.keys() & prepared.slower)  # these were never compared
    made, for_openvino = dict[str, Path](), dict[str, Maker]()
    sensitivity = dict[str, list[Sensitivity]]()
    for model in (Kept(mixed.path, mixed.fp32, mixed.drop), mixed.faster):
        if model is None:
            continue
        finish(model.path)
        fp32, total = len(model.fp32) + slower, len(mixed.sensitivities) + slower
        name = f"static, {fp32} of {total} layers fp32"
        made[name], found[name] = model.path, model.drop
        sensitivity[name] = [
            entry.model_copy(update={"fp32": every[entry.name] <= model.fp32})
            for entry in mixed.sensitivities
        ]
        if prepared.on_openvino and prepared.has_pieces:
            for_openvino[f"{name}{FP32_SUMS}"] = partial(
                variants.part_static, model.fp32, fp32_sums=True
            )
        elif prepared.symmetric is not None:
            for_openvino[f"{name}, symmetric"] = partial(
                variants.part_static, model.fp32, symmetric=True
            )
    more = make_all(for_openvino, folder)
    found |= _judge(*more, drop_of)
    made, failures = made | more[0], failures | more[1]
    ways = {"static": max(1, int(_AIM * len(mixed.fp32)))}  # for all of the budget, fewer may do
    if drops.get("dynamic", 0) > max_drop and "dynamic" not in within:
        ways["dynamic"] = 1
    for makers in _outliers_apart(variants, mixed, ways):
        apart = _first_within(makers, folder, drop_of, max_drop)
        made, failures, found = made | apart.files, failures | apart.failures, found | apart.drops
    found |= {one: _with_tables(path, found[one], drop_of, max_drop) for one, path in made.items()}
    return Rescued(files | made, failures, found, sensitivity)


def _judge(
    files: dict[str, Path], failures: dict[str, str], drop_of: Callable[[Path], float]
) -> dict[str, float]:
    """What each file loses; those that fail go over to the failures."""
    found = dict[str, float]()
    for name, path in list(files.items()):
        try:
            found[name] = drop_of(path)
        except Exception as error:  # a candidate may fail as runtimes do
            failures[name] = f"fails on the data: {first_line(error)}"
            del files[name]
    return found


def _outliers_apart(variants: Variants, mixed: Mixed, ways: Mapping[str, int]) -> _Makers:
    """Of each way makers with outliers of ever more layers apart, those that lose most first.

    Args:
        ways: name to how many layers there are in its first one.
    """
    names = [entry.name for entry in mixed.sensitivities]
    found: _Makers = []
    for way, first in ways.items():
        makers = dict[str, Maker]()
        for count in (first * more for more in (1, 2, 4, 8) if first * more <= len(names)):
            name = f"{way}, outliers of {count} of {len(names)} layers apart"
            makers[name] = partial(variants.outliers_apart, names[:count], dynamic=way == "dynamic")
        found.append(makers)
    return found


def _first_within(
    makers: Mapping[str, Maker], folder: Path, drop_of: Callable[[Path], float], max_drop: float
) -> Rescued:
    """The first model that keeps the budget, or the last that could be made and does not."""
    last = Rescued()
    for name, make in makers.items():
        files, failures = make_all({name: make}, folder)
        drops = _judge(files, failures, drop_of)
        if failures:
            return Rescued(last.files, failures, last.drops)
        last = Rescued(files, {}, drops)
        if drops[name] <= max_drop:
            break
    return last


def _with_tables(
    file: Path, drop: float, drop_of: Callable[[Path], float], max_drop: float
) -> float:
    """Store embeddings as int8, where it takes at most half of the budget; what is lost then.

    It saves bytes and no time; what uses up the budget here may exceed it on other data.
    """
    smaller = file.with_stem(f"{file.stem}-tables")
    copy(file, smaller)
    if quantize_tables(smaller):
        found = drop_of(smaller)
        if found <= max(drop, max_drop / 2):
            copy(smaller, file)
            return found
    return drop


def _why_not(mixed: Mixed) -> str:
    least = [entry.drop for entry in mixed.evaluations if entry.drop is not None]
    best = f"; the least drop was {min(least):.4f}" if least else ""
    return (
        f"no part of the layers could be int8 within the budget, in {len(mixed.evaluations)} "
        f"evaluations{best}"
    )

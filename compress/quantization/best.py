"""Building quantized models, measuring each on the real runtime, and choosing between them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from compress.data.task import Split, Task
from compress.errors import CompressError, InputError
from compress.export.graph import load_onnx, operators, shorten_names, strip
from compress.measure.config import BenchConfig
from compress.measure.latency import measure
from compress.measure.quality import check_outputs, feeds, run_onnx
from compress.progress import Progress, quiet
from compress.quantization.candidates import makers
from compress.quantization.config import QuantizeConfig
from compress.quantization.preprocess import preprocess
from compress.report.formatting import metric_format
from compress.report.schema import Candidate
from compress.runtime.onnxruntime import Feeds, Session
from compress.stats import paired_drop

#: Latencies closer than this count as equal on a shared machine.
MARGIN = 0.05
#: A choice needs no more replication than this: the benchmark behind it measures again.
_CALIBRATION_BATCH = 32
_CHOOSING = {"workers": 4, "rounds": 6, "control": False, "warm_up_cap_s": 0.1}


@dataclass(frozen=True)
class Goal:
    """What a quantized model is chosen by.

    Attributes:
        reference: ONNX file whose quality on the validation split must be kept.
        max_drop: allowed drop of the task's metric, in its unit.
        relative: whether it is a share of the reference's metric instead.
        minimise: "latency" or "size".
        bench: batch sizes and thread counts that count.
    """

    reference: Path
    max_drop: float
    minimise: str
    bench: BenchConfig
    relative: bool = False


def build(
    source: Path,
    folder: Path,
    task: Task,
    config: QuantizeConfig,
    seed: int = 0,
    minimise: str = "latency",
) -> tuple[dict[str, Path], dict[str, str]]:
    """All models that the configuration asks for.

    Args:
        source: ONNX file of the fp32 model.
        folder: where the candidates are written.

    Returns:
        Name to file of what could be built and loads, and name to reason of what could not.
    """
    prepared = folder / "prepared.onnx"
    preprocess(source, prepared)
    samples = calibration(task.train, config.samples, seed)
    files, failures = {}, {}
    for number, (name, make) in enumerate(
        makers(prepared, folder, samples, config, minimise).items()
    ):
        path = folder / f"candidate-{number}.onnx"
        try:
            make(path)
            _finish(path)
            files[name] = path
        except InputError:
            raise
        except Exception as error:  # onnxruntime's quantizers raise whatever they meet
            line = (
                str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            )
            failures[name] = f"could not be built: {line}"
    return files, failures


def calibration(split: Split, count: int, seed: int) -> list[Feeds]:
    """Batches of samples drawn without replacement; sequences beside others of their length."""
    import torch

    order = torch.randperm(len(split), generator=torch.Generator().manual_seed(seed))
    drawn = split.subset(order[:count])
    batches = [drawn.take(rows) for rows in drawn.chunks(_CALIBRATION_BATCH)]
    return [tuple(part.numpy() for part in batch) for batch in batches]


def _finish(path: Path) -> None:
    """Small names, a valid graph, something in int8, and a file that loads."""
    model = shorten_names(strip(load_onnx(path)))
    path.write_bytes(model.SerializeToString())
    counts = operators(model)
    if not any("int" in precision for entry in counts.values() for precision in entry):
        raise CompressError("no operator became int8")
    Session(path)


def choose(
    source: Path,
    files: dict[str, Path],
    failures: dict[str, str],
    task: Task,
    goal: Goal,
    *,
    stage: str,
    device: str = "cpu",
    threads: int = 1,
    progress: Progress = quiet,
) -> tuple[str | None, list[Candidate]]:
    """Measure all candidates beside their input and choose one.

    Args:
        source: the stage's input, which a candidate must not be slower than.
        threads: for the answers to the validation split, which are not timed.

    Returns:
        Name of the chosen candidate, None where the input itself stays, and the account of all.
    """
    arms = {"fp32 input": source, **files}
    config = goal.bench.model_copy(update=_CHOOSING)
    measured = measure(
        arms,
        config,
        inputs=feeds(task.validation),
        device=device,
        progress=progress,
        label="candidates",
    )
    reference = _scores(goal.reference, task, device, threads)
    if goal.relative:
        goal = replace(goal, max_drop=goal.max_drop * abs(float(reference.mean())))
    metric = metric_format(task.metric.name, task.metric.higher_is_better)
    found: dict[str, Candidate] = {}
    for name, path in arms.items():
        scores = _scores(path, task, device, threads)
        drop, _ = paired_drop(reference, scores, task.metric.higher_is_better)
        ratio = measured.overall("fp32 input", name) if name != "fp32 input" else 1.0
        found[name] = Candidate(
            stage=stage,
            name=name,
            kept=False,
            reason=_refusal(drop, ratio, goal, metric.change),
            drop=drop,
            latency_ratio=ratio,
            size_bytes=path.stat().st_size,
        )
    chosen = _best(found, goal)
    account = [_account(entry, chosen, found, goal) for entry in found.values()]
    failed = [
        Candidate(stage=stage, name=name, kept=False, reason=reason)
        for name, reason in failures.items()
    ]
    return (None if chosen == "fp32 input" else chosen), account + failed


def _scores(path: Path, task: Task, device: str, threads: int) -> npt.NDArray[np.float64]:
    outputs = run_onnx(Session(path, device, threads), task.validation)
    check_outputs(task, outputs, task.validation)
    return task.metric.score(outputs, task.validation.targets.numpy())


def _refusal(drop: float, ratio: float, goal: Goal, change: str) -> str:
    """Why a candidate cannot be taken; empty where it can. `change` is the word for a drop."""
    if drop > goal.max_drop + 1e-9:
        return f"validation {change} {drop:.4f} is over the budget of {goal.max_drop:.4g}"
    if ratio > 1 + MARGIN and goal.minimise == "latency":
        return f"slower than the fp32 input: {ratio:.2f} × its latency"
    return ""


def _best(found: dict[str, Candidate], goal: Goal) -> str:
    allowed = [entry for entry in found.values() if not entry.reason] or [found["fp32 input"]]
    if goal.minimise == "size":
        return min(allowed, key=lambda entry: entry.size_bytes or 0).name
    fastest = min(entry.latency_ratio or 1.0 for entry in allowed)
    equals = [entry for entry in allowed if (entry.latency_ratio or 1.0) <= fastest * (1 + MARGIN)]
    return min(equals, key=lambda entry: entry.size_bytes or 0).name


def _account(entry: Candidate, chosen: str, found: dict[str, Candidate], goal: Goal) -> Candidate:
    if entry.name != chosen:
        return entry.model_copy(update={"reason": entry.reason or f"{chosen} is faster or smaller"})
    allowed = [other.latency_ratio or 1.0 for other in found.values() if not other.reason]
    if entry.reason:
        reason = "nothing else is within the budget"
    elif goal.minimise == "size":
        reason = "smallest within the budget"
    elif entry.latency_ratio == min(allowed):
        reason = "fastest within the budget"
    else:
        reason = f"smallest of those within {MARGIN:.0%} of the fastest"
    return entry.model_copy(update={"kept": True, "reason": reason})

"""What `compress quantize` makes of a subject."""

from __future__ import annotations

import math
import statistics
import time
from dataclasses import dataclass
from pathlib import Path

from benchmarks.peers.judge import lost, opened, quality
from benchmarks.peers.subject import Subject
from compress.quantization.candidates import makers
from compress.quantization.config import QuantizeConfig
from compress.quantization.preprocess import preprocess
from compress.runtime.interface import Array, Target, open_model

RUNTIMES = ("onnxruntime", "openvino", "openvino-bf16")


@dataclass(frozen=True)
class Choice:
    """The file that was chosen, what runs it, and its name."""

    path: Path
    runtime: str
    what: str


def ours(subject: Subject) -> tuple[dict[str, Choice], dict[str, str]]:
    """Our choice on any runtime and on onnxruntime alone, and why others were refused.

    Calibrates on the first split, chooses on the second: the third is for the final figures.
    """
    folder = subject.folder / "ours"
    folder.mkdir(exist_ok=True)
    arms: dict[str, Target] = {}
    refused: dict[str, str] = {}
    reference = quality(opened(subject.onnx, "onnxruntime"), subject, "validation")
    for name, path in {"fp32": subject.onnx, **_build(subject, folder, refused)}.items():
        for runtime in RUNTIMES:
            arm = f"{name} @ {runtime}"
            try:
                drop = lost(
                    reference, quality(opened(path, runtime), subject, "validation"), subject
                )
            except Exception as error:
                refused[arm] = (str(error).strip().splitlines() or [type(error).__name__])[-1]
                continue
            if drop > subject.tolerance:
                refused[arm] = f"loses {drop:.4f} on the rows for choosing"
            else:
                arms[arm] = Target(path, runtime)
    paces = {arm: pace(target, subject) for arm, target in arms.items()}
    found = {}
    for key, wanted in (("ours", ""), ("ours on onnxruntime", "@ onnxruntime")):
        arm = min((arm for arm in paces if arm.endswith(wanted)), key=lambda one: paces[one])
        found[key] = Choice(arms[arm].path, arms[arm].runtime, arm)
    return found, refused | {arm: f"{found * 1e3:.3f} ms" for arm, found in paces.items()}


def pace(target: Target, subject: Subject) -> float:
    """Seconds of a call, the geometric mean over batch sizes, each at its better thread count."""
    logs = []
    for batch in subject.batches:
        rows = subject.timed(batch)
        logs.append(math.log(min(_fastest(target, rows, threads) for threads in (1, 2))))
    return math.exp(statistics.fmean(logs))


def _fastest(target: Target, rows: tuple[Array, ...], threads: int) -> float:
    call = open_model(target.runtime, target.path, threads=threads).bind(rows)
    times: list[float] = []
    end = time.perf_counter() + 0.4
    while len(times) < 3 or time.perf_counter() < end:
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return min(times)


def _build(subject: Subject, folder: Path, refused: dict[str, str]) -> dict[str, Path]:
    prepared = folder / "prepared.onnx"
    try:
        preprocess(subject.onnx, prepared)
    except Exception as error:
        refused["everything"] = f"cannot be prepared: {error}"
        return {}
    samples = [tuple(rows.values()) for rows in subject.chunks("train")]
    found = {"prepared": prepared}
    candidates = makers(prepared, folder, samples, QuantizeConfig(), "latency")
    for number, (name, make) in enumerate(candidates.items()):
        path = folder / f"{number}.onnx"
        try:
            make(path)
            found[name] = path
        except Exception as error:
            refused[name] = (str(error).strip().splitlines() or [type(error).__name__])[0]
    if (folder / "fused.onnx").exists():
        found["fused"] = folder / "fused.onnx"
    return found

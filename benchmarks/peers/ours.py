"""What `compress quantize` makes of a subject."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from benchmarks.peers.judge import lost, opened, quality
from benchmarks.peers.subject import Subject
from compress.measure.config import BenchConfig
from compress.measure.latency import measure
from compress.quantization.candidates import makers
from compress.quantization.config import QuantizeConfig
from compress.quantization.preprocess import preprocess
from compress.runtime.interface import Target

RUNTIMES = ("onnxruntime", "openvino", "openvino-bf16")


@dataclass(frozen=True)
class Choice:
    """The file that was chosen, what runs it, and its name."""

    path: Path
    runtime: str
    what: str


def ours(subject: Subject, workers: int = 2) -> tuple[dict[str, Choice], dict[str, str]]:
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
    config = BenchConfig(batch=subject.batches, workers=workers, rounds=4, control=False)
    measured = measure(arms, config, inputs=subject.timed, keep_going=True)
    first = next(iter(arms))
    speeds = {arm: 1 / measured.overall(first, arm) for arm in arms if arm not in measured.failed}
    refused |= {arm: f"cannot be timed: {why}" for arm, why in measured.failed.items()}
    found = {}
    for key, wanted in (("ours", ""), ("ours on onnxruntime", "@ onnxruntime")):
        arm = max((arm for arm in speeds if arm.endswith(wanted)), key=lambda one: speeds[one])
        found[key] = Choice(arms[arm].path, arms[arm].runtime, arm)
    return found, refused | {
        arm: f"{speed:.2f} × on the rows for choosing" for arm, speed in speeds.items()
    }


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

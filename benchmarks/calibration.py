"""Peak memory and time of calibration, ours against onnxruntime's, on a ResNet-18 at 112 × 112.

    python -m benchmarks.calibration              about 8 minutes, run nothing beside it

Random weights and random images: neither figure depends on what the numbers are. The stem has
stride 1 and no pooling, as for small images: every activation is 16 times as large as in the
network for ImageNet. Each arm runs in a process of its own that loads the model, runs the same
batches of 8 with all cores and computes the ranges; arms alternate. Stored in
benchmarks/results/calibration.json.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from compress.measure.memory import peak
from compress.runtime.interface import Feeds

RESULTS = Path(__file__).parent / "results" / "calibration.json"
SIDE, BATCH, COUNT, MANY, ROUNDS = 112, 8, 64, 1024, 3
OURS = {"ours": ("minmax", "percentile", "entropy", "mse")}
THEIRS = {"onnxruntime minmax": "MinMax"}
THEIRS |= {"onnxruntime percentile": "Percentile", "onnxruntime entropy": "Entropy"}


def main() -> None:
    """Measure, or be the process of one arm."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--arm")
    parser.add_argument("--count", type=int)
    parser.add_argument("--model", type=Path)
    given = parser.parse_args()
    if given.arm:
        print(json.dumps(_work(given.arm, given.model, given.count)))
        return
    with tempfile.TemporaryDirectory() as folder:
        model = _write_model(Path(folder))
        result = _measure(model)
    print(json.dumps(result, indent=1))
    RESULTS.write_text(json.dumps(result, indent=1) + "\n")


def _measure(model: Path) -> dict[str, Any]:
    from compress.measure.machine import machine

    arms = [*OURS, *THEIRS]
    runs: dict[str, list[dict[str, Any]]] = {arm: [] for arm in arms}
    for number in range(ROUNDS):
        for arm in arms[number:] + arms[:number]:
            runs[arm].append(_process(arm, model, COUNT))
    many = _process("ours", model, MANY)
    seconds = {arm: statistics.median(run["seconds"] for run in runs[arm]) for arm in arms}
    cpu = {arm: statistics.median(run["cpu_s"] for run in runs[arm]) for arm in arms}
    peaks = {arm: max(run["peak_mb"] for run in runs[arm]) for arm in arms}
    collecting = statistics.median(run["collect_s"] for run in runs["ours"])
    return {
        "images": COUNT,
        "seconds": seconds,
        "seconds_without_ranges": collecting,
        "seconds_of_each_run": {arm: [run["seconds"] for run in runs[arm]] for arm in arms},
        "cpu_seconds_of_the_process": cpu,
        "times_faster_than": {arm: round(seconds[arm] / seconds["ours"], 2) for arm in THEIRS},
        "peak_mb": peaks,
        "many_images": MANY,
        "many_peak_mb": many["peak_mb"],
        "many_seconds": many["seconds"],
        "peak_grows_by": round(many["peak_mb"] / peaks["ours"] - 1, 4),
        "range_s": runs["ours"][-1]["range_s"],
        "tensors": runs["ours"][-1]["tensors"],
        "machine": machine(),
    }


def _process(arm: str, model: Path, count: int) -> dict[str, Any]:
    command = [sys.executable, "-m", "benchmarks.calibration", "--arm", arm]
    command += ["--model", str(model), "--count", str(count)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    found: dict[str, Any] = json.loads(done.stdout)
    print(f"{arm}, {count} images: {found}", file=sys.stderr)
    return found


def _work(arm: str, model: Path, count: int) -> dict[str, Any]:
    found = _ours(model, count) if arm in OURS else _theirs(model, count, THEIRS[arm])
    used = {"cpu_s": round(time.process_time(), 2), "peak_mb": round((peak() or 0) / 2**20, 1)}
    return found | used


def _ours(model: Path, count: int) -> dict[str, Any]:
    from compress.quantization.calibration import collect

    start = time.perf_counter()
    found = collect(model, _batches(count))
    collected = time.perf_counter()
    range_s = {}
    for method in OURS["ours"]:
        before = time.perf_counter()
        found.ranges(method)  # type: ignore[arg-type]
        range_s[method] = round(time.perf_counter() - before, 3)
    return {
        "seconds": round(time.perf_counter() - start, 2),
        "collect_s": round(collected - start, 2),
        "range_s": range_s,
        "tensors": len(found.tensors),
    }


def _theirs(model: Path, count: int, method: str) -> dict[str, Any]:
    """As `onnxruntime.quantization.quantize_static` calls its calibrators."""
    from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod
    from onnxruntime.quantization.calibrate import create_calibrator
    from onnxruntime.quantization.registry import QDQRegistry, QLinearOpsRegistry

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self._batches = _batches(count)

        def get_next(self) -> dict[str, Any] | None:
            feeds = next(self._batches, None)
            return None if feeds is None else {"input": feeds[0]}

    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
        start = time.perf_counter()
        calibrator = create_calibrator(
            model,
            list({*QLinearOpsRegistry, *QDQRegistry}),
            augmented_model_path=os.path.join(folder, "augmented.onnx"),  # noqa: PTH118
            calibrate_method=CalibrationMethod[method],
        )
        calibrator.collect_data(Reader())
        found = calibrator.compute_data()
        return {"seconds": round(time.perf_counter() - start, 2), "tensors": len(found.data)}


def _batches(count: int) -> Iterator[Feeds]:
    random = np.random.default_rng(0)
    for _ in range(count // BATCH):
        yield (random.standard_normal((BATCH, 3, SIDE, SIDE), dtype=np.float32),)


def _write_model(folder: Path) -> Path:
    import torch

    from compress.export.torch_to_onnx import export
    from compress.models.build import build
    from compress.models.references import resolve
    from compress.quantization.rewriting.simplify import simplify

    torch.manual_seed(0)
    facts = {"in_channels": 3, "image_size": SIDE, "classes": 1000}
    model = build(resolve("cnn", {"widths": [64, 128, 256, 512], "blocks": 2}, facts)).eval()
    export(model, (torch.randn(2, 3, SIDE, SIDE),), folder / "model.onnx")
    simplify(folder / "model.onnx", folder / "prepared.onnx")
    return folder / "prepared.onnx"


if __name__ == "__main__":
    main()

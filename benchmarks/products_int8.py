"""Ways to make a Transformer's products static or dynamic int8: what each loses, and its latency.

    python -m benchmarks.products_int8                    MiniLM, reviews and bible, 6 minutes
    python -m benchmarks.products_int8 minilm             only this one, 2 minutes; nothing beside

The models are those of `benchmarks.quantization`; loss on the test split, latency against the fp32
file as it came, all in one interleaved run. Arms: sums rounded to int8 as onnxruntime's own tools
do by default, and kept fp32; ranges of least error; SmoothQuant only where a division goes into
what is before, and with a Mul elsewhere; outliers of all products apart; and dynamic int8 of the
same files. Stored in benchmarks/results/products_int8.json, model by model.
"""

from __future__ import annotations

import json
import math
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

from benchmarks.peers.judge import lost, opened, quality
from benchmarks.peers.subject import Subject
from benchmarks.quantization import subject_of
from compress.export.loading import load_onnx
from compress.measure.config import BenchConfig
from compress.measure.latency import measure
from compress.measure.machine import machine
from compress.quantization import smoothquant, static
from compress.quantization.building import finish
from compress.quantization.calibration.shared import Calibration
from compress.quantization.config import QuantizeConfig
from compress.quantization.dynamic import quantize_dynamic_int8
from compress.quantization.layers import layers
from compress.quantization.outliers import split_outliers
from compress.quantization.rewriting.simplify import simplify
from compress.quantization.smoothquant import smooth

RESULTS = Path(__file__).parent / "results" / "products_int8.json"
MODELS = ("minilm", "transformer", "gpt")
KINDS = ("Gemm", "MatMul")
CONFIG = QuantizeConfig()
BENCH = BenchConfig(batch=(1, 32), threads=(2,), workers=4, rounds=3, control=False)


def main() -> None:
    """Measure the named models, print and store what was found."""
    for name in sys.argv[1:] or MODELS:
        with tempfile.TemporaryDirectory() as folder:
            found = compare(subject_of(name), Path(folder))
        stored = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
        stored |= {"machine": machine(), name: found}
        RESULTS.write_text(json.dumps(stored, indent=1) + "\n")
        for arm, row in found.items():
            speeds = " / ".join(f"{speed:.2f} ×" for speed in row["speed"].values())
            print(f"{name}: {arm}: loses {row['lost']:.4f}, {speeds}", flush=True)


def compare(subject: Subject, folder: Path) -> dict[str, Any]:
    """Name of an arm to what it loses and, by batch size, its speed."""
    files = {"fp32": subject.onnx}
    for name, file in arms(subject, folder):
        finish(file)
        files[name] = file
    measured = measure(files, BENCH, inputs=subject.timed)
    before = quality(opened(subject.onnx, "onnxruntime"), subject, "test")
    return {
        name: {
            "lost": lost(before, quality(opened(file, "onnxruntime"), subject, "test"), subject),
            "speed": {batch: 1 / measured.ratio("fp32", name, batch)[0] for batch in BENCH.batch},
        }
        for name, file in files.items()
        if name != "fp32"
    }


def arms(subject: Subject, folder: Path) -> Iterator[tuple[str, Path]]:
    """All files, as they are made."""
    batches = [tuple(rows.values()) for rows in subject.chunks("train")]
    prepared = folder / "prepared.onnx"
    simplify(subject.onnx, prepared, batches[0])
    calibration = Calibration(batches, CONFIG)
    by_error = CONFIG.model_copy(update={"calibration": "mse"})

    def static_of(name: str, source: Path, config: QuantizeConfig = CONFIG) -> tuple[str, Path]:
        target = folder / f"{name.replace(' ', '-')}.onnx"
        ranges = calibration.ranges(source, config=config)
        static.quantize_static_int8(source, target, ranges, config, kinds=KINDS)
        return name, target

    def dynamic_of(name: str, source: Path) -> tuple[str, Path]:
        target = folder / f"{name.replace(' ', '-')}.onnx"
        quantize_dynamic_int8(source, target)
        return name, target

    # As onnxruntime's quantizer does it: all that read a rounded value read it rounded.
    with (
        mock.patch.object(static, "_UNROUNDED", ()),
        mock.patch.object(static, "_read_unrounded", return_value=None),
    ):
        yield static_of("static, sums rounded", prepared)
    yield static_of("static, sums in fp32", prepared)
    yield static_of("static, least error", prepared, by_error)
    yield dynamic_of("dynamic", prepared)
    folded, smoothed = folder / "folded.onnx", folder / "smoothed.onnx"
    with mock.patch.object(smoothquant, "_WORTH_A_NODE", -math.inf):
        if smooth(prepared, folded, batches, CONFIG, calibration):
            yield static_of("static, SmoothQuant without nodes", folded)
    if smooth(prepared, smoothed, batches, CONFIG, calibration):
        yield static_of("static, SmoothQuant", smoothed)
        yield dynamic_of("dynamic, SmoothQuant", smoothed)
    apart, statistics = folder / "apart.onnx", calibration.statistics(prepared)
    if split_outliers(prepared, apart, statistics, layers(load_onnx(prepared))):
        yield static_of("static, outliers apart", apart)
        yield dynamic_of("dynamic, outliers apart", apart)


if __name__ == "__main__":
    main()

"""What int8 gives LSTM, GRU and RNN on onnxruntime: storage, arithmetic, or neither.

    python -m benchmarks.recurrent_int8           about 40 seconds, run nothing beside it

Two layers of random weights, 17 steps, one thread. For each cell, width and batch size the latency
of fp32 over that of int8: weights only; dynamic, which has an operator for LSTM alone; and step by
step, which takes GRU and RNN apart. Stored in benchmarks/results/recurrent_int8.json.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from compress.export.torch_to_onnx import export
from compress.measure.config import BenchConfig
from compress.measure.latency import measure
from compress.models.build import build
from compress.models.references import resolve
from compress.quantization.dynamic import quantize_dynamic_int8
from compress.quantization.rewriting.simplify import simplify
from compress.quantization.weight_only import quantize_weights
from compress.runtime.onnxruntime import Feeds

RESULTS = Path(__file__).parent / "results" / "recurrent_int8.json"
STEPS, FEATURES = 17, 13
CONFIG = BenchConfig(batch=(1, 32), threads=(1,), workers=4, rounds=6, control=False)


def main() -> None:
    """Print and store the table."""
    rows = [
        row for cell in ("lstm", "gru", "rnn") for width in (128, 256) for row in _row(cell, width)
    ]
    print("| cell | width | batch | weight-only | dynamic | step by step | file, weight-only |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for row in rows:
        speeds = [f"{row[name]:.2f} ×" if name in row else "–" for name in _MAKERS]
        cells = [row["cell"], str(row["width"]), str(row["batch"]), *speeds]
        print(f"| {' | '.join([*cells, format(row['smaller'], '.1f') + ' × smaller'])} |")
    RESULTS.write_text(json.dumps(rows, indent=1) + "\n")


_MAKERS: dict[str, Callable[[Path, Path], object]] = {
    "weight-only": quantize_weights,
    "dynamic": quantize_dynamic_int8,
    "step by step": lambda source, target: quantize_dynamic_int8(source, target, by_step=True),
}


def _row(cell: str, width: int) -> list[dict[str, Any]]:
    facts = {"in_features": FEATURES, "outputs": 10, "max_length": STEPS}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        torch.manual_seed(0)
        model = build(resolve(cell, {"widths": [width, width]}, facts)).eval()
        samples = (torch.randn(4, STEPS, FEATURES), torch.full((4,), STEPS))
        export(model, samples, folder / "fp32.onnx", sequences=True)
        simplify(folder / "fp32.onnx", folder / "prepared.onnx")
        arms = {"fp32": folder / "fp32.onnx"}
        for kind, make in _MAKERS.items():
            if kind == "step by step" and cell == "lstm":
                continue
            arms[kind] = folder / f"{kind}.onnx"
            make(folder / "prepared.onnx", arms[kind])
        measured = measure(arms, CONFIG, inputs=_samples)
        smaller = arms["fp32"].stat().st_size / arms["weight-only"].stat().st_size
        return [
            {"cell": cell, "width": width, "batch": batch, "smaller": smaller}
            | {kind: 1 / measured.ratio("fp32", kind, batch)[0] for kind in arms if kind != "fp32"}
            for batch in CONFIG.batch
        ]


def _samples(batch: int) -> Feeds:
    random = np.random.default_rng(0)
    frames = random.standard_normal((batch, STEPS, FEATURES)).astype(np.float32)
    return frames, np.full(batch, STEPS, dtype=np.int64)


if __name__ == "__main__":
    main()

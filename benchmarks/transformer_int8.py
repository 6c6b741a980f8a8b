"""What int8, fused operators and 4 bits give Transformers on onnxruntime, by width and batch.

    python -m benchmarks.transformer_int8         about two minutes, run nothing beside it

Two layers of random weights, 64 tokens, one thread: every candidate that `quantize` would build,
and fp32 with fused operators alone; the latency of fp32 over theirs. Stored in
benchmarks/results/transformer_int8.json.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

from compress.export.torch_to_onnx import export
from compress.measure.config import BenchConfig
from compress.measure.latency import measure
from compress.models.build import build
from compress.models.references import resolve
from compress.quantization.candidates import Candidates
from compress.quantization.config import QuantizeConfig
from compress.quantization.fusion import fuse
from compress.quantization.prepared import Prepared
from compress.quantization.rewriting.simplify import simplify
from compress.runtime.onnxruntime import Feeds

RESULTS = Path(__file__).parent / "results" / "transformer_int8.json"
WIDTHS, TOKENS, VOCABULARY = (128, 256, 384), 64, 2000
CONFIG = BenchConfig(batch=(1, 8), threads=(1,), workers=4, rounds=4, control=False)


def main() -> None:
    """Print and store the table."""
    rows = [row for width in WIDTHS for row in _rows(width)]
    names = list(rows[0]["faster"])
    print(f"| width | batch | {' | '.join(names)} |")
    print("| --- " * (len(names) + 2) + "|")
    for row in rows:
        cells = [f"{row['faster'][name]:.2f} ×" for name in names]
        print(f"| {row['width']} | {row['batch']} | {' | '.join(cells)} |")
    RESULTS.write_text(json.dumps(rows, indent=1) + "\n")


def _rows(width: int) -> list[dict[str, Any]]:
    facts = {"vocabulary": VOCABULARY, "outputs": 2, "max_length": TOKENS}
    settings = {"width": width, "heads": (width // 32,) * 2, "feed_forward": (4 * width,) * 2}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        torch.manual_seed(0)
        model = build(resolve("transformer", settings, facts)).eval()
        samples = tuple(map(torch.from_numpy, _samples(4)))
        export(model, samples, folder / "fp32.onnx", sequences=True)
        simplify(folder / "fp32.onnx", folder / "prepared.onnx")
        arms = {"fp32": folder / "fp32.onnx", "fp32, fused": folder / "fp32-fused.onnx"}
        fuse(folder / "prepared.onnx", arms["fp32, fused"], _samples(2))
        prepared = Prepared(folder / "prepared.onnx", folder, [_samples(32)], QuantizeConfig())
        for number, (kind, make) in enumerate(Candidates(prepared, "size").makers().items()):
            arms[kind] = folder / f"{number}.onnx"
            make(arms[kind])
        measured = measure(arms, CONFIG, inputs=_samples)
        size = arms["fp32"].stat().st_size
        return [
            {
                "width": width,
                "batch": batch,
                "faster": {
                    kind: 1 / measured.ratio("fp32", kind, batch)[0]
                    for kind in arms
                    if kind != "fp32"
                },
                "smaller": {kind: size / file.stat().st_size for kind, file in arms.items()},
            }
            for batch in CONFIG.batch
        ]


def _samples(batch: int) -> Feeds:
    random = np.random.default_rng(0)
    tokens = random.integers(3, VOCABULARY, (batch, TOKENS))
    return tokens, np.full(batch, TOKENS, dtype=np.int64)


if __name__ == "__main__":
    main()

"""What rewriting alone gives in fp32 on onnxruntime, which has fusions of its own.

    python -m benchmarks.rewriting                              four minutes, run nothing beside it
    python -m benchmarks.rewriting "CNN, weights as inputs"     only this one; the others' rows stay

Models with random weights as torch's older exporter writes them where GELU, LayerNormalization or
HardSwish are in pieces, one of them with an embedding that is a product of one-hot vectors, one
with its weights among its inputs, as files of before IR version 4 have them: the
latency of the file over that of the simplified one, one thread; and over that with fused attention
and sums kept apart (`compress.quantization.fusion`). Stored in benchmarks/results/rewriting.json.
"""

from __future__ import annotations

import json
import sys
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from compress.measure.config import BenchConfig
from compress.measure.latency import Measured, measure
from compress.quantization.fusion import fuse
from compress.quantization.rewriting.simplify import simplify
from compress.runtime.onnxruntime import Feeds

RESULTS = Path(__file__).parent / "results" / "rewriting.json"
TOKENS, WIDTH, VOCABULARY = 64, 128, 2000
CONFIG = BenchConfig(batch=(1, 32), threads=(1,), workers=6, rounds=4, control=False)


class Layer(nn.Module):
    """Attention and a feed-forward part with GELU, each behind a normalization."""

    def __init__(self, heads: int = 4) -> None:
        super().__init__()
        self.heads = heads
        self.norms = nn.ModuleList(nn.LayerNorm(WIDTH) for _ in range(2))
        self.parts = nn.ModuleList(nn.Linear(WIDTH, WIDTH) for _ in range(4))
        self.wide, self.narrow = nn.Linear(WIDTH, 4 * WIDTH), nn.Linear(4 * WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        normal = self.norms[0](x)
        split = (-1, TOKENS, self.heads, WIDTH // self.heads)
        query, key, value = (part(normal).view(split).transpose(1, 2) for part in self.parts[:3])
        weights = (query @ key.transpose(2, 3) * split[3] ** -0.5).softmax(-1)
        x = x + self.parts[3]((weights @ value).transpose(1, 2).reshape(-1, TOKENS, WIDTH))
        y: Tensor = x + self.narrow(F.gelu(self.wide(self.norms[1](x))))
        return y


class Encoder(nn.Module):
    """Two layers over tokens, which an embedding or one-hot vectors make wide."""

    def __init__(self, *, one_hot: bool) -> None:
        super().__init__()
        self.one_hot = one_hot
        self.table = nn.Parameter(torch.randn(VOCABULARY, WIDTH))
        self.layers = nn.Sequential(Layer(), Layer(), nn.LayerNorm(WIDTH))
        self.head = nn.Linear(WIDTH, 2)

    def forward(self, tokens: Tensor) -> Tensor:
        x = (
            F.one_hot(tokens, VOCABULARY).float() @ self.table
            if self.one_hot
            else F.embedding(tokens, self.table)
        )
        scores: Tensor = self.head(self.layers(x).mean(1))
        return scores


class HardBlock(nn.Module):
    """A convolution in groups of one and one over channels, as in MobileNetV3."""

    def __init__(self, channels: int, more: int, stride: int) -> None:
        super().__init__()
        self.parts = nn.Sequential(
            nn.Conv2d(channels, channels, 3, stride, 1, groups=channels, bias=False),
            nn.BatchNorm2d(channels),
            nn.Hardswish(),
            nn.Conv2d(channels, more, 1, bias=False),
            nn.BatchNorm2d(more),
            nn.Hardswish(),
        )

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.parts(x)
        return y


def _cnn() -> nn.Module:
    sizes = [(16, 32, 1), (32, 64, 2), (64, 64, 1), (64, 128, 2), (128, 128, 1)]
    first = nn.Sequential(nn.Conv2d(3, 16, 3, 2, 1, bias=False), nn.BatchNorm2d(16))
    blocks = [HardBlock(*size) for size in sizes]
    return nn.Sequential(first, nn.Hardswish(), *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten())


def _tokens(batch: int) -> Feeds:
    return (np.random.default_rng(0).integers(0, VOCABULARY, (batch, TOKENS)),)


def _images(batch: int) -> Feeds:
    return (np.random.default_rng(0).standard_normal((batch, 3, 64, 64), dtype=np.float32),)


#: The opset is the last in which the pieces are pieces.
MODELS: dict[str, tuple[Callable[[], nn.Module], Callable[[int], Feeds], int]] = {
    "Transformer": (lambda: Encoder(one_hot=False), _tokens, 16),
    "Transformer, one-hot": (lambda: Encoder(one_hot=True), _tokens, 16),
    "CNN with HardSwish": (_cnn, _images, 13),
    "CNN, weights as inputs": (_cnn, _images, 13),
}


def main() -> None:
    """Print and store the table."""
    stored = json.loads(RESULTS.read_text()) if RESULTS.is_file() else []
    wanted = sys.argv[1:] or list(MODELS)
    rows = [row for row in stored if row["model"] not in wanted]
    rows += [row for name in wanted for row in _rows(name)]
    print("| model | batch | nodes | simplified | fused, too |\n| --- | --- | --- | --- | --- |")
    for row in rows:
        cells = [_cell(row, arm) for arm in ("simplified", "fused")]
        nodes = f"{row['nodes']['source']} → {row['nodes']['simplified']}"
        print(f"| {row['model']} | {row['batch']} | {nodes} | {' | '.join(cells)} |")
    RESULTS.write_text(json.dumps(rows, indent=1) + "\n")


def _cell(row: dict[str, Any], arm: str) -> str:
    if arm not in row["faster"]:
        return "—"
    estimate, low, high = row["faster"][arm]
    return f"{estimate:.2f} × ({low:.2f}–{high:.2f})"


def _rows(name: str) -> list[dict[str, Any]]:
    make, samples, opset = MODELS[name]
    with tempfile.TemporaryDirectory() as folder:
        arms = {part: Path(folder) / f"{part}.onnx" for part in ("source", "simplified", "fused")}
        torch.manual_seed(0)
        listed = name.endswith("as inputs")
        _export(make().eval(), samples(2)[0], arms["source"], opset, listed=listed)
        rewrites = simplify(arms["source"], arms["simplified"], samples(2))
        if not fuse(arms["simplified"], arms["fused"], samples(2)):
            del arms["fused"]
        measured = measure(arms, CONFIG, inputs=samples)
        nodes = {part: len(onnx.load(path).graph.node) for part, path in arms.items()}
    steps = {
        rewrite.name: rewrite.undone or {"places": rewrite.places, "difference": rewrite.difference}
        for rewrite in rewrites
    }
    return [
        {
            "model": name,
            "batch": batch,
            "nodes": nodes,
            "faster": {arm: _faster(measured, arm, batch) for arm in arms if arm != "source"},
            "steps": steps,
        }
        for batch in CONFIG.batch
    ]


def _faster(measured: Measured, arm: str, batch: int) -> tuple[float, float, float]:
    """The source's latency over an arm's, and its 95 % interval."""
    ratio, (low, high), _ = measured.ratio("source", arm, batch)
    return 1 / ratio, 1 / high, 1 / low


def _export(model: nn.Module, sample: Any, path: Path, opset: int, *, listed: bool) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's older exporter is deprecated, and still in use
        torch.onnx.export(
            model,
            (torch.from_numpy(sample),),
            path,
            input_names=["input"],
            output_names=["output"],
            dynamic_axes={"input": {0: "batch"}},
            opset_version=opset,
            keep_initializers_as_inputs=listed,
            dynamo=False,
        )


if __name__ == "__main__":
    main()

"""Training throughput of the loop against a plain fp32 PyTorch loop on the same model and data.

    python -m benchmarks.training_throughput      about 1 minute; run nothing beside it

Both train ResNet-20 on the same augmented digits with SGD and batches of 64; epochs alternate.
"""

from __future__ import annotations

import json
import statistics
import time
from pathlib import Path

import torch
import torch.nn.functional as F

from compress.data.references import load_task
from compress.measure.machine import machine
from compress.models.build import build
from compress.models.references import resolve
from compress.training.batches import Batch, LabelledBatches
from compress.training.config import FitConfig
from compress.training.loop import fit

RESULTS = Path(__file__).parent / "results" / "training_throughput.json"
ROUNDS = 4


def main() -> None:
    """Alternate one epoch of each loop; print and store the ratio of their medians."""
    task = load_task("mnist")
    batches = LabelledBatches(task.train, 64, task.augment)
    spec = resolve("cnn", {}, task.facts)
    times: dict[str, list[float]] = {"plain": [], "compress": []}
    mode = ""
    for number in range(ROUNDS):
        start = time.perf_counter()
        _plain_epoch(build(spec), batches)
        times["plain"].append(time.perf_counter() - start)
        done = fit(build(spec), batches, _loss, FitConfig(epochs=1), seed=number)
        times["compress"].append(batches.steps * 64 / done.samples_per_second)
        mode = done.mode
    ratios = [a / b for a, b in zip(times["plain"], times["compress"], strict=True)]
    result = {
        "faster": round(statistics.median(ratios), 2),
        "rounds": [round(ratio, 2) for ratio in ratios],
        "mode": mode,
        "goal": 1.5,
        "machine": machine(),
    }
    print(json.dumps(result, indent=1))
    RESULTS.write_text(json.dumps(result, indent=1))


def _loss(outputs: torch.Tensor, batch: Batch) -> torch.Tensor:
    return F.cross_entropy(outputs, batch.targets)


def _plain_epoch(model: torch.nn.Module, batches: LabelledBatches) -> None:
    optimizer = torch.optim.SGD(
        model.parameters(), 0.1, momentum=0.9, nesterov=True, weight_decay=5e-4
    )
    model.train()
    for batch in batches.epoch(0, torch.Generator().manual_seed(0)):
        optimizer.zero_grad()
        F.cross_entropy(model(batch.inputs), batch.targets).backward()
        optimizer.step()


if __name__ == "__main__":
    main()

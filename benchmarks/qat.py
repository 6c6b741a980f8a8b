"""What int8 costs in accuracy by calibration alone, and after quantization-aware training.

    python -m benchmarks.qat                              every model below; hours where the
                                                          recipes have not trained theirs yet
    python -m benchmarks.qat rnn gru                      only these
    python -m benchmarks.qat uneven=runs/cnn/5-student    from that artifact

For each trained reference model the drop on the test split against its own fp32 file, on the same
samples, of static and dynamic int8 by calibration, and of `qat`; and the latency of each file
against fp32, all measured side by side. Nothing is chosen here: the settings are `qat`'s defaults
but for those that stand in `SETTINGS`. Stored in benchmarks/results/qat.json, family by family.

`uneven` is a case that calibration fails on: the student of the main job with its first channels
made 64 times as large and what reads them as much smaller, which changes no output, and one scale
for each tensor (the imbalance that Nagel et al., 2019, arXiv:1906.04721, found in MobileNets).
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import torch
from torch import nn

from benchmarks.distillation import make_teacher
from benchmarks.peers.references import RUNS
from compress.artifact import Artifact, load_artifact
from compress.data.references import load_task
from compress.data.task import Task
from compress.errors import NoEffect
from compress.export.graph import shorten_names, strip
from compress.export.torch_to_onnx import export
from compress.measure.config import BenchConfig
from compress.measure.judge import TaskJudge
from compress.measure.latency import measure
from compress.measure.quality import feeds, run_onnx
from compress.pipeline.context import Context, Inputs
from compress.pipeline.runner import make_artifact
from compress.progress import quiet
from compress.quantization.qat.config import QatConfig
from compress.quantization.qat.start import calibrated
from compress.recipe import BudgetConfig, Stage
from compress.recipe.parse import load_recipe
from compress.runtime.onnxruntime import Session
from compress.stats import paired_drop

RESULTS = Path(__file__).parent / "results" / "qat.json"
#: Each is its recipe's trained model, which other benchmarks use as well.
FAMILIES = ("cnn", "rnn", "gru", "transformer", "gpt", "forecast")
#: What the main job leaves, for `uneven`.
STUDENT = "runs/cnn/5-student"
SETTINGS: dict[str, dict[str, Any]] = {
    "gpt": {"epochs": 1},
    "uneven": {"per_channel": False, "epochs": 20, "learning_rate": 0.002, "patience": 20},
}
UNEVEN = 64.0
BENCH = BenchConfig(batch=(1, 32), threads=(1,), workers=4, rounds=6, control=False)


def main() -> None:
    """Measure the named families, print and store what was found."""
    words = sys.argv[1:] or [*FAMILIES, f"uneven={STUDENT}"]
    for family, _, folder in (word.partition("=") for word in words):
        with tempfile.TemporaryDirectory() as scratch:
            parent = load_artifact(Path(folder)) if folder else trained(family)
            if family == "uneven":
                parent = uneven(parent, Path(scratch))
            found = measure_family(parent, SETTINGS.get(family, {}))
        stored = json.loads(RESULTS.read_text()) if RESULTS.is_file() else {}
        RESULTS.write_text(json.dumps(stored | {family: found}, indent=1) + "\n")
        print(table(family, found))


def trained(family: str) -> Artifact:
    """What the recipe of that name trains; minutes to an hour where it has not been yet."""
    recipe = load_recipe(Path(f"recipes/{family}.yaml"))
    return make_teacher(recipe, "train", RUNS / family)


def uneven(parent: Artifact, folder: Path) -> Artifact:
    """The same function with a large channel behind each convolution but the last."""
    assert parent.card.task is not None
    model, task = parent.load_model(), load_task(parent.card.task)
    layers = [layer for layer in model.modules() if isinstance(layer, nn.Conv2d | nn.BatchNorm2d)]
    for norm, reader in zip(layers[1::2], layers[2::2], strict=False):
        with torch.no_grad():
            for values in norm.parameters():
                values[0] *= UNEVEN
            reader.weight[:, 0] /= UNEVEN
    export(model, task.validation.typical(8), folder / "uneven.onnx")
    return Artifact(folder, parent.card, file=folder / "uneven.onnx")


def measure_family(parent: Artifact, settings: dict[str, Any]) -> dict[str, Any]:
    """All arms of one trained model: quality on the test split, and latency."""
    assert parent.card.task is not None
    task = load_task(parent.card.task)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        arms = {"fp32": parent.onnx} | _calibrated(parent.onnx, task, folder, settings)
        began = time.monotonic()
        made = _trained(parent, task, QatConfig(**settings), folder / "qat")
        seconds = time.monotonic() - began
        arms["qat"] = made.onnx
        measured = measure(arms, BENCH, inputs=feeds(task.validation))
        rows = {arm: _row(parent.onnx, path, task) for arm, path in arms.items()}
        for arm in arms.keys() - {"fp32"}:
            rows[arm]["speed"] = {
                batch: 1 / measured.ratio("fp32", arm, batch)[0] for batch in BENCH.batch
            }
    evidence = made.card.evidence
    kept = ("method", "kept", "fit", "validation", "agreement", "scales", "left_in_fp32")
    return {
        "task": task.name,
        "metric": task.metric.name,
        "test_samples": len(task.test),
        "arms": rows,
        "settings": settings,
        "seconds": round(seconds, 1),
        **{key: evidence[key] for key in kept},
    }


def _calibrated(
    source: Path, task: Task, folder: Path, settings: dict[str, Any]
) -> dict[str, Path]:
    """Static and dynamic int8, and what `qat` starts from, without any training."""
    found: dict[str, Path] = {}
    samples = TaskJudge(task).calibration(QatConfig().samples, 0)
    for method in ("static", "dynamic", "auto"):
        try:
            config = QatConfig.model_validate(settings | {"method": method})
            model, _, used = calibrated(source, samples, config)
        except NoEffect as error:
            print(error)
            continue
        name = f"{used}, calibrated"
        found[name] = folder / f"{method}.onnx"
        onnx.save(shorten_names(strip(model)), found[name])
    return found


def _trained(parent: Artifact, task: Task, config: QatConfig, folder: Path) -> Artifact:
    stage = Stage("qat", "qat", None, config)
    context = Context(
        task=task,
        data=parent.card.task or "",
        model={},
        budget=BudgetConfig(),
        bench=BENCH,
        seed=0,
        device="cpu",
        cache=folder.with_name("cache"),
        progress=quiet,
    )
    inputs = Inputs(parent=parent, baseline=parent)
    return make_artifact(folder, stage, inputs, context, "benchmark", {})


def _row(reference: Path, path: Path, task: Task) -> dict[str, Any]:
    before, after = _scores(reference, task), _scores(path, task)
    drop, interval = paired_drop(before, after, task.metric.higher_is_better)
    return {
        "value": float(after.mean()),
        "drop": drop,
        "drop_interval": list(interval),
        "size_bytes": path.stat().st_size,
    }


def _scores(path: Path, task: Task) -> npt.NDArray[np.float64]:
    outputs = run_onnx(Session(path), task.test)
    return task.metric.score(outputs, task.test.targets.numpy())


def table(family: str, found: dict[str, Any]) -> str:
    """One line an arm."""
    lines = [f"{family} ({found['task']}, {found['test_samples']} test samples)"]
    for arm, row in found["arms"].items():
        low, high = row["drop_interval"]
        speeds = ", ".join(f"{speed:.2f} ×" for speed in row.get("speed", {}).values())
        figures = f"{row['value']:.4f}  lost {row['drop']:+.4f} [{low:+.4f}, {high:+.4f}]"
        lines.append(f"  {arm:32}{figures}  {speeds}")
    return "\n".join(lines)


if __name__ == "__main__":
    main()

"""Whether a taught student is better than the same student alone, over seeds, for each family.

    python -m benchmarks.distillation rnn                 a family, or several
    python -m benchmarks.distillation rnn --teacher runs/rnn/1-train --seeds 6

Both students of a seed start from the same weights and get as many epochs of the same augmented
data; one sees labels, the other the teacher's answers as well. Learning rates were set for the
student alone. Test figures are paired by seed: mean difference, Student's t interval, exact
signed-rank p.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy import stats

from compress.artifact import load_artifact
from compress.data.references import load_task
from compress.data.task import Task
from compress.distillation.soft_targets import soft_target_loss
from compress.distillation.teacher import Views, taught_batches
from compress.models.build import build
from compress.models.references import resolve
from compress.training.batches import Batches, LabelledBatches
from compress.training.config import TrainConfig
from compress.training.loop import fit
from compress.training.losses import label_loss
from compress.training.precision import Loss
from compress.training.validation import predict

RESULTS = Path(__file__).parent / "results" / "distillation.json"


@dataclass(frozen=True)
class Family:
    """A teacher, a student, and how the student is trained in both arms.

    Attributes:
        teacher: the recipe's trained model that teaches, if no other is named.
        views: augmented copies that the teacher answers; 0 for fresh answers in every epoch.
    """

    task: str
    teacher: Path
    student: str
    settings: dict[str, Any]
    fit: dict[str, Any]
    temperature: float = 4.0
    alpha: float = 0.9
    views: int = 0
    smoothing: float = field(default=0.05)


FAMILIES = {
    "cnn": Family(
        "mnist",
        Path("runs/cnn/1-train"),
        "cnn-tiny",
        {"widths": [6, 12, 12, 12]},
        {"epochs": 40, "batch_size": 64, "learning_rate": 0.01},
    ),
    "rnn": Family(
        "spoken-digits",
        Path("runs/rnn/1-train"),
        "lstm",
        {"widths": [20]},
        {"epochs": 30, "batch_size": 32, "learning_rate": 0.01},
    ),
    "transformer": Family(
        "reviews",
        Path("runs/transformer/2-train"),
        "transformer-small",
        {"width": 48, "feed_forward": [96], "dropout": 0.1, "pooling": "mean_max"},
        {"epochs": 4, "batch_size": 64, "learning_rate": 0.002},
        temperature=2.0,
    ),
}


def main() -> None:
    """Run the named families and store what came out."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("families", nargs="*", default=list(FAMILIES))
    parser.add_argument("--teacher", type=Path, help="artifact folder, for one family")
    parser.add_argument("--seeds", type=int, default=6)
    arguments = parser.parse_args()
    stored = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    for name in arguments.families:
        family = FAMILIES[name]
        stored[name] = compare(family, arguments.teacher or family.teacher, arguments.seeds)
        print(name, json.dumps({k: v for k, v in stored[name].items() if k != "runs"}, indent=1))
        RESULTS.write_text(json.dumps(stored, indent=1) + "\n")


def compare(family: Family, teacher: Path, seeds: int) -> dict[str, Any]:
    """Both arms for every seed, and the paired difference on the test split."""
    task, onnx = load_task(family.task), load_artifact(teacher).onnx
    runs = []
    for seed in range(seeds):
        views = Views(task, family.views, seed=seed)
        batch_size = family.fit["batch_size"]
        taught = taught_batches(onnx, views, batch_size)
        soft = soft_target_loss(family.temperature, family.alpha, family.smoothing, task.kind)
        hard = label_loss(task.kind, family.smoothing)
        labelled = LabelledBatches(task.train, batch_size, task.augment)
        figures = {
            "alone": _student(family, task, labelled, hard, seed),
            "taught": _student(family, task, taught, soft, seed),
        }
        runs.append(figures)
        print(f"seed {seed}: {figures}", flush=True)
    gains = np.array([run["taught"]["test"] - run["alone"]["test"] for run in runs])
    gains = gains if task.metric.higher_is_better else -gains
    interval = stats.t.interval(0.95, seeds - 1, gains.mean(), stats.sem(gains))
    return {
        "student": {"name": family.student, **family.settings},
        "fit": family.fit,
        "alpha": family.alpha,
        "temperature": family.temperature,
        "metric": task.metric.name,
        "alone": float(np.mean([run["alone"]["test"] for run in runs])),
        "taught": float(np.mean([run["taught"]["test"] for run in runs])),
        "gain": float(gains.mean()),
        "interval": [float(bound) for bound in interval],
        "p_signed_rank_one_sided": float(stats.wilcoxon(gains, alternative="greater").pvalue),
        "runs": runs,
    }


def _student(
    family: Family, task: Task, batches: Batches, loss: Loss, seed: int
) -> dict[str, float]:
    torch.manual_seed(seed)
    model = build(resolve(family.student, family.settings, task.facts))
    settings = {"optimizer": "adamw", "weight_decay": 0.01, "warmup": 0.1, "precision": "fp32"}
    fit(model, batches, loss, TrainConfig.model_validate({**settings, **family.fit}), seed=seed)
    splits = {"validation": task.validation, "test": task.test}
    return {
        name: float(task.metric.score(predict(model, split), split.targets.numpy()).mean())
        for name, split in splits.items()
    }


if __name__ == "__main__":
    main()

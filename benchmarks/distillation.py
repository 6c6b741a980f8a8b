"""Whether a taught student is better than the same student alone, over seeds, for each family.

    python -m benchmarks.distillation                     every family, about an hour
    python -m benchmarks.distillation rnn --seeds 12      a family, or several
    python -m benchmarks.distillation rnn --share 0.1     of the training split, for both students

The teacher is the recipe's, kept in runs/distillation. Both students of a seed start from the same
weights. They are trained as the recipe's stages `student` and `student-alone` say, for as many
epochs of as much data: one sees labels, the other the teacher's answers as well. Test figures are
paired by seed: mean gain, Student's t interval, exact signed-rank p.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy import stats
from torch import nn

from compress.artifact import Artifact, load_artifact
from compress.data.references import load_task
from compress.data.task import Split, Task
from compress.distillation.soft_targets import soft_target_loss
from compress.distillation.teacher import Views, taught_batches
from compress.measure.config import BenchConfig
from compress.models.build import build
from compress.models.references import resolve
from compress.pipeline.runner import run
from compress.recipe import Recipe
from compress.recipe.parse import load_recipe
from compress.training.batches import Batches, LabelledBatches
from compress.training.config import FitConfig
from compress.training.loop import fit
from compress.training.losses import label_loss
from compress.training.precision import Loss
from compress.training.validation import predict

RESULTS = Path(__file__).parent / "results" / "distillation.json"


@dataclass(frozen=True)
class Family:
    """What is changed in a recipe for this question.

    Attributes:
        overrides: of the recipe. Where its student is as good alone, which the README says, a
            weaker one takes its place.
        share: of the training split that both arms get, to be done within minutes.
    """

    overrides: tuple[str, ...] = ()
    share: float = 1.0


FAMILIES = {
    "cnn": Family(("student.epochs=60", "student-alone.epochs=60"), share=0.2),
    "rnn": Family(
        (
            "student.student={name: lstm, widths: [20]}",
            "student.epochs=60",
            "student-alone.epochs=60",
        ),
        share=0.2,
    ),
    "transformer": Family(
        (
            "student.student={name: transformer-small}",
            "student.table_rate=1",
            "student-alone.table_rate=1",
            "student.epochs=6",
            "student-alone.epochs=6",
        )
    ),
    "gpt": Family(share=0.25),
    "forecast": Family(),
}


def main() -> None:
    """Run the named families and store what came out."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("families", nargs="*", default=list(FAMILIES))
    parser.add_argument("--runs", type=Path, default=Path("runs/distillation"), help="teachers")
    parser.add_argument("--seeds", type=int, default=6)
    parser.add_argument(
        "--share", type=float, help="of the training split; each family has its own"
    )
    parser.add_argument("--more", action="store_true", help="keep the seeds that are stored")
    arguments = parser.parse_args()
    for family in arguments.families:
        share = arguments.share or FAMILIES[family].share
        name = family if arguments.share is None else f"{family}, share {share:g}"
        stored = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
        known = stored.get(name, {}).get("runs", []) if arguments.more else []
        found = compare(family, share, arguments.runs / family, arguments.seeds, known)
        print(name, json.dumps({k: v for k, v in found.items() if k != "runs"}, indent=1))
        RESULTS.write_text(json.dumps(stored | {name: found}, indent=1) + "\n")


def compare(
    name: str, share: float, folder: Path, seeds: int, known: list[dict[str, Any]]
) -> dict[str, Any]:
    """Both arms for every seed that is not known yet, and the paired gain on the test split."""
    family = FAMILIES[name]
    recipe = load_recipe(Path(f"recipes/{name}.yaml"), family.overrides)
    stages = {stage.name: stage.config for stage in recipe.stages}
    taught, alone = stages["student"], stages["student-alone"]
    teacher, task = make_teacher(recipe, taught.teacher, folder).onnx, load_task(recipe.task)
    task = replace(task, train=part_of(task, share))
    student = dict(taught.student) if isinstance(taught.student, dict) else {"name": taught.student}
    student_name = student.pop("name")

    def run_arm(config: FitConfig, batches: Batches, loss: Loss, seed: int) -> dict[str, float]:
        torch.manual_seed(seed)
        model = build(resolve(student_name, student, task.facts))
        fit(model, batches, loss, config, seed=seed)
        return _scores(task, model)

    runs = list(known[:seeds])
    for seed in range(len(runs), seeds):
        views = Views(task, taught.views, seed=seed, augment=taught.augment)
        soft = soft_target_loss(taught.temperature, taught.alpha, taught.label_smoothing, task.kind)
        labelled = LabelledBatches(task.train, alone.batch_size, task.augment)
        hard = label_loss(task.kind, alone.label_smoothing)
        figures = {
            "alone": run_arm(alone, labelled, hard, seed),
            "taught": run_arm(
                taught, taught_batches(teacher, views, taught.batch_size), soft, seed
            ),
        }
        runs.append(figures)
        print(f"seed {seed}: {figures}", flush=True)
    gains = np.array([run["taught"]["test"] - run["alone"]["test"] for run in runs])
    gains = gains if task.metric.higher_is_better else -gains
    interval = stats.t.interval(0.95, seeds - 1, gains.mean(), stats.sem(gains))
    own = "" if share == family.share else f" --share {share:g}"
    return {
        "command": f"python -m benchmarks.distillation {name} --seeds {seeds}{own}",
        "student": taught.student,
        "overrides": family.overrides,
        "share_of_training_data": share,
        "metric": task.metric.name,
        "alone": float(np.mean([run["alone"]["test"] for run in runs])),
        "taught": float(np.mean([run["taught"]["test"] for run in runs])),
        "gain": float(gains.mean()),
        "interval": [float(bound) for bound in interval],
        "p_signed_rank_one_sided": float(stats.wilcoxon(gains, alternative="greater").pvalue),
        "runs": runs,
    }


def part_of(task: Task, share: float) -> Split:
    """That share of the training split: the beginning of a text, any samples of other tasks."""
    count = len(task.train)
    rows = torch.randperm(count, generator=torch.Generator().manual_seed(0))
    if task.kind == "language model":
        rows = torch.arange(count)
    return task.train.subset(rows[: round(share * count)].sort().values)


def make_teacher(recipe: Recipe, name: str, out: Path) -> Artifact:
    """The recipe's stages up to its teacher; kept ones are taken."""
    last = next(place for place, stage in enumerate(recipe.stages) if stage.name == name)
    bench = replace(recipe.stages[-1], config=BenchConfig(batch=(1,), workers=1, rounds=2))
    run(replace(recipe, stages=(*recipe.stages[: last + 1], bench)), out)
    return load_artifact(out / f"{last + 1}-{name}")


def _scores(task: Task, model: nn.Module) -> dict[str, float]:
    splits = {"validation": task.validation, "test": task.test}
    return {
        name: float(task.metric.score(predict(model, split), split.targets.numpy()).mean())
        for name, split in splits.items()
    }


if __name__ == "__main__":
    main()

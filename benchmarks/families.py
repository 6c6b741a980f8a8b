"""Recurrent networks and Transformers from nothing to the report, against their goals.

    python -m benchmarks.families                 every recipe below, about 45 minutes
    python -m benchmarks.families rnn forecast    only these; run nothing beside it

Stores each report and its verdicts in benchmarks/results/<recipe>.json, and leaves the models in
runs/families/<recipe>.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.main_job import ratio, table
from compress.report.schema import Report, load_report

RESULTS = Path(__file__).parent / "results"
RUNS = Path("runs/families")


@dataclass(frozen=True)
class Goal:
    """What a recipe has to reach on the test split, and at batch 1 in its own run.

    Attributes:
        quality: least (or, where lower is better, largest) metric of the trained model; None where
            it has to beat what answers without a model, see `Task.simple`.
        faster, smaller: least factors of the final model.
        drop: largest drop of the final model, as a share of the baseline where `relative`.
        branch: stage that keeps the family, and its least factor of speed.
        seconds: longest run.
    """

    quality: float | None
    faster: float
    smaller: float
    drop: float
    relative: bool = False
    branch: tuple[str, float] | None = None
    seconds: float = 480


GOALS = {
    "rnn": Goal(0.988, 50, 50, 0.005, branch=("quantize", 8)),
    "gru": Goal(0.98, 8, 8, 0.005),
    "transformer": Goal(None, 15, 15, 0.01, branch=("quantize", 5), seconds=720),
    "gpt": Goal(2.0, 5, 8, 0.03, relative=True, seconds=900),
    "forecast": Goal(None, 5, 1, 0.03, relative=True),
}


def main() -> None:
    """Run the named recipes, print and store what they reached."""
    for name in sys.argv[1:] or GOALS:
        folder = RUNS / name
        shutil.rmtree(folder, ignore_errors=True)
        start = time.monotonic()
        command = ["compress", "run", f"recipes/{name}.yaml", "--out", str(folder)]
        code = subprocess.run(command, check=False).returncode
        seconds = time.monotonic() - start
        report = load_report(folder / "report.json")
        verdicts = goals(report, GOALS[name], simple(report.recipe["task"]))
        limit = GOALS[name].seconds
        verdicts[f"whole run, seconds (goal ≤ {limit:g})"] = (round(seconds), seconds <= limit)
        verdicts["exit code of the run (goal 0)"] = (code, code == 0)
        for what, (value, kept) in verdicts.items():
            print(f"{'kept  ' if kept else 'MISSED'}  {name}: {what}: {value}")
        print(table(report))
        stored = report.model_dump(mode="json") | {
            "command": f"python -m benchmarks.families {name}"
        }
        content = {"goals": verdicts, "report": stored}
        (RESULTS / f"{name}.json").write_text(json.dumps(content, indent=1, ensure_ascii=False))


def simple(task: str) -> dict[str, float]:
    """What answers without a model reach on the task's test split."""
    from compress.data.references import load_task

    if task == "reviews":
        from benchmarks.text_baseline import test_accuracy

        return {"TF-IDF and linear SVM": test_accuracy()}
    return load_task(task).simple


def goals(report: Report, goal: Goal, answers: dict[str, float]) -> dict[str, tuple[Any, bool]]:
    """Each goal's figure and whether it was reached."""
    assert report.final is not None
    trained = report.arm(report.baseline).quality
    assert trained is not None
    sign = 1 if trained.higher_is_better else -1
    bars = {"the goal": goal.quality} if goal.quality is not None else answers
    found: dict[str, tuple[Any, bool]] = {
        f"trained model's {trained.metric} against {name} {bar:.4g}": (
            round(trained.value, 4),
            sign * (trained.value - bar) >= 0,
        )
        for name, bar in bars.items()
    }
    speed = 1 / ratio(report, report.final, "latency", 1)
    size = 1 / ratio(report, report.final, "size")
    found[f"final {report.final}: × faster at batch 1 (goal ≥ {goal.faster:g})"] = (
        round(speed, 1),
        speed >= goal.faster,
    )
    found[f"final: × smaller (goal ≥ {goal.smaller:g})"] = (round(size, 1), size >= goal.smaller)
    entry = report.comparison(report.final, "quality")
    drop = entry.difference if entry and entry.difference is not None else float("nan")
    share = drop / trained.value if goal.relative else drop
    unit = "share of the metric" if goal.relative else trained.metric
    found[f"final: lost on the test split, {unit} (goal ≤ {goal.drop:g})"] = (
        round(share, 4),
        share <= goal.drop,
    )
    if goal.branch:
        stage, least = goal.branch
        name = next(arm.name for arm in report.arms if arm.name.endswith(f"-{stage}"))
        speed = 1 / ratio(report, name, "latency", 1)
        found[f"branch {name}: × faster at batch 1 (goal ≥ {least:g})"] = (
            round(speed, 1),
            speed >= least,
        )
    return found


if __name__ == "__main__":
    main()

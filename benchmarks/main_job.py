"""The main job from nothing to the report, against its goals.

    python -m benchmarks.main_job                 about 6 minutes, run nothing beside it
    python -m benchmarks.main_job seed=1          any override of the recipe

Stores the report and the verdicts in benchmarks/results/main_job.json.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from compress.report.schema import Arm, Report, load_report

RESULTS = Path(__file__).parent / "results" / "main_job.json"
RECIPE = "recipes/cnn.yaml"


def main() -> None:
    """Run the recipe twice, check every goal, print and store the table."""
    with tempfile.TemporaryDirectory() as folder:
        first, code = _timed(Path(folder))
        second, _ = _timed(Path(folder))
        report = load_report(Path(folder) / "report.json")
    verdicts = {
        "whole run, seconds (goal ≤ 300)": (round(first), first <= 300 and code == 0),
        "second run, seconds (goal < 5)": (round(second, 1), second < 5),
        **goals(report),
    }
    for name, (value, kept) in verdicts.items():
        print(f"{'kept  ' if kept else 'MISSED'}  {name}: {value}")
    print(table(report))
    kept_report = report.model_dump(mode="json") | {"command": "python -m benchmarks.main_job"}
    RESULTS.write_text(
        json.dumps({"overrides": sys.argv[1:], "goals": verdicts, "report": kept_report}, indent=1)
    )


def _timed(folder: Path) -> tuple[float, int]:
    start = time.monotonic()
    command = ["compress", "run", RECIPE, "--out", str(folder), *sys.argv[1:]]
    done = subprocess.run(command, check=False)
    return time.monotonic() - start, done.returncode


def goals(report: Report) -> dict[str, tuple[Any, bool]]:
    """Each goal's figure and whether it was reached."""
    assert report.final is not None
    pruned = next(arm.name for arm in report.arms if arm.name.endswith("-quantize"))
    teacher = report.arm(report.baseline).quality
    assert teacher is not None
    found: dict[str, tuple[Any, bool]] = {
        "teacher's test accuracy (goal ≥ 0.99)": (round(teacher.value, 4), teacher.value >= 0.99)
    }
    for title, name, speeds, smaller in (
        ("final", report.final, {1: 40, 32: 40}, 25),
        ("ResNet-20 branch", pruned, {1: 4, 32: 6}, 10),
    ):
        for batch, least in speeds.items():
            speed = 1 / ratio(report, name, "latency", batch)
            found[f"{title} {name}: × faster at batch {batch} (goal ≥ {least})"] = (
                round(speed, 1),
                speed >= least,
            )
        size = 1 / ratio(report, name, "size")
        found[f"{title}: × smaller (goal ≥ {smaller})"] = (round(size, 1), size >= smaller)
        entry = report.comparison(name, "quality")
        drop = entry.difference if entry and entry.difference is not None else 1.0
        found[f"{title}: points lost on the test split (goal ≤ 0.5)"] = (
            round(100 * drop, 2),
            drop <= 0.005,
        )
    return found


def ratio(report: Report, name: str, what: str, batch: int | None = None) -> float:
    """Candidate over baseline; NaN where it was not measured."""
    entry = report.comparison(name, what, batch)
    return entry.ratio if entry and entry.ratio else float("nan")


def table(report: Report) -> str:
    """The README's table."""
    arm = report.arm(report.baseline)
    assert arm.quality is not None
    batches = sorted({entry.batch for entry in report.comparisons if entry.batch})
    faster = [f"faster at {batches[0]}", *(f"at {batch}" for batch in batches[1:])]
    titles = [
        "model",
        "precision",
        f"{arm.quality.metric} [95 %]",
        *faster,
        "smaller",
        "parameters",
    ]
    lines = [f"| {' | '.join(titles)} |", f"|{' --- |' * len(titles)}"]
    lines += [_row(report, arm, batches) for arm in report.arms]
    return "\n".join(lines)


def _row(report: Report, arm: Arm, batches: list[int]) -> str:
    assert arm.quality is not None
    low, high = arm.quality.bounds
    name = arm.name + (f" (control of {arm.control_of})" if arm.control_of else "")
    name = f"**{name}**" if arm.name == report.final else name
    cells = [name, arm.precision, f"{arm.quality.value:.4f} [{low:.3f}, {high:.3f}]"]
    for what, batch in (*(("latency", batch) for batch in batches), ("size", None)):
        entry = report.comparison(arm.name, what, batch)
        cells.append(f"{1 / entry.ratio:.1f} ×" if entry and entry.ratio else "–")
    return f"| {' | '.join([*cells, f'{arm.parameters:,}'])} |"


if __name__ == "__main__":
    main()

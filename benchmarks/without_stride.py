"""How far pruning and int8 go on ResNet-20 when the first convolution keeps its stride of 1.

    python -m benchmarks.without_stride           about 4 minutes on two cores

The same recipe without the student's branch and the controls, at two MACs targets.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import yaml

import compress
from benchmarks.main_job import RECIPE, ratio
from compress.recipe import parse_recipe

RESULTS = Path(__file__).parent / "results" / "without_stride.json"
KEPT = ("train", "prune", "distill", "quantize", "benchmark")


def main() -> None:
    """Run both targets; print and store the ratios to the trained fp32 model."""
    content = yaml.safe_load(Path(RECIPE).read_text(encoding="utf-8"))
    stages = [
        stage for stage in content["stages"] if not {"name"} & set(next(iter(stage.values())))
    ]
    content["stages"] = [stage for stage in stages if next(iter(stage)) in KEPT]
    rows = {}
    with tempfile.TemporaryDirectory() as folder:
        for macs in (0.47, 0.7):  # 0.464 is the least that whole blocks of 16 leave
            recipe = parse_recipe(content, RECIPE, ["prune.strides={}", f"prune.macs={macs}"])
            report = compress.run(recipe, Path(folder)).report
            name = next(arm.name for arm in report.arms if arm.name.endswith("-quantize"))
            drop = report.comparison(name, "quality")
            rows[f"macs={macs}"] = {
                "precision": report.arm(name).precision,
                "faster_batch_1": round(1 / ratio(report, name, "latency", 1), 2),
                "faster_batch_32": round(1 / ratio(report, name, "latency", 32), 2),
                "smaller": round(1 / ratio(report, name, "size"), 2),
                "drop": drop.difference if drop else None,
            }
    print(json.dumps(rows, indent=1))
    RESULTS.write_text(json.dumps({"machine": report.machine, "rows": rows}, indent=1))


if __name__ == "__main__":
    main()

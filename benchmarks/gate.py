"""How often the gate is wrong: a model against itself, and against one that really does more work.

    python -m benchmarks.gate                       20 gates of each kind, about 15 minutes
    python -m benchmarks.gate --gates 100 same      one kind
    python -m benchmarks.gate --noisy               with a neighbour on every core, busy in bursts

Models are stacks of equal matrix products of about 1 ms; "slower by 10 %" has a tenth more of
them. Beside the gate stand the rules of two well-known tools, on the times of the same runs: of
each run one process, as they have one, against the run before, which is what they store.

    pytest-benchmark          --benchmark-compare-fail=mean:5% and min:5%
    github-action-benchmark   alert-threshold: 105% of the mean, and its default of 200%

A run's mean and least are of medians over 15 calls, which is calmer than the single calls that
these tools take: the rules do no worse here than they would there.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from compress.pipeline.check import BASELINE, CANDIDATE, CheckConfig, check

RESULTS = Path(__file__).parent / "results" / "gate.json"
#: Kind to the candidate's share of products, and the margin it is judged with.
KINDS = {"same": (1.0, 0.05), "slower by 10 %": (1.1, 0.05), "slower by 5 %": (1.05, 0.03)}
_PRODUCTS, _WIDTH, _BATCH = 200, 128, 16
_BUSY = """
import random, time, numpy as np
a = np.ones((300, 300))
while True:
    until = time.monotonic() + random.uniform(0.1, 2)
    while time.monotonic() < until: a @ a
    time.sleep(random.uniform(0.1, 2))
"""


def main() -> None:
    """Run the gates and store what they said."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("kinds", nargs="*", default=list(KINDS), help=", ".join(KINDS))
    parser.add_argument("--gates", type=int, default=20)
    parser.add_argument("--noisy", action="store_true", help="a busy neighbour beside it")
    arguments = parser.parse_args()
    for kind in arguments.kinds:
        with tempfile.TemporaryDirectory() as folder, neighbour(busy=arguments.noisy):
            name = f"{kind}, {'noisy' if arguments.noisy else 'quiet'}"
            for found in run(kind, arguments.gates, Path(folder)):
                stored = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
                RESULTS.write_text(json.dumps(stored | {name: found}, indent=1) + "\n")
        print(name, json.dumps(found))


def run(kind: str, gates: int, folder: Path) -> Iterator[dict[str, Any]]:
    """So many gates of one kind: after each the verdicts so far, seconds, and the other rules'."""
    share, margin = KINDS[kind]
    before = write(folder / "before.onnx", _PRODUCTS)
    after = write(folder / "after.onnx", round(share * _PRODUCTS))
    config = CheckConfig(margin=margin, size_margin=1.0, batch=(_BATCH,))
    verdicts, unfit = Counter[str](), 0
    seconds: list[float] = []
    runs: list[dict[str, list[int]]] = []
    ratios: list[float] = []
    workers: list[int] = []
    for number in range(gates):
        start = time.monotonic()
        report = check(before, after, config, seed=number)
        seconds.append(time.monotonic() - start)
        entry = report.comparison(CANDIDATE, "latency", _BATCH)
        assert report.gate is not None
        assert entry is not None
        assert entry.ratio is not None
        verdicts[entry.verdict] += 1
        unfit += not report.gate.fit
        ratios.append(entry.ratio)
        workers.append(report.gate.workers)
        assert report.raw is not None
        runs.append({cell.arm: cell.blocks_ns[0] for cell in report.raw.cells})
        print(f"{kind} {number + 1}: {entry.verdict} {entry.ratio:.3f}", flush=True)
        yield {
            "gates": number + 1,
            "margin": margin,
            "verdicts": dict(verdicts),
            "machine_unfit": unfit,
            "median_seconds": round(statistics.median(seconds), 1),
            "median_workers": statistics.median(workers),
            "ratios": [min(ratios), statistics.median(ratios), max(ratios)],
            "called_worse_by_rules": rules(runs),
        }


def rules(runs: list[dict[str, list[int]]]) -> dict[str, float]:
    """Share of runs in which each rule calls the candidate worse than the baseline before it."""
    pairs = [(old[BASELINE], new[CANDIDATE]) for old, new in pairwise(runs)]
    ratios = {
        "mean": [statistics.mean(new) / statistics.mean(old) for old, new in pairs],
        "min": [min(new) / min(old) for old, new in pairs],
    }
    limits = {
        "pytest-benchmark, mean:5%": ("mean", 1.05),
        "pytest-benchmark, min:5%": ("min", 1.05),
        "github-action-benchmark, 105%": ("mean", 1.05),
        "github-action-benchmark, 200% (default)": ("mean", 2.0),
    }
    return {
        rule: float(np.mean([ratio > limit for ratio in ratios[figure]])) if pairs else 0.0
        for rule, (figure, limit) in limits.items()
    }


def write(path: Path, products: int) -> Path:
    """A model of so many products, one behind the other."""
    shape: list[str | int | None] = ["n", _WIDTH]
    given = helper.make_tensor_value_info("v0", TensorProto.FLOAT, shape)
    made = helper.make_tensor_value_info(f"v{products}", TensorProto.FLOAT, shape)
    matrix = np.random.default_rng(0).normal(0, _WIDTH**-0.5, (_WIDTH, _WIDTH))
    weight = numpy_helper.from_array(matrix.astype(np.float32), "w")
    nodes = [helper.make_node("MatMul", [f"v{i}", "w"], [f"v{i + 1}"]) for i in range(products)]
    graph = helper.make_graph(nodes, "stack", [given], [made], [weight])
    opsets = [helper.make_opsetid("", 18)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=9), path)
    return path


@contextmanager
def neighbour(*, busy: bool) -> Iterator[None]:
    """A process for each core that computes in bursts beside the gates, where it is asked for."""
    if not busy:
        yield
        return
    command, threads = [sys.executable, "-c", _BUSY], {"OPENBLAS_NUM_THREADS": "1"}
    others = [subprocess.Popen(command, env=threads) for _ in range(os.cpu_count() or 1)]
    try:
        yield
    finally:
        for other in others:
            other.kill()
            other.wait()


if __name__ == "__main__":
    main()

"""How often a flat history gets a mark, and how often a real step is found, by simulation.

    python -m benchmarks.change_points        about two minutes; writes results/change_points.json

Figures of a flat history are noise of 1 % about one level: normal, or with the heavy tails of
Student's t with two degrees of freedom; on one machine, or on two that differ by a factor. A step
is one of two or five times the noise, so many commits before the end of forty.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import numpy.typing as npt

from compress.change_points import change_points

RESULTS = Path(__file__).parent / "results" / "change_points.json"
RUNS, NOISE = 1000, 0.01
#: Name to (commits, series, heavy tails, machines).
FLAT = {
    "20 commits, one series": (20, 1, False, 1),
    "20 commits, one series, heavy tails": (20, 1, True, 1),
    "40 commits, four series": (40, 4, False, 1),
    "40 commits, four series, two machines": (40, 4, True, 2),
}
STEPS, BEFORE_END = (2, 5), (3, 5, 10, 20)


def main() -> None:
    """Simulate, print and store."""
    random = np.random.default_rng(0)
    marked = {name: _marked(random, *setting) for name, setting in FLAT.items()}
    found = {
        f"{step} times the noise, {late} before the end of 40": _found(random, step, late)
        for step in STEPS
        for late in BEFORE_END
    }
    result = {"histories": RUNS, "flat_histories_marked": marked, "steps_found": found}
    print(json.dumps(result, indent=1))
    RESULTS.write_text(json.dumps(result, indent=1) + "\n")


def _noise(random: np.random.Generator, n: int, *, heavy: bool) -> npt.NDArray[np.float64]:
    drawn = random.standard_t(2, n) if heavy else random.standard_normal(n)
    return NOISE * drawn


def _marked(random: np.random.Generator, n: int, series: int, heavy: bool, machines: int) -> float:
    """Share of flat histories with any change point."""
    hits = 0
    for run in range(RUNS):
        groups = random.integers(0, machines, n)
        values = [(_noise(random, n, heavy=heavy) + groups).tolist() for _ in range(series)]
        found = change_points(values, [groups.tolist()] * series, seed=run)
        hits += any(found)
    return hits / RUNS


def _found(random: np.random.Generator, step: int, late: int) -> dict[str, float]:
    """Share of histories whose step is found at all, and at its place or one beside it."""
    there = near = 0
    for run in range(RUNS):
        values = _noise(random, 40, heavy=False)
        values[-late:] += step * NOISE
        places = [change.place for change in change_points([values.tolist()], seed=run)[0]]
        there += bool(places)
        near += any(abs(place - (40 - late)) <= 1 for place in places)
    return {"at all": there / RUNS, "within one commit": near / RUNS}


if __name__ == "__main__":
    main()

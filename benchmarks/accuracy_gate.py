"""How often the gate on accuracy is wrong, and how often it can tell, by exact sums.

    python -m benchmarks.accuracy_gate        a second; writes results/accuracy_gate.json

For 1,000 samples and a margin of one point: true drops of none, half the margin, the margin, and
two points; and how many of the samples the two models disagree on. At the margin and beyond it
"ok" is an error, below it "regressed" is.
"""

from __future__ import annotations

import json
from pathlib import Path

from compress.gate import accuracy_rates
from compress.stats import samples_for_proof

RESULTS = Path(__file__).parent / "results" / "accuracy_gate.json"
SAMPLES, MARGIN, STATED = (200, 1000, 3000), 0.01, 0.025
DROPS = (0.0, 0.005, 0.01, 0.02)
DISCORDANCES = (0.005, 0.01, 0.015, 0.02, 0.03, 0.05, 0.1, 0.2, 0.3)


def main() -> None:
    """Sum, print the worst, and store."""
    rows = [
        {"n": n, "drop": drop, "discordance": share, **_rounded(n, drop, share)}
        for n in SAMPLES
        for drop in DROPS
        for share in DISCORDANCES
        if share >= drop
    ]
    wrong_ok = {n: _worst(rows, n, "ok", above=True) for n in SAMPLES}
    wrong_regressed = {n: _worst(rows, n, "regressed", above=False) for n in SAMPLES}
    needed = {share: samples_for_proof(share, MARGIN) for share in DISCORDANCES}
    proven = {share: _rounded(n, 0.0, share)["ok"] for share, n in needed.items()}
    found = {
        "margin": MARGIN,
        "stated_error": STATED,
        "most_often_ok_in_error": wrong_ok,
        "most_often_regressed_in_error": wrong_regressed,
        "samples_for_proof": needed,
        "proven_at_that_many": proven,
        "rates": rows,
    }
    RESULTS.write_text(json.dumps(found, indent=1) + "\n")
    print(json.dumps({key: value for key, value in found.items() if key != "rates"}, indent=1))


def _rounded(n: int, drop: float, discordance: float) -> dict[str, float]:
    rates = accuracy_rates(n, drop, discordance, MARGIN)
    return {verdict: round(rate, 5) for verdict, rate in rates.items()}


def _worst(rows: list[dict[str, float]], n: int, verdict: str, *, above: bool) -> float:
    """The largest rate of a verdict that is wrong: at the margin both may be."""
    side = [row for row in rows if row["n"] == n and (row["drop"] >= MARGIN) == above]
    return max(row[verdict] for row in side)


if __name__ == "__main__":
    main()

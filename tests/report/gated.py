"""The sample's models as a check leaves them: slower at one batch size, unclear at the other."""

from __future__ import annotations

from sample import sample_report

from compress.report import Report
from compress.report.schema import Comparison, Gate

TITLE = "runs/new against runs/main"


def _entry(what: str, verdict: str, **figures: object) -> Comparison:
    names = {"baseline": "baseline", "candidate": "candidate"}
    return Comparison.model_validate({**names, "what": what, "verdict": verdict, **figures})


def gated_report(verdict: str = "regressed") -> Report:
    """Five comparisons, one of each kind; "ok" has none that failed or is open."""
    sample = sample_report()
    arms = [
        sample.arm(name).model_copy(update={"name": part, "parent": None})
        for name, part in (("3-distill", "baseline"), ("4-quantize", "candidate"))
    ]
    bad = verdict == "regressed"
    comparisons = [
        _entry("quality", "ok", difference=0.001, interval=(-0.002, 0.004), n=1000),
        _entry(
            "latency",
            "regressed" if bad else "ok",
            batch=1,
            ratio=1.2 if bad else 1.0,
            interval=(1.15, 1.25) if bad else (0.99, 1.01),
            n=8,
        ),
        _entry("latency", "inconclusive" if bad else "ok", batch=32, ratio=1.04, n=18),
        _entry("size", "improved", ratio=103_000 / 316_000),
        _entry("int8", "improved", difference=-21),
    ]
    gate = Gate.model_validate(
        {
            "verdict": verdict,
            "margin": 0.05,
            "max_drop": 0.01,
            "size_margin": 0.01,
            "workers": 18,
            "control": {1: 1.001, 32: 0.998},
            "fit": True,
            "explanation": f"{verdict}: latency at batch 1 1.200 × [1.150, 1.250].",
        }
    )
    update = {"arms": arms, "comparisons": comparisons, "gate": gate, "title": TITLE}
    update |= {"baseline": "baseline", "final": None, "budget": None, "candidates": []}
    return sample.model_copy(update=update)

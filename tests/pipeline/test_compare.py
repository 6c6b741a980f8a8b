"""One arm against another: paired quality, latency of one run, and exact sizes."""

from __future__ import annotations

import math

import numpy as np
import pytest

from compress.measure.latency import Measured
from compress.pipeline.compare import compare, quality_comparison
from compress.report.schema import Arm, Comparison
from compress.stats import ratio_interval, tango_interval


def measured(workers: int = 8) -> Measured:
    random = np.random.default_rng(0)
    under = random.uniform(1, 2, (workers, 4))
    blocks = {
        ("base", 1, 1): under,
        ("small", 1, 1): under * random.uniform(0.4, 0.6, (workers, 1)),
        ("base", 8, 1): under,
        ("small", 8, 1): under,
    }
    return Measured(blocks, dict.fromkeys(blocks, 100))


def arm(name: str, timed: Measured | None = None, **figures: int | None) -> Arm:
    return Arm(
        name=name,
        kind="train",
        file="model.onnx",
        runtime="onnxruntime",
        device="cpu",
        precision="fp32",
        latency=timed.latency(name) if timed else [],
        **{"size_bytes": 100, **figures},
    )


def hits(*wrong: int) -> dict[str, np.ndarray]:
    scores = np.ones(50)
    scores[list(wrong)] = 0
    return {"test": scores, "validation": np.zeros(50)}


def test_every_figure_that_both_arms_have_is_compared():
    timed = measured()
    base = arm("base", timed, size_bytes=1000, parameters=50, macs=70)
    small = arm("small", timed, size_bytes=250, parameters=50, macs=140)
    scores = {"base": hits(1, 2), "small": hits(2, 3, 4)}
    found = compare(base, small, timed, scores, max_drop=0.5)
    assert [(entry.what, entry.batch) for entry in found] == [
        ("quality", None),
        ("latency", 1),
        ("latency", 8),
        ("size", None),
        ("parameters", None),
        ("macs", None),
    ]
    quality, fast, equal, *exact = found
    assert quality == Comparison(
        baseline="base",
        candidate="small",
        what="quality",
        difference=0.02,
        interval=tango_interval(2, 1, 50),
        n=50,
        verdict="ok",
    )
    blocks = timed.blocks
    cells = [timed.best(name, 1) for name in ("small", "base")]
    ratios = np.median(blocks[cells[0]] / blocks[cells[1]], axis=1)
    ratio, interval = ratio_interval(ratios.tolist())
    assert (fast.ratio, fast.interval) == (pytest.approx(ratio), pytest.approx(interval))
    assert (fast.n, fast.verdict) == (8, "improved")
    assert (equal.ratio, equal.verdict) == (1.0, "ok")
    assert [(entry.ratio, entry.verdict) for entry in exact] == [
        (0.25, "improved"),
        (1.0, "ok"),
        (2.0, "regressed"),
    ]
    assert all(entry.interval is None and entry.n is None for entry in exact)


def test_too_few_workers_for_an_interval_are_inconclusive():
    timed = measured(workers=3)
    (entry,) = (
        entry
        for entry in compare(arm("base", timed), arm("small", timed), timed)
        if (entry.what, entry.batch) == ("latency", 1)
    )
    assert entry.interval is None
    assert (entry.n, entry.verdict) == (3, "inconclusive")
    assert 0.4 < entry.ratio < 0.6


def test_without_data_and_for_a_control_only_what_is_known_is_compared():
    timed = measured()
    assert [entry.what for entry in compare(arm("base", timed), arm("control"), timed)] == ["size"]
    known = compare(arm("base", parameters=5), arm("small", parameters=None, macs=7), timed)
    assert [entry.what for entry in known] == ["size"]


@pytest.mark.parametrize(
    ("wrong", "max_drop", "verdict"),
    [
        (range(20), 0.05, "regressed"),
        (range(2), 0.2, "ok"),
        (range(2), 0.05, "inconclusive"),
        (range(2), math.inf, "ok"),
    ],
)
def test_the_verdict_on_a_drop(wrong: range, max_drop: float, verdict: str):
    before, after = hits()["test"], hits(*wrong)["test"]
    found = quality_comparison(arm("base"), arm("small"), before, after, True, max_drop)
    assert found.verdict == verdict
    assert found.difference == pytest.approx(len(wrong) / 50)


def test_a_drop_is_worse_whichever_way_the_metric_points():
    errors = np.linspace(0, 1, 50)
    found = quality_comparison(arm("base"), arm("small"), errors, errors + 0.25, False, 0.1)
    assert found.difference == pytest.approx(0.25)
    assert found.verdict == "regressed"
    better = quality_comparison(arm("base"), arm("small"), errors, errors - 0.25, False, 0.1)
    assert better.difference == pytest.approx(-0.25)
    assert better.verdict == "ok"

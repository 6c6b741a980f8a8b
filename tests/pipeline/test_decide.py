"""Choosing the final model on validation, and judging it on the test split, on given figures."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from compress.data.task import Task
from compress.measure.latency import Measured
from compress.pipeline.decide import choose_final, judge, latency_verdict
from compress.recipe import BudgetConfig
from compress.report.schema import Arm, Budget, Report
from compress.stats import tango_interval


def arm(name: str, size: int) -> Arm:
    return Arm(
        name=name,
        kind="train",
        file=f"{name}/model.onnx",
        runtime="onnxruntime",
        device="cpu",
        precision="fp32",
        size_bytes=size,
    )


def final(
    models: dict[str, tuple[float, float, int]], max_drop: float = 0.01, minimise: str = "latency"
) -> tuple[str, list[str]]:
    """`choose_final` on name to milliseconds, validation drop and bytes."""
    arms = [arm(name, size) for name, (_, _, size) in models.items()]
    blocks = {(name, 1, 1): np.full((3, 4), values[0]) for name, values in models.items()}
    drops = {name: values[1] for name, values in models.items()}
    budget = BudgetConfig(max_drop=max_drop, minimise=minimise)
    measured = Measured(blocks, dict.fromkeys(blocks, 1))
    return choose_final(arms, drops, measured, budget, budget.max_drop)


def test_the_fastest_within_the_budget_is_final_and_the_others_are_named():
    chosen, notes = final(
        {
            "base": (10, 0.0, 100),
            "small": (2, 0.005, 30),
            "fast": (1, 0.02, 20),
            "slow": (12, -0.01, 10),
        }
    )
    assert chosen == "small"
    assert notes == ["fast: not chosen, its validation drop of 0.0200 is over the budget of 0.01."]


def test_a_drop_of_exactly_the_budget_is_within_it():
    models = {"base": (10, 0.0, 100), "edge": (1, 0.1 + 0.2 - 0.29, 20)}
    assert final(models, max_drop=0.01)[0] == "edge"


def test_of_equally_fast_ones_the_smallest_is_final():
    models = {"base": (10, 0, 100), "a": (1, 0, 30), "b": (1.04, 0, 20), "c": (1.06, 0, 10)}
    assert final(models)[0] == "b"


def test_size_is_minimised_whatever_the_latency():
    models = {"base": (10, 0, 100), "a": (1, 0, 30), "b": (20, 0, 20), "c": (1, 0.5, 10)}
    assert final(models, minimise="size")[0] == "b"


def test_where_nothing_keeps_the_budget_the_baseline_stays_and_the_nearest_is_named():
    chosen, notes = final({"base": (10, 0, 100), "a": (1, 0.3, 30), "b": (1, 0.2, 20)})
    assert chosen == "base"
    assert notes == [
        "No compressed model kept the budget; the nearest is b.",
        "a: not chosen, its validation drop of 0.3000 is over the budget of 0.01.",
        "b: not chosen, its validation drop of 0.2000 is over the budget of 0.01.",
    ]


MODEL = st.tuples(st.floats(0.1, 10), st.floats(-0.1, 0.1), st.integers(1, 1000))


@settings(max_examples=60, deadline=None)
@given(st.dictionaries(st.sampled_from("abcd"), MODEL), st.sampled_from(["latency", "size"]))
def test_no_other_allowed_model_is_clearly_better(
    models: dict[str, tuple[float, float, int]], minimise: str
):
    everything = {"base": (5.0, 0.0, 500), **models}
    chosen, notes = final(everything, max_drop=0.02, minimise=minimise)
    milliseconds, drop, size = everything[chosen]
    allowed = [values for values in everything.values() if values[1] <= 0.02]
    assert drop <= 0.02
    if minimise == "size":
        assert size == min(values[2] for values in allowed)
    else:
        assert milliseconds <= 1.05 * min(values[0] for values in allowed) * (1 + 1e-9)
    over = sum(values[1] > 0.02 + 1e-9 for values in everything.values())
    assert sum("not chosen" in note for note in notes) == over


def judged(
    before: list[int], after: list[int], task: Task, max_drop: float, chosen: str = "small"
) -> Budget:
    report = Report(
        tool_version="0",
        created="now",
        command="",
        title="",
        machine={},
        recipe={},
        recipe_hash="",
        baseline="base",
        final=chosen,
        arms=[arm("base", 2), arm("small", 1)],
    )
    scores = {"base": np.array(before, float), "small": np.array(after, float)}
    metric, budget = task.metric, BudgetConfig(max_drop=max_drop, minimise="size")
    return judge(report, scores, metric.name, metric.higher_is_better, budget)


def scores(worse: int, better: int, n: int) -> tuple[list[int], list[int]]:
    """Hits of two models: on `worse` samples only the first is right, on `better` the second."""
    before = [1] * worse + [0] * better + [1] * (n - worse - better)
    return before, [0] * worse + [1] * better + [1] * (n - worse - better)


def test_a_whole_interval_inside_the_budget_is_proof(tiny_task: Task):
    found = judged(*scores(2, 1, 2000), tiny_task, 0.01)
    low, high = tango_interval(2, 1, 2000)
    assert found == Budget(
        max_drop=0.01,
        minimise="size",
        status="proven",
        explanation="The whole interval lies within the budget of 0.01: accuracy drop +0.0005, "
        f"95 % interval [{low:+.4f}, {high:+.4f}], 2,000 test samples.",
    )


def test_an_estimate_inside_the_budget_meets_it_and_says_what_a_proof_needs(tiny_task: Task):
    found = judged(*scores(8, 6, 500), tiny_task, 0.01)
    low, high = tango_interval(8, 6, 500)
    assert found.status == "met"
    # 8.57 · 14/500 discordant pairs / 0.01², rounded up: (z of 95 % one-sided + z of 90 %)².
    assert found.explanation == (
        "The estimate lies within the budget of 0.01: accuracy drop +0.0040, "
        f"95 % interval [{low:+.4f}, {high:+.4f}], 500 test samples; "
        "a proof would need about 2,943 samples."
    )


def test_a_budget_of_nothing_can_be_met_and_no_number_of_samples_proves_it(tiny_task: Task):
    found = judged(*scores(3, 3, 100), tiny_task, 0.0)
    assert found.status == "met"
    assert "a proof" not in found.explanation


def test_an_estimate_over_the_budget_misses_it(tiny_task: Task):
    found = judged(*scores(30, 5, 500), tiny_task, 0.01)
    assert found.status == "missed"
    assert found.explanation.startswith(
        "The test drop is over the budget of 0.01: accuracy drop +0.0500, 95 % interval [+0.0"
    )


def test_a_baseline_that_stays_misses_the_budget(tiny_task: Task):
    found = judged(*scores(0, 0, 50), tiny_task, 0.01, chosen="base")
    assert found.status == "missed"
    assert found.explanation == (
        "Nothing smaller or faster kept the budget: the trained model stays."
    )


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 20), st.integers(0, 20), st.integers(40, 400), st.floats(0.001, 0.2))
def test_the_status_never_improves_as_the_budget_shrinks(
    tiny_task: Task, worse: int, better: int, n: int, max_drop: float
):
    order = {"missed": 0, "met": 1, "proven": 2}
    budgets = [max_drop, max_drop / 2, max_drop / 8, 0.0]
    found = [order[judged(*scores(worse, better, n), tiny_task, b).status] for b in budgets]
    assert all(larger >= smaller for larger, smaller in pairwise(found))
    interval = tango_interval(worse, better, n)
    assert (found[0] == 2) == (interval[1] <= max_drop)


@pytest.mark.parametrize(
    ("interval", "verdict"),
    [
        (None, "inconclusive"),
        ((1.06, 1.2), "regressed"),
        ((0.2, 0.94), "improved"),
        ((0.97, 1.04), "ok"),
        ((0.5, 1.04), "ok"),
        ((0.97, 1.2), "inconclusive"),
        ((0.5, 1.5), "inconclusive"),
        ((1.05, 1.05), "inconclusive"),
    ],
)
def test_the_verdict_on_an_interval_of_a_ratio(interval: tuple[float, float] | None, verdict: str):
    assert latency_verdict(interval) == verdict

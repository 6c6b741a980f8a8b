"""The gate's decisions: against scipy and statsmodels, and by simulation of their error rates."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from compress.errors import InputError
from compress.gate import LOOKS, accuracy_rates, decide, keeps, looks_for, machine_is_fit
from compress.stats import holm, signed_rank_p, tango_interval

MARGIN = 0.05

NOISES = {
    "normal": lambda random, shape: random.normal(0, 0.02, shape),
    "t2": lambda random, shape: 0.01 * random.standard_t(2, shape),
    "bimodal": lambda random, shape: (
        random.choice([-0.02, 0.02], shape) + random.normal(0, 0.002, shape)
    ),
}


@given(n=st.integers(1, 12), seed=st.integers(0, 10_000), shift=st.floats(-2, 2))
@settings(max_examples=60, deadline=None)
def test_signed_rank_p_is_scipys_exact_one(n: int, seed: int, shift: float):
    values = np.random.default_rng(seed).normal(shift, 1, n)
    expected = stats.wilcoxon(values, alternative="greater", method="exact").pvalue
    assert signed_rank_p(values) == pytest.approx(expected)


def test_signed_rank_p_counts_all_signs_where_values_tie():
    # Ranks 1.5, 1.5 and 3, of which 1.5 and 3 are positive: sums of at least 4.5 have 3 of 8.
    assert signed_rank_p([1.0, -1.0, 2.0]) == pytest.approx(3 / 8)
    assert signed_rank_p([]) == 1
    assert signed_rank_p([1.0] * 8) == pytest.approx(2**-8)


@given(
    p=st.lists(st.floats(0, 1), min_size=1, max_size=8), alpha=st.sampled_from([0.01, 0.05, 0.3])
)
@settings(max_examples=60, deadline=None)
def test_holm_is_statsmodels(p: list[float], alpha: float):
    multitest = pytest.importorskip("statsmodels.stats.multitest")
    assert holm(p, alpha) == multitest.multipletests(p, alpha, method="holm")[0].tolist()


@pytest.mark.parametrize(
    ("ratio", "verdict"), [(1.2, "regressed"), (1.0, "ok"), (0.9, "improved"), (1.05, None)]
)
def test_a_clear_case_is_decided_at_the_first_look(ratio: float, verdict: str | None):
    noise = np.array([-3, -2, -1, 0.5, 1, 2, 3, -0.5]) / 1000
    found = decide({1: math.log(ratio) + noise}, MARGIN, LOOKS[0].alpha)
    assert found.get(1) == verdict


def test_one_gate_of_several_is_judged_by_holms_share():
    barely = np.array([1, 2, 3, 4, 5, 6, 7, -1.5]) / 100 + math.log1p(MARGIN)
    alpha = 1.01 * signed_rank_p(barely - math.log1p(MARGIN))
    assert decide({1: barely}, MARGIN, alpha) == {1: "regressed"}
    assert decide({1: barely, 8: barely}, MARGIN, alpha) == {}


def test_a_promise_has_a_bound_of_its_own():
    noise = np.array([-3, -2, -1, 0.5, 1, 2, 3, -0.5]) / 1000
    logs = {"kept": math.log(0.4) + noise, "broken": math.log(0.6) + noise}
    bounds = dict.fromkeys(logs, 0.5)
    assert keeps(logs, bounds, LOOKS[0].alpha) == {"kept": True, "broken": False}
    assert keeps(logs | {"third": noise}, bounds | {"third": 2.0}, LOOKS[0].alpha) == {}
    assert keeps({"edge": math.log(0.5) + noise}, {"edge": 0.5}, LOOKS[0].alpha) == {}


@pytest.mark.parametrize("noise", NOISES)
def test_a_promise_at_its_bound_is_broken_no_oftener_than_stated(noise: str):
    random = np.random.default_rng(8)
    drawn = math.log(0.5) + NOISES[noise](random, (800, LOOKS[-1].workers))
    broken = 0
    for row in drawn:
        looks = (keeps({0: row[: look.workers]}, {0: 0.5}, look.alpha) for look in LOOKS)
        broken += not next((found[0] for found in looks if found), True)
    assert broken / 800 <= 0.025 + 3 * math.sqrt(0.025 * 0.975 / 800)


def test_more_gates_take_more_processes():
    assert [len(looks_for(gates)) for gates in (0, 2, 3, 24, 25, 2359)] == [3, 3, 2, 2, 1, 1]
    with pytest.raises(
        InputError, match="2,360 latency gates in one check take 19 processes, and at most 18"
    ):
        looks_for(2_360)


def test_the_looks_share_the_error():
    assert sum(look.alpha for look in LOOKS) == pytest.approx(0.025)
    assert all(2.0**-look.workers <= look.alpha for look in LOOKS)


def simulate(ratio: float, noise: str, runs: int, margin: float = MARGIN) -> dict[str, float]:
    """Shares of the verdicts that whole gates with all their looks come to."""
    random = np.random.default_rng(7)
    drawn = math.log(ratio) + NOISES[noise](random, (runs, LOOKS[-1].workers))
    said = []
    for row in drawn:
        looks = (decide({1: row[: look.workers]}, margin, look.alpha) for look in LOOKS)
        said.append(next((found[1] for found in looks if found), "inconclusive"))
    return {verdict: said.count(verdict) / runs for verdict in set(said)}


@pytest.mark.parametrize("noise", NOISES)
def test_at_the_boundary_both_errors_are_rarer_than_stated(noise: str):
    found = simulate(1 + MARGIN, noise, 800)
    limit = 0.025 + 3 * math.sqrt(0.025 * 0.975 / 800)
    assert found.get("regressed", 0) <= limit
    assert found.get("ok", 0) + found.get("improved", 0) <= limit


@pytest.mark.parametrize("noise", NOISES)
def test_no_difference_is_hardly_ever_called_one(noise: str):
    found = simulate(1.0, noise, 400)
    assert found.get("regressed", 0) + found.get("improved", 0) <= 0.01


def test_a_clear_slowdown_is_hardly_ever_missed():
    assert simulate(1.10, "normal", 400)["regressed"] >= 0.98
    assert simulate(1.06, "normal", 400, margin=0.03)["regressed"] >= 0.98


def test_a_machine_that_differs_from_itself_is_unfit():
    still = np.zeros(8)
    assert machine_is_fit({1: still, 32: still + 0.02}, MARGIN)
    assert not machine_is_fit({1: still, 32: still - 0.03}, MARGIN)


DISCORDANCES = (0.005, 0.01, 0.012, 0.015, 0.02, 0.03, 0.05, 0.1, 0.2, 0.3)


@pytest.mark.parametrize("discordance", [share for share in DISCORDANCES if share >= 0.02])
def test_a_drop_of_twice_the_margin_is_hardly_ever_ok(discordance: float):
    # 1,000 samples, one point allowed, two points lost: stated are 2.5 %.
    assert accuracy_rates(1000, 0.02, discordance, 0.01)["ok"] <= 0.006


@pytest.mark.parametrize("discordance", [share for share in DISCORDANCES if share >= 0.01])
@pytest.mark.parametrize("n", [500, 1000, 3000])
def test_a_drop_of_just_the_margin_is_ok_no_oftener_than_stated(n: int, discordance: float):
    rates = accuracy_rates(n, 0.01, discordance, 0.01)
    assert rates["ok"] <= 0.0252
    assert rates["regressed"] <= 0.034  # no error at the margin; a score interval is approximate


@pytest.mark.parametrize("discordance", DISCORDANCES)
def test_no_drop_is_hardly_ever_called_one(discordance: float):
    assert accuracy_rates(1000, 0.0, discordance, 0.01)["regressed"] <= 0.006


def test_accuracy_rates_are_those_of_the_interval_that_decides():
    n, worse, better, margin = 40, 0.15, 0.10, 0.05
    expected = dict.fromkeys(("ok", "regressed", "inconclusive"), 0.0)
    for b in range(n + 1):
        for c in range(n + 1 - b):
            low, high = tango_interval(b, c, n)
            verdict = "ok" if high <= margin else "regressed" if low > margin else "inconclusive"
            cells = [worse, better, 1 - worse - better]
            expected[verdict] += stats.multinomial.pmf([b, c, n - b - c], n, cells)
    rates = accuracy_rates(n, worse - better, worse + better, margin)
    assert rates == pytest.approx(expected, abs=1e-9)
    assert rates["regressed"] > 0.01

"""Intervals against hand-worked numbers, scipy's exact tests and likelihoods maximised anew."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import optimize, stats

from compress.stats import (
    mean_interval,
    metric_bootstrap,
    paired_bootstrap,
    paired_drop,
    quantile_interval,
    ratio_interval,
    samples_for_proof,
    tango_interval,
    wilson_interval,
)

Z = 1.959963984540054


def test_wilson_by_hand():
    # p = 0.9, n = 10: (p + z²/2n ± z √(p(1-p)/n + z²/4n²)) / (1 + z²/n)
    centre = (0.9 + 3.8414588 / 20) / 1.38414588
    half = 1.959964 * math.sqrt(0.009 + 3.8414588 / 400) / 1.38414588
    assert wilson_interval(9, 10) == pytest.approx((centre - half, centre + half), abs=1e-6)
    assert wilson_interval(9, 10) == pytest.approx((0.5958, 0.9821), abs=1e-4)


def test_wilson_of_no_error_reaches_one():
    assert wilson_interval(100, 100) == pytest.approx((100 / (100 + Z**2), 1.0), abs=1e-9)


def test_mean_interval_is_students():
    # mean 2.5, standard deviation √(5/3), t(0.975; 3) = 3.182446
    half = 3.182446 * math.sqrt(5 / 3) / 2
    assert mean_interval([1, 2, 3, 4]) == pytest.approx((2.5 - half, 2.5 + half), abs=1e-5)


def test_mean_interval_of_hits_is_wilsons():
    assert mean_interval([1, 0, 1, 1, 1, 0]) == wilson_interval(4, 6)


def test_mean_interval_of_one_score_is_unbounded():
    assert mean_interval([0.3]) == (-math.inf, math.inf)


def test_tango_check_value():
    low, high = tango_interval(10, 0, 1000, confidence=0.90)
    assert high == pytest.approx(0.0167, abs=5e-5)
    assert 0 < low < 0.01


def test_tango_without_disagreement_by_hand():
    # The restricted estimate of the rarer cell is 0, so z² = n drop / (1 - drop).
    bound = Z**2 / (50 + Z**2)
    assert tango_interval(0, 0, 50) == pytest.approx((-bound, bound), abs=1e-8)


def tango_score(worse: int, better: int, n: int, drop: float) -> float:
    """The score statistic with its nuisance parameter found by maximising the likelihood."""

    def loss(cell: float) -> float:
        parts = ((worse, cell + drop), (better, cell), (n - worse - better, 1 - 2 * cell - drop))
        return -sum(count * math.log(max(share, 1e-300)) for count, share in parts if count)

    bounds = (max(0.0, -drop), (1 - drop) / 2)
    cell = optimize.minimize_scalar(loss, bounds=bounds, method="bounded", options={"xatol": 1e-12})
    spread = n * (2 * cell.x + drop * (1 - drop))
    return (worse - better - n * drop) / math.sqrt(spread)


@given(
    worse=st.integers(0, 30),
    better=st.integers(0, 30),
    same=st.integers(5, 500),
    confidence=st.sampled_from([0.8, 0.9, 0.95, 0.99]),
)
@settings(max_examples=60, deadline=None)
def test_tango_bounds_solve_the_score_equation(worse, better, same, confidence):
    n = worse + better + same
    low, high = tango_interval(worse, better, n, confidence)
    z = stats.norm.ppf(0.5 + confidence / 2)
    assert tango_score(worse, better, n, low) == pytest.approx(z, abs=2e-3)
    assert tango_score(worse, better, n, high) == pytest.approx(-z, abs=2e-3)
    assert low <= (worse - better) / n <= high


@given(worse=st.integers(0, 40), better=st.integers(0, 40), same=st.integers(0, 200))
@settings(max_examples=60, deadline=None)
def test_tango_changes_sign_with_the_roles(worse, better, same):
    n = worse + better + same + 1
    low, high = tango_interval(worse, better, n)
    assert tango_interval(better, worse, n) == pytest.approx((-high, -low), abs=1e-7)


def test_tango_where_every_sample_got_worse():
    # The score is √(n (1 - drop) / (1 + drop)) there; set to z and solved for the drop.
    low, high = tango_interval(20, 0, 20)
    assert low == pytest.approx((20 - Z**2) / (20 + Z**2))
    assert high == 1.0


def test_paired_drop_counts_discordant_pairs():
    baseline = np.array([1.0] * 90 + [0.0] * 10)
    candidate = np.array([1.0] * 86 + [0.0] * 4 + [1.0] * 1 + [0.0] * 9)
    drop, interval = paired_drop(baseline, candidate, higher_is_better=True)
    assert drop == pytest.approx(0.03)
    assert interval == tango_interval(4, 1, 100)


def test_paired_drop_of_a_loss_points_the_other_way():
    baseline, candidate = np.array([1.5, 2.5, 0.5]), np.array([2.0, 3.5, 0.2])
    drop, (low, high) = paired_drop(baseline, candidate, higher_is_better=False)
    assert drop == pytest.approx(0.4)
    expected = stats.ttest_rel(candidate, baseline).confidence_interval(0.95)
    assert (low, high) == pytest.approx((expected.low, expected.high))


def test_samples_for_proof_is_the_normal_approximation():
    factor = (stats.norm.ppf(0.975) + stats.norm.ppf(0.9)) ** 2
    assert samples_for_proof(0.02, 0.005) == pytest.approx(factor * 0.02 / 0.005**2, rel=2e-3)
    assert samples_for_proof(0.02, 0.0025) == pytest.approx(4 * samples_for_proof(0.02, 0.005), 1)


def test_samples_for_proof_prove_nine_times_out_of_ten():
    discordance, margin, random = 0.04, 0.02, np.random.default_rng(3)
    n = samples_for_proof(discordance, margin)
    cells = [discordance / 2, discordance / 2, 1 - discordance]
    tables = random.multinomial(n, cells, size=400)
    proven = [tango_interval(b, c, n)[1] < margin for b, c, _ in tables]
    assert 0.85 <= np.mean(proven) <= 0.95


def test_samples_for_proof_where_the_models_never_disagree():
    n = samples_for_proof(0.0, 0.01)
    assert tango_interval(0, 0, n)[1] <= 0.01 < tango_interval(0, 0, n - 1)[1]


def accepted(ratios: np.ndarray, ratio: float) -> bool:
    """Whether scipy's exact two-sided signed-rank test at 5 % keeps that ratio."""
    return stats.wilcoxon(np.log(ratios) - np.log(ratio), method="exact").pvalue > 0.05


@given(n=st.integers(6, 25), seed=st.integers(0, 10_000))
@settings(max_examples=40, deadline=None)
def test_ratio_interval_inverts_scipys_signed_rank_test(n, seed):
    ratios = np.exp(np.random.default_rng(seed).normal(0.1, 0.2, n))
    estimate, (low, high) = ratio_interval(ratios)
    assert low <= estimate <= high
    assert accepted(ratios, low * (1 + 1e-9))
    assert accepted(ratios, high * (1 - 1e-9))
    assert not accepted(ratios, low * (1 - 1e-9))
    assert not accepted(ratios, high * (1 + 1e-9))


@pytest.mark.parametrize(("n", "cut"), [(6, 0), (7, 2), (8, 3), (10, 8), (12, 13), (18, 40)])
def test_ratio_interval_cuts_where_the_tables_do(n, cut):
    # Critical values of the signed-rank statistic at 2.5 % one-sided, as tabulated since Wilcoxon.
    ratios = np.exp(np.random.default_rng(n).normal(0, 1, n))
    logs = np.log(ratios)
    walsh = sorted((logs[i] + logs[j]) / 2 for i in range(n) for j in range(i, n))
    estimate, interval = ratio_interval(ratios)
    assert interval == pytest.approx((math.exp(walsh[cut]), math.exp(walsh[-1 - cut])))
    assert estimate == pytest.approx(math.exp(np.median(walsh)))


def test_ratio_interval_of_too_few_workers_is_unbounded():
    assert ratio_interval([1.0, 2.0, 4.0, 2.0, 2.0]) == (pytest.approx(2.0), (0.0, math.inf))


def test_ratio_interval_covers_as_often_as_it_says():
    # With 8 workers the exact level is 1 - 2 · 5/256.
    random = np.random.default_rng(7)
    intervals = [ratio_interval(np.exp(random.standard_t(2, 8)))[1] for _ in range(2000)]
    covered = np.mean([low <= 1 <= high for low, high in intervals])
    assert covered == pytest.approx(1 - 10 / 256, abs=0.012)


def test_paired_drop_of_real_scores_is_students_whatever_the_differences():
    baseline = np.array([2.5, 3.0, 4.0] * 10)
    candidate = np.array([1.5, 3.0, 4.0] * 10)  # differences of 0 and 1 only
    expected = stats.ttest_rel(baseline, candidate).confidence_interval(0.95)
    assert paired_drop(baseline, candidate, True)[1] == pytest.approx((expected.low, expected.high))
    assert paired_drop(baseline, baseline, True) == (0.0, (0.0, 0.0))


@pytest.mark.parametrize("q", [0.5, 0.9, 0.95, 0.99])
@pytest.mark.parametrize("confidence", [0.9, 0.95])
def test_quantile_bounds_are_the_binomial_tests_own(q: float, confidence: float):
    for n in (5, 30, 100, 777):
        values = np.random.default_rng(n).permutation(np.arange(n, dtype=float))
        expected = stats.quantile_test(values, p=q).confidence_interval(confidence)
        found = quantile_interval(values, q, confidence)
        if math.isnan(expected.low) or math.isnan(expected.high):
            assert found is None
        else:
            assert found == (expected.low, expected.high)


@pytest.mark.parametrize(("q", "least"), [(0.5, 5), (0.9, 29), (0.95, 59), (0.99, 299)])
def test_quantiles_need_so_many_values(q: float, least: int):
    assert quantile_interval(np.arange(least), q) is not None
    assert quantile_interval(np.arange(least - 1), q) is None
    assert quantile_interval([], q) is None


@pytest.mark.parametrize(("q", "n"), [(0.5, 40), (0.9, 29), (0.95, 200), (0.99, 299)])
def test_quantile_intervals_hold_what_they_promise(q: float, n: int):
    random = np.random.default_rng(0)
    truth = float(np.exp(stats.norm.ppf(q)))
    bounds = [quantile_interval(random.lognormal(size=n), q) for _ in range(2000)]
    low = np.mean([truth < bound[0] for bound in bounds if bound])
    high = np.mean([truth > bound[1] for bound in bounds if bound])
    # Each side errs in at most 5 %; three standard errors of 2,000 draws are 1.5 points.
    assert max(low, high) < 0.065


def squares(means: np.ndarray) -> np.ndarray:
    """A metric that is no mean: the square of one."""
    return means[..., 0] ** 2


def test_paired_bootstrap_is_scipys():
    random = np.random.default_rng(0)
    before = random.exponential(1.0, (50, 1))
    after = before + random.normal(0.2, 0.1, (50, 1))

    def difference(old: np.ndarray, new: np.ndarray, axis: int) -> np.ndarray:
        return new.mean(axis=axis) ** 2 - old.mean(axis=axis) ** 2

    expected = stats.bootstrap(
        (before[:, 0], after[:, 0]),
        difference,
        paired=True,
        n_resamples=2000,
        method="BCa",
        rng=np.random.default_rng(5),
    ).confidence_interval
    estimate, interval = paired_bootstrap(before, after, squares, seed=5)
    assert estimate == pytest.approx(after.mean() ** 2 - before.mean() ** 2)
    assert interval == pytest.approx((expected.low, expected.high))
    assert interval == paired_bootstrap(before, after, squares, seed=5)[1]
    assert interval != paired_bootstrap(before, after, squares, seed=6)[1]


def test_paired_bootstrap_of_models_that_agree():
    same = np.ones((20, 1))
    assert paired_bootstrap(same, same, squares) == (0.0, (0.0, 0.0))
    estimate, bounds = paired_bootstrap(same, 2 * same, squares)
    assert (estimate, *bounds) == pytest.approx((3.0, 3.0, 3.0))
    assert paired_bootstrap(same[:1], same[:1], squares) == (0.0, (-math.inf, math.inf))


def test_the_bootstrap_of_one_model_is_scipys():
    values = np.random.default_rng(0).exponential(1.0, (40, 1))
    expected = stats.bootstrap(
        (values[:, 0],),
        lambda drawn, axis: drawn.mean(axis=axis) ** 2,
        n_resamples=2000,
        method="BCa",
        rng=np.random.default_rng(3),
    ).confidence_interval
    estimate, interval = metric_bootstrap(values, squares, seed=3)
    assert estimate == pytest.approx(values.mean() ** 2)
    assert interval == pytest.approx((expected.low, expected.high))
    estimate, bounds = metric_bootstrap(np.ones((9, 1)), squares)
    assert (estimate, *bounds) == pytest.approx((1.0, 1.0, 1.0))
    assert metric_bootstrap(values[:1], squares)[1] == (-math.inf, math.inf)


def test_the_bootstrap_of_one_model_covers_its_true_perplexity():
    random, runs, covered = np.random.default_rng(2), 300, 0
    for run in range(runs):
        bits = random.gamma(2.0, 0.2, (60, 1)) + 1
        _, (low, high) = metric_bootstrap(
            bits, lambda means: 2 ** means[..., 0], resamples=400, seed=run
        )
        covered += low <= 2**1.4 <= high
    assert 0.91 <= covered / runs <= 0.985  # 0.95, give or take three standard errors


def test_paired_bootstrap_covers_a_true_difference_of_perplexities():
    # Each sequence's bits: 1 + noise and 1.1 + the same noise + its own; perplexity is 2^mean.
    random, runs, n, covered = np.random.default_rng(1), 300, 60, 0
    truth = 2**1.1 - 2**1.0
    for run in range(runs):
        shared = random.gamma(2.0, 0.2, (n, 1)) - 0.4
        before, after = 1 + shared, 1.1 + shared + random.normal(0, 0.1, (n, 1))
        _, (low, high) = paired_bootstrap(
            before, after, lambda means: 2 ** means[..., 0], resamples=400, seed=run
        )
        covered += low <= truth <= high
    assert 0.91 <= covered / runs <= 0.985  # 0.95, give or take three standard errors


def test_errors_of_zero_are_no_misses():
    nothing, ones = np.zeros(7), np.ones(7)
    assert paired_drop(nothing, nothing, higher_is_better=False) == (0.0, (0.0, 0.0))
    assert paired_drop(ones, ones, higher_is_better=True)[1][1] > 0.2  # seven hits prove little
    assert paired_drop(ones, ones, higher_is_better=False)[1][1] > 0.2

"""Intervals and tests for what is measured. Numbers in, numbers out; no files, no clocks."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence

import numpy as np
from scipy import optimize, stats

Interval = tuple[float, float]


def wilson_interval(hits: int, n: int, confidence: float = 0.95) -> Interval:
    """Wilson's score interval of a proportion (Wilson, 1927), by scipy."""
    interval = stats.binomtest(hits, n).proportion_ci(confidence, method="wilson")
    return float(interval.low), float(interval.high)


def mean_interval(scores: Sequence[float] | np.ndarray, confidence: float = 0.95) -> Interval:
    """Student's t interval of a mean; for scores that are only 0 or 1 Wilson's.

    Args:
        scores: (n,), one a sample, finite.
    """
    values = np.asarray(scores, dtype=float)
    if np.isin(values, (0.0, 1.0)).all():
        return wilson_interval(int(values.sum()), len(values), confidence)
    return _t_interval(values, confidence)


def _t_interval(values: np.ndarray, confidence: float) -> Interval:
    if len(values) < 2:
        return -math.inf, math.inf
    half = stats.t.ppf(0.5 + confidence / 2, len(values) - 1) * stats.sem(values)
    return float(values.mean() - half), float(values.mean() + half)


def tango_interval(worse: int, better: int, n: int, confidence: float = 0.95) -> Interval:
    """Score interval of a paired difference of proportions (Tango, 1998, Statistics in Medicine).

    Args:
        worse: samples that the baseline got right and the candidate wrong.
        better: the reverse.
        n: all samples.

    Returns:
        Bounds of (worse - better) / n, the drop from baseline to candidate.
    """
    z = float(stats.norm.ppf(0.5 + confidence / 2))

    def score(drop: float) -> float:
        return float(tango_score(worse, better, n, drop))

    estimate = (worse - better) / n
    edge = 1 - 1e-12
    low = _root(lambda drop: score(drop) - z, -edge, estimate, fallback=-1.0)
    high = _root(lambda drop: score(drop) + z, estimate, edge, fallback=1.0)
    return low, high


def tango_score(
    worse: np.ndarray | int, better: np.ndarray | int, n: int, drop: float
) -> np.ndarray:
    """Tango's statistic for a true drop, elementwise; its bounds are where it is ± z.

    It falls as the drop grows: the interval lies below a margin where the score there is below -z.
    """
    worse, better = np.asarray(worse, dtype=float), np.asarray(better, dtype=float)
    quadratic, linear = 2 * n, -worse - better + (2 * n - worse + better) * drop
    constant = -better * drop * (1 - drop)
    root = np.sqrt(np.maximum(0.0, linear**2 - 4 * quadratic * constant))
    nuisance = (root - linear) / (2 * quadratic)
    variance = n * (2 * nuisance + drop * (1 - drop))
    found: np.ndarray = (worse - better - n * drop) / np.sqrt(np.maximum(variance, 1e-300))
    return found


def _root(function: object, low: float, high: float, fallback: float) -> float:
    assert callable(function)
    if low >= high or function(low) * function(high) > 0:
        return fallback
    return float(optimize.brentq(function, low, high, xtol=1e-10))


def paired_drop(
    baseline: np.ndarray, candidate: np.ndarray, higher_is_better: bool, confidence: float = 0.95
) -> tuple[float, Interval]:
    """How much worse the candidate is on the same samples, with its interval.

    Args:
        baseline, candidate: (n,), one score a sample.

    Returns:
        The mean drop (positive is worse, whichever way the metric points) and Tango's interval for
        scores of 0 and 1, Student's t interval of the differences otherwise. (Errors that are all 0
        are no hits and misses.)
    """
    drop = (baseline - candidate) if higher_is_better else (candidate - baseline)
    scores = np.concatenate([baseline, candidate])
    if np.isin(scores, (0.0, 1.0)).all() and (higher_is_better or scores.any()):
        worse, better = int((drop > 0).sum()), int((drop < 0).sum())
        return float(drop.mean()), tango_interval(worse, better, len(drop), confidence)
    return float(drop.mean()), _t_interval(drop, confidence)


def paired_bootstrap(
    baseline: np.ndarray,
    candidate: np.ndarray,
    metric: Callable[[np.ndarray], np.ndarray],
    *,
    confidence: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> tuple[float, Interval]:
    """Difference of a metric that is no mean over samples, with its BCa interval (Efron, 1987).

    Whole samples (sequences) are drawn again, the same for both models. BCa and not percentiles:
    F1 and perplexity are bent functions of their sums, so that the bootstrap is biased and skewed,
    which percentiles leave as it is; BCa corrects both from the same resamples.

    Args:
        baseline, candidate: (n, k), what each sample adds to the k means that the metric is made
            of, such as its hits in each class, or its loss.
        metric: takes such means (..., k), gives the metric (...).
        seed: of the resamples; the same seed gives the same interval.

    Returns:
        metric(candidate) - metric(baseline). Where no resample differs from another, as for two
        models that agree on every sample, both bounds are the estimate: a bootstrap knows of no
        sample that it has not seen.
    """
    n, columns = baseline.shape
    if n > 1 and np.array_equal(baseline, candidate):
        return 0.0, (0.0, 0.0)

    def difference(means: np.ndarray) -> np.ndarray:
        return np.asarray(metric(means[..., columns:]) - metric(means[..., :columns]))

    terms = np.hstack([baseline, candidate])
    return metric_bootstrap(
        terms, difference, confidence=confidence, resamples=resamples, seed=seed
    )


def metric_bootstrap(
    terms: np.ndarray,
    metric: Callable[[np.ndarray], np.ndarray],
    *,
    confidence: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> tuple[float, Interval]:
    """A metric that is no mean over samples, with its BCa interval; see `paired_bootstrap`.

    Args:
        terms: (n, k), what each sample adds to the k means that the metric is made of.

    Returns:
        metric of all samples; both bounds are infinite for a single one, and the estimate where no
        resample differs from another.
    """
    n = len(terms)

    def statistic(drawn: np.ndarray, axis: int = -1) -> np.ndarray:
        rows = drawn.reshape(-1, drawn.shape[-1]).astype(np.int64)
        places = (rows + n * np.arange(len(rows))[:, None]).ravel()
        weights = np.bincount(places, minlength=len(rows) * n).reshape(-1, n) / rows.shape[1]
        return np.asarray(metric(weights @ terms)).reshape(drawn.shape[:-1])

    estimate = float(statistic(np.arange(n)))
    if n < 2:
        return estimate, (-math.inf, math.inf)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # where all resamples are equal
        found = stats.bootstrap(
            (np.arange(n),),
            statistic,
            n_resamples=resamples,
            batch=max(1, 4_000_000 // n),
            confidence_level=confidence,
            method="BCa",
            vectorized=True,
            rng=np.random.default_rng(seed),
        )
    low, high = found.confidence_interval
    drawn = found.bootstrap_distribution
    if not math.isfinite(low + high):  # no resample differs from another
        low, high = drawn.min(), drawn.max()
    return estimate, (float(low), float(high))


def samples_for_proof(discordance: float, margin: float) -> int:
    """Samples at which a true drop of zero is proven to be below the margin 9 times out of 10.

    By the normal approximation, for the upper end of a 95 % interval; at least so many that models
    which never disagree are proven equal by Tango's interval. With fewer than some 30 disagreements
    that is optimistic: `python -m benchmarks.accuracy_gate` has the exact rates.

    Args:
        discordance: share of samples on which just one of the two models is right.
        margin: the allowed drop.
    """
    z = float(stats.norm.ppf(0.975))
    power = (z + float(stats.norm.ppf(0.9))) ** 2
    return math.ceil(max(power * discordance / margin**2, z**2 * (1 - margin) / margin))


def ratio_interval(ratios: Sequence[float], confidence: float = 0.95) -> tuple[float, Interval]:
    """Hodges-Lehmann estimate of a ratio and its Walsh-average interval (Hodges & Lehmann, 1963).

    Args:
        ratios: one a worker, positive; replicates that are independent of each other.

    Returns:
        The estimate and the exact signed-rank interval; (0, inf) where there are too few workers
        for that confidence (fewer than 6 at 95 %).
    """
    logs = np.log(np.asarray(ratios, dtype=float))
    first, second = np.triu_indices(len(logs))
    walsh = np.sort((logs[first] + logs[second]) / 2)
    estimate = float(np.exp(np.median(walsh)))
    cut = _signed_rank_cut(len(logs), (1 - confidence) / 2)
    if cut < 0:
        return estimate, (0.0, math.inf)
    return estimate, (float(np.exp(walsh[cut])), float(np.exp(walsh[-1 - cut])))


def quantile_interval(
    values: Sequence[float] | np.ndarray, q: float, confidence: float = 0.90
) -> Interval | None:
    """Interval of a quantile between two order statistics, whatever the distribution.

    How many values lie below the quantile is binomial (Conover, "Practical Nonparametric
    Statistics", 1999, 3.2). Each bound alone errs in at most half of 1 - confidence.

    Args:
        values: (n,), independent of each other.
        q: between 0 and 1.

    Returns:
        Two of the values; None where n is too small for both bounds (at 90 %: 5 for the median, 29
        for q = 0.9, 59 for 0.95, 299 for 0.99).
    """
    ordered, tail = np.sort(np.asarray(values, dtype=float)), (1 - confidence) / 2
    if not len(ordered):
        return None
    below = stats.binom.ppf([tail, 1 - tail], len(ordered), q)
    low, high = int(below[0]), int(below[1]) + 1  # ranks, the smallest is 1
    if low < 1 or high > len(ordered):
        return None
    return float(ordered[low - 1]), float(ordered[high - 1])


def signed_rank_p(values: Sequence[float] | np.ndarray) -> float:
    """Exact one-sided p that the values lie symmetrically about 0 or below (Wilcoxon, 1945).

    Under that hypothesis every sign is a fair coin, so that no shape of the noise is assumed: the
    p is that of the drawn ranks, ties and zeros included.

    Args:
        values: (n,), replicates that are independent of each other; small n, all 2ⁿ signs count.

    Returns:
        Share of all sign patterns whose rank sum is at least the one found; 1 for no values.
    """
    found = np.asarray(values, dtype=float)
    ranks = np.rint(2 * stats.rankdata(np.abs(found))).astype(int)  # halves, where values tie
    ways = np.zeros(int(ranks.sum()) + 1)
    ways[0] = 1
    for rank in ranks:
        ways[rank:] = ways[rank:] + ways[:-rank]
    reached = int(ranks[found > 0].sum())
    return float(ways[reached:].sum() / 2.0 ** len(found))


def holm(p: Sequence[float], alpha: float) -> list[bool]:
    """Which of several hypotheses are rejected, at most `alpha` for one of them in error (1979)."""
    rejected = [False] * len(p)
    for place, number in enumerate(sorted(range(len(p)), key=lambda number: p[number])):
        if p[number] > alpha / (len(p) - place):
            break
        rejected[number] = True
    return rejected


def _signed_rank_cut(n: int, tail: float) -> int:
    """Largest k with P(T <= k) <= tail for the signed-rank statistic of n values, or -1."""
    counts = np.zeros(n * (n + 1) // 2 + 1)
    counts[0] = 1
    for rank in range(1, n + 1):
        counts[rank:] = counts[rank:] + counts[:-rank]
    below = np.cumsum(counts) / 2.0**n
    return int(np.searchsorted(below, tail, side="right")) - 1

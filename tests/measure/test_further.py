"""Further metrics as sums: against scikit-learn, and against their own definition."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import f1_score, log_loss

from compress.data.task import Task, bits
from compress.measure.further import f1_terms, further_metrics, macro_f1
from compress.stats import paired_bootstrap


def answers(n: int = 200, classes: int = 4, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Logits that are often right, and targets."""
    random = np.random.default_rng(seed)
    targets = random.integers(0, classes, n)
    logits = random.normal(0, 1, (n, classes))
    logits[np.arange(n), targets] += 2
    return logits.astype(np.float32), targets


def test_those_of_a_classifier_are_scikit_learns(tiny_task: Task):
    outputs, targets = answers()
    found = {
        name: float(metric.combine(metric.terms(outputs, targets).mean(axis=0)))
        for name, metric in further_metrics(tiny_task).items()
    }
    shares = np.exp(outputs.astype(np.float64))
    assert found == pytest.approx(
        {
            "macro_f1": f1_score(targets, outputs.argmax(axis=1), average="macro"),
            "cross_entropy": log_loss(targets, shares / shares.sum(axis=1, keepdims=True)),
        }
    )


def test_a_class_that_is_nowhere_does_not_count():
    outputs, targets = answers(classes=3)
    wider = np.hstack([outputs, np.full((len(outputs), 1), -99, np.float32)])
    expected = f1_score(targets, outputs.argmax(axis=1), average="macro")
    assert macro_f1(f1_terms(wider, targets).mean(axis=0)) == pytest.approx(expected)


def test_the_interval_of_macro_f1_covers_what_more_data_says():
    covered, runs = 0, 100
    whole, targets = answers(100_000)
    worse = whole + np.random.default_rng(1).normal(0, 1, whole.shape).astype(np.float32)
    terms = [f1_terms(each, targets) for each in (whole, worse)]
    truth = macro_f1(terms[1].mean(axis=0)) - macro_f1(terms[0].mean(axis=0))
    for run in range(runs):
        rows = slice(200 * run, 200 * (run + 1))
        _, (low, high) = paired_bootstrap(
            terms[0][rows], terms[1][rows], macro_f1, resamples=400, seed=run
        )
        covered += low <= truth <= high
    assert covered >= 88


def test_perplexity_is_two_to_the_mean_of_bits():
    random = np.random.default_rng(2)
    outputs = random.normal(0, 1, (5, 7, 3)).astype(np.float32)
    targets = random.integers(0, 3, (5, 7))
    from types import SimpleNamespace

    metric = SimpleNamespace(higher_is_better=False, score=bits)
    task = SimpleNamespace(kind="language model", further={}, metric=metric)
    found = further_metrics(task)
    terms = found["perplexity"].terms(outputs, targets)
    assert terms.shape == (5, 1)
    shares = np.exp(outputs) / np.exp(outputs).sum(axis=2, keepdims=True)
    chosen = np.take_along_axis(shares, targets[..., None], axis=2)
    assert found["perplexity"].combine(terms.mean(axis=0)) == pytest.approx(
        np.exp(-np.log(chosen).mean())
    )
    hits = found["next-token accuracy"]
    assert hits.combine(hits.terms(outputs, targets).mean(axis=0)) == pytest.approx(
        (outputs.argmax(axis=2) == targets).mean()
    )

"""Whether a candidate is slower than its baseline, decided by exact tests over worker processes.

Every load of a model has a bias of its own, which calls within one process cannot average out
(Kalibera & Jones, 2013). So a process is one replicate, and the test is the
exact signed-rank test over processes. It is looked at three times, each look with a part of the
allowed error, so that a clear case is done after eight processes.

    r = candidate / baseline, margin d
    regressed      r <= 1 + d is rejected
    ok             r >= 1 + d is rejected
    improved       r >= 1 - d is rejected
    inconclusive   none of these

A promise such as "at most half the time" has a bound of its own in place of 1 + d, and is kept,
broken or inconclusive.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import numpy.typing as npt
from scipy import stats

from compress.errors import InputError
from compress.report.schema import Verdict
from compress.stats import holm, ratio_interval, signed_rank_p, tango_score

Key = TypeVar("Key")
Logs = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Look:
    """After how many workers the figures are looked at, and the one-sided error of that look."""

    workers: int
    alpha: float


#: Together 0.025. The smallest p of eight workers is 2⁻⁸: two gates can be decided at the first
#: look, 27 at the second.
LOOKS = (Look(8, 0.010), Look(12, 0.006), Look(18, 0.009))


def decide(logs: Mapping[Key, Logs], margin: float, alpha: float) -> dict[Key, Verdict]:
    """The verdict of every gate that can be decided; Holm's method over all of them.

    Args:
        logs: for each gate (workers,) of log(candidate / baseline).
        margin: how much slower still counts as equal, above 0.
        alpha: one-sided error of this look.
    """
    down = math.log1p(-margin)
    faster = holm([signed_rank_p(down - each) for each in logs.values()], alpha)
    within = keeps(logs, dict.fromkeys(logs, 1 + margin), alpha)
    found: dict[Key, Verdict] = {key: "ok" if kept else "regressed" for key, kept in within.items()}
    for key, clear in zip(logs, faster, strict=True):
        if clear:
            found[key] = "improved"
    return found


def keeps(logs: Mapping[Key, Logs], bounds: Mapping[Key, float], alpha: float) -> dict[Key, bool]:
    """Whether candidate / baseline stays at or below its bound, for every gate that can be told.

    A promise is kept where r >= bound is rejected and broken where r <= bound is; Holm's method
    over all gates.

    Args:
        logs: for each gate (workers,) of log(candidate / baseline).
        bounds: for each gate the largest ratio it allows, above 0.
        alpha: one-sided error of this look.
    """
    edges = {key: math.log(bounds[key]) for key in logs}
    above = [signed_rank_p(each - edges[key]) for key, each in logs.items()]
    below = [signed_rank_p(edges[key] - each) for key, each in logs.items()]
    # Of "above" and "below" one is true, so that both together are one chance to err.
    clear = holm([min(pair) for pair in zip(above, below, strict=True)], alpha)
    return {key: below[i] < above[i] for i, key in enumerate(logs) if clear[i]}


def looks_for(gates: int) -> tuple[Look, ...]:
    """The looks at which so many gates can be decided: 2⁻ᴾ is the smallest p of P workers.

    Raises:
        InputError: not even the last look has workers enough.
    """
    able = tuple(look for look in LOOKS if 2.0**-look.workers <= look.alpha / max(1, gates))
    if not able:
        last = LOOKS[-1]
        needed = math.ceil(math.log2(gates / last.alpha))
        raise InputError(
            f"{gates:,} latency gates in one check take {needed} processes, and at most "
            f"{last.workers} are started; split the gates over several files."
        )
    return able


def machine_is_fit(controls: Mapping[Key, Logs], margin: float) -> bool:
    """Whether a model against itself stays within half the margin at every setting."""
    strays = [ratio_interval(np.exp(logs).tolist())[0] for logs in controls.values()]
    return all(abs(math.log(ratio)) <= margin / 2 for ratio in strays)


def accuracy_rates(
    n: int, drop: float, discordance: float, margin: float, confidence: float = 0.95
) -> dict[Verdict, float]:
    """How often a check of accuracy on n samples says what, exactly: no simulation, no normal law.

    Summed over every count of samples that got worse and better, with their trinomial
    probabilities; those of less than 1e-12 in a tail are left out.

    Args:
        drop: true drop of the accuracy, at most `discordance`.
        discordance: share of samples on which just one of the two models is right.
        margin: the allowed drop.
        confidence: of the interval that has to lie on one side of the margin.
    """
    worse, better = (discordance + drop) / 2, (discordance - drop) / 2
    most = [int(stats.binom.isf(1e-12, n, share)) + 1 for share in (worse, better)]
    b, c = np.arange(most[0] + 1)[:, None], np.arange(most[1] + 1)[None, :]
    weight = stats.binom.pmf(b, n, worse) * stats.binom.pmf(c, n - b, better / (1 - worse))
    score = tango_score(b, c, n, margin)
    z = stats.norm.ppf(0.5 + confidence / 2)
    ok, regressed = (float(weight[side].sum()) for side in (score <= -z, score > z))
    return {"ok": ok, "regressed": regressed, "inconclusive": 1 - ok - regressed}

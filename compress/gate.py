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
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from compress.report.schema import Verdict
from compress.stats import holm, ratio_interval, signed_rank_p

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
    keys = list(logs)
    up, down = math.log1p(margin), math.log1p(-margin)
    slower = [signed_rank_p(logs[key] - up) for key in keys]
    equal = [signed_rank_p(up - logs[key]) for key in keys]
    faster = holm([signed_rank_p(down - logs[key]) for key in keys], alpha)
    # Of "slower" and "equal" one is true, so that both together are one chance to err.
    clear = holm([min(pair) for pair in zip(slower, equal, strict=True)], alpha)
    found: dict[Key, Verdict] = {}
    for place, key in enumerate(keys):
        if faster[place]:
            found[key] = "improved"
        elif clear[place]:
            found[key] = "regressed" if slower[place] < equal[place] else "ok"
    return found


def machine_is_fit(controls: Mapping[Key, Logs], margin: float) -> bool:
    """Whether a model against itself stays within half the margin at every setting."""
    strays = [ratio_interval(np.exp(logs).tolist())[0] for logs in controls.values()]
    return all(abs(math.log(ratio)) <= margin / 2 for ratio in strays)

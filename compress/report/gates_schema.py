"""What a check leaves in a report beside its comparisons: promises, and metrics that are told."""

from __future__ import annotations

from typing import Literal

from compress.report.record import Interval, Record

Outcome = Literal["kept", "broken", "inconclusive", "skipped"]


class Further(Record):
    """How a model compares in a metric beside the task's own; told, and never judged.

    Attributes:
        metric: such as "macro_f1" or "perplexity".
        difference: how much worse the candidate is on the same samples, whichever way it points.
        interval: its 95 % interval, by a paired bootstrap over whole samples or sequences; None
            for a single one.
        values: of the baseline and of the candidate.
        n: samples.
    """

    baseline: str
    candidate: str
    metric: str
    higher_is_better: bool
    difference: float
    interval: Interval | None
    values: tuple[float, float]
    n: int


class Promise(Record):
    """One gate of a gate file, and what came of it.

    Attributes:
        gate: its place in the file, counted from 0.
        metric: "latency", "size", "parameters", "macs", "operators", "outputs", or the task's.
        candidate: the model that was judged.
        baseline: the model it was compared with; None for a bound of its own.
        batch: samples a call, for "latency" only.
        length: of made-up inputs, for "latency" only; None where the inputs decide.
        promised: the bound in words.
        found: the figure in words, with its 95 % interval where it has one; empty where skipped.
        value: the figure: a ratio, a drop, a count, or a metric.
        interval: 95 % interval of `value`; None where it is exact.
        n: samples or workers behind it.
        outcome: "kept", "broken", "inconclusive", or "skipped" where this machine is not meant.
        reason: why it was skipped or could not be told; empty otherwise.
    """

    gate: int
    metric: str
    candidate: str
    baseline: str | None = None
    batch: int | None = None
    length: int | None = None
    promised: str
    found: str = ""
    value: float | None = None
    interval: Interval | None = None
    n: int | None = None
    outcome: Outcome
    reason: str = ""

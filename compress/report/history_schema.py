"""What a history says: figures of one model over many commits, and where their level changed."""

from __future__ import annotations

from typing import Final, Literal

from pydantic import Field

from compress.report.record import Interval, Record

HISTORY_VERSION: Final = 1

Measure = Literal["ratio", "quality", "size", "parameters", "macs", "milliseconds"]


class Point(Record):
    """One commit's figure.

    Attributes:
        commit: hash of the commit, or None where the report names none.
        created: ISO 8601 time of the measurement, UTC.
        file: the report, relative to the history's folder.
        machine: key of the machine's class in `History.machines`.
        interval: 95 % interval of `value`; None where it is exact or was not given.
        n: samples or processes behind the interval.
    """

    commit: str | None = None
    created: str
    file: str
    machine: str
    value: float
    interval: Interval | None = None
    n: int | None = None


class LevelChange(Record):
    """A commit from which on a figure lies on another level.

    Attributes:
        place: index of the first point of the new level.
        before, after: medians of the two levels.
        machine: the one that these are of, where the series has several.
        p: of the permutation test; None for figures without noise, where every change is one.
        better: whether the new level is the better one.
    """

    place: int = Field(ge=1)
    before: float
    after: float
    machine: str | None = None
    p: float | None = None
    better: bool


class Series(Record):
    """One figure over the commits, in order of time.

    Attributes:
        measure: "ratio" is latency of the model / latency of its baseline, in the same run;
            "milliseconds" are of one machine and never tested.
        batch: samples a call, for "ratio" and "milliseconds".
        length: of made-up inputs, for the same; None where the inputs decided.
        metric: name of the metric, for "quality".
        fingerprint: of the machine, for "milliseconds" only.
    """

    measure: Measure
    batch: int | None = None
    length: int | None = None
    metric: str | None = None
    higher_is_better: bool = False
    fingerprint: str | None = None
    points: list[Point]
    changes: list[LevelChange] = []


class Subject(Record):
    """What one title stands for: the reports of one recipe, or of one pair of models."""

    title: str
    reports: int
    series: list[Series]


class History(Record):
    """All that `compress report --history` found.

    Attributes:
        machines: a letter to each class of machines, in words; ratios hold within one class.
        error_rate: largest share of flat subjects that get a change point in error.
        skipped: one line for each file that could not be used.
        notes: what a reader has to know beside the figures.
    """

    history_version: Literal[1] = HISTORY_VERSION
    tool_version: str
    machines: dict[str, str]
    error_rate: float
    subjects: list[Subject]
    skipped: list[str] = []
    notes: list[str] = []

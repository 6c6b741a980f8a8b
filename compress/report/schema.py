"""What a report says: the one canonical form from which every page is rendered.

`report.schema.json` beside this file is generated from these classes (a test compares them). Later
versions add fields and never rename or remove one.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final, Literal

from pydantic import Field, ValidationError

from compress.errors import InputError
from compress.report.gates_schema import Further, Promise
from compress.report.measure_schema import Latency, RawMeasurement, Size
from compress.report.profile_schema import Profile
from compress.report.record import Interval, Record
from compress.report.sensitivity_schema import Sensitivity

SCHEMA_VERSION: Final = 1

Verdict = Literal["ok", "improved", "regressed", "inconclusive"]
Figure = Literal["latency", "quality", "size", "parameters", "macs", "int8"]


class Quality(Record):
    """How right an arm is on one split.

    Attributes:
        metric: name of the metric, such as "accuracy".
        value: mean over the samples, in the metric's own unit (accuracy: 0 to 1).
        n: samples.
        interval: 95 % confidence interval of `value`; None where it is one number with no samples
            behind it.
        higher_is_better: False for losses and errors.
        details: further metrics of the same samples, such as "macro_f1" and "loss".
    """

    metric: str
    value: float
    n: int = Field(ge=1)
    interval: Interval | None
    higher_is_better: bool
    details: dict[str, float] = {}

    @property
    def bounds(self) -> Interval:
        """The interval, for pictures; no wider than the value where there is none."""
        return self.interval or (self.value, self.value)


class Arm(Record):
    """One model on one runtime and device.

    Attributes:
        name: the stage's folder or the name the caller gave.
        kind: kind of the stage that made it ("train", "prune", …) or "file".
        parent: name of the arm it was made from, or that taught it; None for a root.
        file: path of the ONNX file, relative to the report.
        precision: of most of the computing operators: "fp32", "int8 (static)", "int8 (dynamic)",
            "int8 (static, dynamic)" where a graph has both, "int8 (dynamic), fp32" where most are
            fp32, "fp32, int8 weights" or "int4 weights".
        parameters: weights of the torch model; None where only an ONNX file is known.
        macs: multiply-accumulates of one sample; None where unknown.
        size_bytes: size of the ONNX file.
        operators: for each operator type that computes, how many nodes run in which precision.
        quality: on the test split, reported and never chosen on; None without data.
        validation: on the validation split, where every choice is made.
        latency: one entry for each batch size, length and thread count.
        peak_memory_bytes: peak resident memory that loading and running adds to a bare process.
        control_of: for a model trained without a teacher, the arm whose architecture it shares.
        seconds: wall time of the stage, in seconds.
        profile: where its time goes, by operator; None where that was not asked for.
    """

    name: str
    kind: str
    parent: str | None = None
    file: str
    runtime: str
    device: str
    precision: str
    parameters: int | None = None
    macs: int | None = None
    size_bytes: int = Field(ge=0)
    operators: dict[str, dict[str, int]] = {}
    quality: Quality | None = None
    validation: Quality | None = None
    latency: list[Latency] = []
    peak_memory_bytes: int | None = None
    control_of: str | None = None
    seconds: float | None = None
    profile: Profile | None = None

    @property
    def int8_nodes(self) -> int:
        """How many nodes that compute run in int8."""
        return sum(
            count
            for precisions in self.operators.values()
            for precision, count in precisions.items()
            if "int8" in precision
        )

    def best_latency(self, batch: int, length: int | None = None) -> Latency | None:
        """The fastest thread count at one size of call, or None where it was not measured."""
        points = [point for point in self.latency if point.size == (batch, length)]
        return min(points, key=lambda point: point.median_ms, default=None)


class Comparison(Record):
    """One arm against another, on the same samples or in the same interleaved run.

    Attributes:
        what: "latency", "quality", "size", "parameters", "macs", or "int8": whether the nodes that
            compute kept their precision.
        batch: samples a call, for "latency" only.
        length: of made-up inputs, for "latency" only; None where the inputs decide.
        operator: for "int8" the type of operator whose nodes changed; None where none did.
        ratio: candidate / baseline; for latency the Hodges-Lehmann estimate over workers.
        difference: for "quality" how much worse the candidate is, in the metric's unit: positive is
            a drop, whichever way the metric points; for "int8" how many nodes fell towards fp32.
        interval: 95 % interval of `ratio` or `difference`; None where the figure is exact.
        n: samples or workers behind the interval.
        verdict: what the figures allow to say; "exact" figures are improved, ok or regressed.
    """

    baseline: str
    candidate: str
    what: Figure
    batch: int | None = None
    length: int | None = None
    operator: str | None = None
    ratio: float | None = None
    difference: float | None = None
    interval: Interval | None = None
    n: int | None = None
    verdict: Verdict

    @property
    def size(self) -> Size:
        """Batch and length of a comparison of latencies."""
        return Size(self.batch or 1, self.length)


class Candidate(Record):
    """One of the models that a stage built, measured and kept or refused.

    Attributes:
        stage: the stage that built it.
        name: the technique and its setting, such as "static-u8s8".
        kept: whether the stage kept it.
        reason: why it was kept or refused, in one line.
        drop: quality lost on the validation split against the recipe's baseline.
        latency_ratio: latency / latency of the stage's input, the geometric mean over batch sizes.
        latency_ratio_by_batch: batch size to the same at that one.
        size_bytes: size of the ONNX file; None where it could not be built.
        sensitivity: what each layer loses in int8, worst first, where that chose the candidate.
    """

    stage: str
    name: str
    kept: bool
    reason: str
    drop: float | None = None
    latency_ratio: float | None = None
    latency_ratio_by_batch: dict[str, float] = {}
    size_bytes: int | None = None
    sensitivity: list[Sensitivity] = []


class Budget(Record):
    """What the user allowed, and whether it was kept.

    Attributes:
        max_drop: largest allowed drop of the task's metric on the test split, in its unit.
        relative_drop: the same as a share of the baseline's metric, where the user set it so.
        minimise: what the final model is chosen by, among those within the budget.
        status: "proven" (the test interval lies inside), "met" (only the estimate does), "missed".
        explanation: one sentence for a person, with the figures.
    """

    max_drop: float
    relative_drop: float | None = None
    minimise: Literal["latency", "size"]
    status: Literal["proven", "met", "missed"]
    explanation: str


class Gate(Record):
    """What a check decided.

    Attributes:
        verdict: the worst of the comparisons: "regressed", "inconclusive", "improved" or "ok".
        margin: how much slower still counts as equal.
        max_drop: allowed drop of the metric, in its unit; None where no data was given.
        size_margin: how much larger a file still counts as equal.
        workers: measuring processes.
        control: batch size to the baseline's latency over its own; strays of half the margin make
            the machine unfit.
        fit: whether the machine was fit to decide on latencies.
        explanation: one sentence for a person.
    """

    verdict: Verdict
    margin: float
    max_drop: float | None
    size_margin: float
    workers: int
    control: dict[int, float]
    fit: bool
    explanation: str


class Report(Record):
    """Everything that was measured in one run.

    Attributes:
        created: ISO 8601 time, UTC.
        command: what repeats the run.
        title: first line of the pages.
        machine: what the figures were taken on; None for what the machine does not tell.
        recipe: the recipe as resolved, overrides applied.
        recipe_hash: SHA-256 of `recipe`.
        commit: hash of the commit that was measured, where CI or Git tells it.
        key: SHA-256 of all that the figures follow from; a run with an equal key measures no more.
        baseline, final: names of arms.
        promises: what came of each gate of a gate file, where one was checked.
        further: metrics beside the task's own, candidate or final model against the baseline.
        measurement: how latencies were taken: workers, rounds, threads, spinning, control.
        notes: what a reader has to know beside the figures.
        failed: name of an arm that could not be measured to the reason.
        raw: block medians, order and disturbances of every worker.
    """

    schema_version: Literal[1] = SCHEMA_VERSION
    tool_version: str
    created: str
    command: str
    title: str
    machine: dict[str, Any]
    recipe: dict[str, Any]
    recipe_hash: str
    commit: str | None = None
    key: str = ""
    baseline: str
    final: str | None = None
    budget: Budget | None = None
    gate: Gate | None = None
    arms: list[Arm]
    comparisons: list[Comparison] = []
    promises: list[Promise] = []
    further: list[Further] = []
    candidates: list[Candidate] = []
    measurement: dict[str, Any] = {}
    notes: list[str] = []
    failed: dict[str, str] = {}
    raw: RawMeasurement | None = None

    def arm(self, name: str) -> Arm:
        """The arm of that name; KeyError where there is none."""
        for arm in self.arms:
            if arm.name == name:
                return arm
        raise KeyError(name)

    def comparison(
        self, candidate: str, what: str, batch: int | None = None, length: int | None = None
    ) -> Comparison | None:
        """The comparison of one arm with the report's baseline, or None where there is none."""
        wanted = (candidate, what, batch, length)
        for entry in self.comparisons:
            if (entry.candidate, entry.what, entry.batch, entry.length) == wanted:
                return entry
        return None


def load_report(path: Path) -> Report:
    """Read a `report.json`.

    Raises:
        InputError: the file is missing, no JSON, of another schema version, or has other fields.
    """
    try:
        return Report.model_validate_json(path.read_bytes())
    except OSError as error:
        raise InputError(
            f"{path}: cannot be read ({error.strerror}); expected a report.json."
        ) from None
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"]) or "the file"
        given = first["input"]
        found = f" (found {given!r})" if isinstance(given, bool | int | float) else ""
        raise InputError(
            f"{path}: not a report of schema version {SCHEMA_VERSION}: {place}: {first['msg']}"
            f"{found}. "
            "Make it again with `compress run` or `compress bench`."
        ) from None

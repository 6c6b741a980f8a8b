"""What a gate file may promise: one class a kind of metric. Free of torch."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from packaging.specifiers import InvalidSpecifier, SpecifierSet
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    field_validator,
    model_validator,
)

from compress.errors import suggest
from compress.measure.config import Count
from compress.measure.machine import INSTRUCTION_SETS, PACKAGES

#: Metrics of every task of their kind; a task of one's own may have others.
QUALITY_METRICS = (
    "quality",
    "accuracy",
    "bits per character",
    "mean squared error",
    "macro_f1",
    "cross_entropy",
    "perplexity",
    "next-token accuracy",
    "mean squared error (ppm²)",
    "mean absolute error (ppm)",
)
SAME = "same"


def _number_or_same(value: object) -> object:
    if value == SAME:
        return value
    if isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value < math.inf:
        return value
    raise ValueError(f"expected a number from 0 or {SAME}")


Number = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Finite = Annotated[float, Field(allow_inf_nan=False)]
Bound = Annotated[Any, BeforeValidator(_number_or_same)]
#: In which way a bound holds, and the bound.
Limit = tuple[Literal["at most", "at least"], float | Literal["same"]]


class OnlyOn(BaseModel):
    """Machines that a gate is about; elsewhere it is skipped, with the reason.

    Attributes:
        instruction_sets: the processor has all of them; a bare list stands for this.
        any_instruction_set: it has at least one of them.
        architecture: as `compress doctor` shows it, such as "x86_64" or "aarch64".
        versions: package to the versions that are meant, such as {onnxruntime: ">=1.22"}.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    instruction_sets: tuple[str, ...] = ()
    any_instruction_set: tuple[str, ...] = ()
    architecture: str | None = None
    versions: dict[str, str] = {}

    @field_validator("instruction_sets", "any_instruction_set", mode="after")
    @classmethod
    def _are_known(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        for name in names:
            _check_known("instruction set", name, INSTRUCTION_SETS)
        return names

    @field_validator("versions", mode="after")
    @classmethod
    def _are_versions(cls, versions: dict[str, str]) -> dict[str, str]:
        for package, wanted in versions.items():
            _check_known("package", package, PACKAGES)
            try:
                SpecifierSet(wanted)
            except InvalidSpecifier:
                raise ValueError(f"expected versions such as '>=1.22' for {package}") from None
        return versions

    def refusal(self, machine: Mapping[str, Any]) -> str:
        """Why a machine is not meant, as `compress.measure.machine` describes it; or nothing."""
        there = set(machine["instruction_sets"])
        missing = [name for name in self.instruction_sets if name not in there]
        if missing:
            return f"this processor has no {' and no '.join(missing)}"
        if self.any_instruction_set and not there & set(self.any_instruction_set):
            return f"this processor has none of {', '.join(self.any_instruction_set)}"
        if self.architecture not in (None, machine["architecture"]):
            return f"this is {machine['architecture']}, not {self.architecture}"
        for package, wanted in self.versions.items():
            found = machine["versions"].get(package, "not installed")
            if found == "not installed" or not SpecifierSet(wanted, prereleases=True).contains(
                found
            ):
                return f"{package} is {found}, not {wanted}"
        return ""


def _check_known(kind: str, name: str, known: tuple[str, ...]) -> None:
    if name not in known:
        raise ValueError(
            f"no {kind} '{name}'. Known: {', '.join(known)}.{suggest(name, known)}".rstrip(".")
        )


class GateConfig(BaseModel):
    """What all gates have.

    Attributes:
        compare: name of the model that is judged.
        against: name of the model it is compared with, `with` in the file; None for a bound of its
            own.
        metric: what is compared.
        only_on: machines that the gate is about.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    #: Whether the metric means nothing without a second model.
    needs_other: ClassVar[bool] = False

    compare: str
    against: str | None = Field(default=None, alias="with")
    metric: str
    only_on: OnlyOn = OnlyOn()

    @field_validator("only_on", mode="before")
    @classmethod
    def _a_list_is_of_instruction_sets(cls, value: object) -> object:
        value = [value] if isinstance(value, str) else value
        return {"instruction_sets": value} if isinstance(value, list) else value

    @model_validator(mode="after")
    def _has_its_other_model(self) -> GateConfig:
        if self.needs_other and self.against is None:
            raise ValueError(f"{self.metric} is compared `with` another model; name it")
        if self.against == self.compare:
            raise ValueError(f"'{self.compare}' is compared with itself")
        return self


class LatencyGate(GateConfig):
    """Time of a call as a share of another model's, measured beside it.

    Attributes:
        batch: samples a call.
        at_most: largest allowed ratio of the two latencies; 0.5 is twice as fast.
    """

    needs_other = True

    metric: Literal["latency"]
    batch: Count = 1
    at_most: Annotated[float, Field(gt=0, allow_inf_nan=False)]


class OutputsGate(GateConfig):
    """How far apart two models' first outputs are on the same samples.

    Attributes:
        at_most: largest difference, as a share of the other model's largest absolute output.
    """

    needs_other = True

    metric: Literal["outputs"]
    at_most: Number


class QualityGate(GateConfig):
    """A metric of the task, its own or a further one such as macro_f1, on its test split.

    A gate is kept where the whole 95 % interval lies on the right side of its bound, broken where
    it lies on the wrong one, and inconclusive otherwise.

    Attributes:
        max_drop: how much worse than the other model on the same samples, in the metric's unit.
        relative: whether `max_drop` is a share of the other model's metric.
        at_most, at_least: a bound on the metric itself.
    """

    max_drop: Number | None = None
    relative: bool = False
    at_most: Finite | None = None
    at_least: Finite | None = None

    @model_validator(mode="after")
    def _has_one_bound(self) -> QualityGate:
        _check_one(self, "max_drop", "at_most", "at_least")
        if self.max_drop is not None and self.against is None:
            raise ValueError("max_drop is a drop from another model; name it in `with`")
        if self.max_drop is None and (self.against is not None or self.relative):
            raise ValueError("`with` and relative go with max_drop; a bound on the metric has none")
        return self


class _Counted(GateConfig):
    """A figure that is exact: bounded by a number, or by another model's.

    Attributes:
        at_most, at_least: a number; with another model a ratio; "same" for the other's own figure.
    """

    at_most: Bound = None
    at_least: Bound = None

    @property
    def limit(self) -> Limit:
        """The one bound that is given."""
        return ("at least", self.at_least) if self.at_most is None else ("at most", self.at_most)

    @model_validator(mode="after")
    def _has_one_bound(self) -> _Counted:
        _check_one(self, "at_most", "at_least")
        if self.limit[1] == SAME and self.against is None:
            raise ValueError(f"{SAME} as which model? Name it in `with`")
        return self


class CostGate(_Counted):
    """Bytes of the file, parameters or multiply-accumulates."""

    metric: Literal["size", "parameters", "macs"]

    @model_validator(mode="after")
    def _shares_have_a_whole(self) -> CostGate:
        bound = self.limit[1]
        if self.against is None and isinstance(bound, (int, float)) and bound < 1:
            raise ValueError(f"{bound} is a share; name the model it is a share of in `with`")
        return self


class OperatorsGate(_Counted):
    """How many operators run in a precision; with another model, for each type no fewer or no more.

    Attributes:
        precision: as reports show it; "int8" is static and dynamic together.
        type: of the operators that count, such as Conv; all where left out.
    """

    metric: Literal["operators"]
    precision: Literal[
        "fp32",
        "fp16",
        "bf16",
        "int8",
        "int8 (static)",
        "int8 (dynamic)",
        "int8 weights",
        "int4 weights",
    ]
    type: str | None = None

    @model_validator(mode="after")
    def _compares_counts(self) -> OperatorsGate:
        if self.against is not None and self.limit[1] != SAME:
            raise ValueError(f"with another model the bound is {SAME}; a number stands alone")
        return self


def _check_one(gate: GateConfig, *names: str) -> None:
    given = [name for name in names if getattr(gate, name) is not None]
    if len(given) != 1:
        found = " and ".join(given) or "none"
        raise ValueError(f"expected one of {', '.join(names)}, found {found}")


#: Metric to the gates that it allows; every other metric is the task's.
METRICS: dict[str, type[GateConfig]] = {
    "latency": LatencyGate,
    "size": CostGate,
    "parameters": CostGate,
    "macs": CostGate,
    "operators": OperatorsGate,
    "outputs": OutputsGate,
    **dict.fromkeys(QUALITY_METRICS, QualityGate),
}

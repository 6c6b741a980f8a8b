"""Settings of a benchmark."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, field_validator

from compress.errors import InputError

Count = Annotated[int, Field(ge=1, le=65_536)]
Seconds = Annotated[float, Field(ge=0, allow_inf_nan=False)]
TimeLimit = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Milliseconds = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Rounds = Annotated[int, Field(ge=2)]
Cpus = Annotated[tuple[Annotated[int, Field(ge=0)], ...], Field(min_length=1)] | None


def as_pairs(config: BaseModel, names: Iterable[str]) -> list[str]:
    """Of these settings those that are not the usual ones, as `key=value` on a command line."""
    found = config.model_dump(mode="json", include=set(names), exclude_defaults=True)
    return [f"{name}={json.dumps(value, separators=(',', ':'))}" for name, value in found.items()]


class BenchConfig(BaseModel):
    """What is timed, and how often.

    Attributes:
        batch: samples a call.
        length: of made-up inputs every open dimension behind the batch, such as the steps of a
            sequence; 1 where None. Real samples have a length of their own.
        threads: intra-op thread counts; an arm is judged by its fastest.
        workers: processes, each of which loads every arm anew: the unit of replication. Every load
            has its own bias, which no number of calls within one process averages out.
        rounds: blocks of each arm in each worker, in an order that turns round every time.
        block_ms: timed calls of a block last at least that long together, if 3 calls do not; of a
            model whose call lasts 20 times that, a block is one call.
        warm_up_s: seconds that each arm runs in each worker before it is timed, at least, and then
            until the two halves of its last blocks agree.
        warm_up_calls: calls that it runs before it is timed, at least.
        warm_up_cap_s: seconds after which an arm is timed in any case, and marked as unstable if
            the halves still disagree.
        control: whether the first arm is loaded a second time and compared with itself.
        affinity: numbers of the CPUs that workers are pinned to; None leaves them where they are.
        timeout: seconds without a sign of life until a worker counts as hung.
        limit_s: seconds that all of it may take, about; None for no limit. Slow models are timed in
            fewer rounds, but one, and then by fewer processes, but six, and not at thread counts
            that lost in the first; the report says so.
        profile: whether the runtime's profiler tells where the time goes by operator, at the first
            batch size and thread count; on the CPU only.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    batch: Annotated[tuple[Count, ...], Field(min_length=1)] = (1, 32)
    length: Annotated[tuple[Count, ...], Field(min_length=1)] | None = None
    threads: Annotated[tuple[Count, ...], Field(min_length=1)] = (1, 2)
    workers: Annotated[int, Field(ge=1, le=64)] = 8
    rounds: Rounds = 8
    block_ms: Milliseconds = 5.0
    warm_up_s: Seconds = 0.05
    warm_up_calls: Annotated[int, Field(ge=0)] = 5
    warm_up_cap_s: Seconds = 0.4
    control: bool = True
    affinity: Cpus = None
    timeout: TimeLimit = 600.0
    limit_s: TimeLimit | None = 300.0
    profile: bool = False

    def check_here(self, device: str) -> None:
        """Raise InputError where this machine cannot measure so; before anything long is begun."""
        if self.profile and device != "cpu":
            raise InputError(
                f"benchmark.profile: on '{device}' the profiler sees when kernels are started, not "
                "how long they take; leave it out, or use --device cpu."
            )
        if self.affinity is None:
            return
        if not hasattr(os, "sched_setaffinity"):
            raise InputError("affinity: this system cannot pin a process to CPUs; leave it out.")
        allowed = os.sched_getaffinity(0)
        if missing := sorted(set(self.affinity) - allowed):
            raise InputError(
                f"affinity: CPUs {missing} are not among those allowed here: {sorted(allowed)}."
            )

    @property
    def lengths(self) -> tuple[int | None, ...]:
        """Every length; None alone where the inputs decide."""
        return self.length or (None,)

    @field_validator("batch", "length", "threads", "affinity", mode="before")
    @classmethod
    def _one_or_many(cls, value: object) -> object:
        return [value] if isinstance(value, int) else value


class CheckTiming(BaseModel):
    """How a check takes latencies; how many processes it takes follows from what it decides.

    Attributes:
        margin: how much slower still counts as equal, 0.05 on a shared machine, 0.03 on one alone;
            a model timed against itself must stay within half of it.
        threads: of the runtime.
        length: of made-up inputs, see `BenchConfig`; one alone, and without data only.
        rounds, block_ms, affinity, timeout: see `BenchConfig`.
        warm_up_s, warm_up_calls, warm_up_cap_s: the same; longer than a benchmark's, as two models
            and not a dozen are given time to settle.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    margin: Annotated[float, Field(gt=0, lt=1)] = 0.05
    threads: Count = 1
    length: Count | None = None
    rounds: Rounds = 20
    block_ms: Milliseconds = 15.0
    warm_up_s: Seconds = 0.1
    warm_up_calls: Annotated[int, Field(ge=0)] = 10
    warm_up_cap_s: Seconds = 1.0
    affinity: Cpus = None
    timeout: TimeLimit = 600.0

    @field_validator("affinity", mode="before")
    @classmethod
    def _one_or_many(cls, value: object) -> object:
        return [value] if isinstance(value, int) else value

    def benchmark(self, batch: tuple[int, ...], workers: int) -> BenchConfig:
        """A benchmark of so many workers, the control included."""
        return BenchConfig(
            batch=batch,
            length=None if self.length is None else (self.length,),
            threads=(self.threads,),
            workers=workers,
            rounds=self.rounds,
            block_ms=self.block_ms,
            warm_up_s=self.warm_up_s,
            warm_up_calls=self.warm_up_calls,
            warm_up_cap_s=self.warm_up_cap_s,
            affinity=self.affinity,
            timeout=self.timeout,
            limit_s=None,  # how many there are is what it decides by
        )

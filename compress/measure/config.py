"""Settings of a benchmark."""

from __future__ import annotations

import os
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, field_validator

from compress.errors import InputError

Count = Annotated[int, Field(ge=1, le=65_536)]


class BenchConfig(BaseModel):
    """What is timed, and how often.

    Attributes:
        batch: samples a call.
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
        profile: whether the runtime's profiler tells where the time goes by operator, at the first
            batch size and thread count; on the CPU only.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    batch: Annotated[tuple[Count, ...], Field(min_length=1)] = (1, 32)
    threads: Annotated[tuple[Count, ...], Field(min_length=1)] = (1, 2)
    workers: Annotated[int, Field(ge=1, le=64)] = 8
    rounds: Annotated[int, Field(ge=2)] = 8
    block_ms: Annotated[float, Field(gt=0)] = 5.0
    warm_up_s: Annotated[float, Field(ge=0)] = 0.05
    warm_up_calls: Annotated[int, Field(ge=0)] = 5
    warm_up_cap_s: Annotated[float, Field(ge=0)] = 0.4
    control: bool = True
    affinity: Annotated[tuple[Annotated[int, Field(ge=0)], ...], Field(min_length=1)] | None = None
    timeout: Annotated[float, Field(gt=0)] = 600.0
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

    @field_validator("batch", "threads", "affinity", mode="before")
    @classmethod
    def _one_or_many(cls, value: object) -> object:
        return [value] if isinstance(value, int) else value

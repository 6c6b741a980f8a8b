"""What a benchmark leaves out where its arms do not fit into memory beside each other."""

from __future__ import annotations

import pytest

from compress.measure.config import BenchConfig
from compress.pipeline.timing import that_fits

GB = 10**9
#: With the control and two thread counts 14 GB, without it 10, on one thread count 5.
MEMORY = {"fp32": 2 * GB, "int8": 3 * GB, "unknown": None}


@pytest.mark.parametrize(
    ("free", "control", "threads", "said"),
    [
        (None, True, (1, 2), ""),
        (14 * GB, True, (1, 2), ""),
        (13 * GB, False, (1, 2), "leaves out the first model a second time: all"),
        (9 * GB, False, (2,), "a second time and all thread counts but the largest: all"),
        (1 * GB, False, (2,), "would take 14.0 GB of memory, and 1.0 GB are free."),
    ],
)
def test_control_and_thread_counts_are_left_out_where_memory_is_short(
    free: int | None, control: bool, threads: tuple[int, ...], said: str
):
    found, note = that_fits(BenchConfig(threads=(1, 2)), MEMORY, free)
    assert (found.control, found.threads) == (control, threads)
    assert said in note
    assert bool(note) == bool(said)


def test_what_was_left_out_already_is_not_said_to_be():
    config = BenchConfig(control=False, threads=(2,))
    assert that_fits(config, MEMORY, GB) == (config, "")

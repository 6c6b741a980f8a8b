"""Warm-up and blocks on a clock that only moves while a call runs."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from compress.measure import blocks
from compress.measure.blocks import Block, WarmUp, settled


class Clock:
    """A clock that only moves while a call runs."""

    def __init__(self, times: Iterator[float]) -> None:
        self.now, self.times, self.calls = 0, times, 0

    def perf_counter_ns(self) -> int:
        return self.now

    def call(self) -> None:
        self.calls += 1
        self.now += round(next(self.times))


@pytest.fixture
def block(monkeypatch: pytest.MonkeyPatch):
    """Makes a block of a model whose calls take the given nanoseconds, for ever the last."""

    def make(*first: float, block_ns: float = 20e6) -> tuple[Block, Clock]:
        def times() -> Iterator[float]:
            yield from first
            while True:
                yield first[-1]

        clock = Clock(times())
        monkeypatch.setattr(blocks, "time", clock)
        monkeypatch.setattr(blocks, "clock_cost", lambda: 40.0)
        return Block(clock.call, block_ns), clock

    return make


def warm(made: Block, plan: WarmUp) -> int:
    count = 1
    while not made.warm(plan):
        count += 1
    made.fit()
    return count


def test_a_steady_model_warms_for_the_time_that_is_asked_for(block):
    made, clock = block(1e6)
    assert warm(made, WarmUp(seconds=0.1, calls=10, cap=1.0)) == 8
    assert clock.now == pytest.approx(0.1e9, rel=0.05)
    assert not made.unstable


def test_a_warm_up_has_its_calls_even_where_they_take_longer(block):
    made, clock = block(30e6)
    warm(made, WarmUp(seconds=0.1, calls=20, cap=1.0))
    assert clock.calls == 20
    assert not made.unstable


def test_a_model_that_gets_faster_is_warmed_until_it_has_settled(block):
    falling = [20e6 - 0.9e6 * i for i in range(20)]
    made, clock = block(*falling, 2e6)
    warm(made, WarmUp(seconds=0.05, calls=5, cap=5.0))
    assert clock.calls > len(falling)
    assert not made.unstable


def test_at_the_cap_it_is_marked(block):
    made, clock = block(*(1e6 * 1.01**i for i in range(400)))
    warm(made, WarmUp(seconds=0.05, calls=5, cap=0.3))
    assert made.unstable
    assert 0.3e9 <= clock.now < 0.35e9


@pytest.mark.parametrize(("seconds", "blocks"), [(0.9, 4), (1.5, 3), (3, 2), (9, 1)])
def test_a_slow_model_is_warmed_four_times_the_cap_at_most(block, seconds: float, blocks: int):
    made, _ = block(seconds * 1e9)
    assert warm(made, WarmUp(seconds=0.1, calls=50, cap=1.0)) == blocks
    assert not made.unstable


def test_slow_calls_are_timed_one_by_one_and_kept(block):
    made, clock = block(1e6, block_ns=8e6)
    warm(made, WarmUp(0.01, 1, 1.0))
    assert (made.loop, made.calls) == (1, 8)
    before = clock.calls
    assert made.run() == 1_000_000
    assert clock.calls - before == 9  # one is thrown away
    assert made.single_ns == [1_000_000] * 8


def test_short_calls_are_looped_and_their_percentiles_timed_beside(block):
    made, clock = block(20_000, block_ns=5e6)
    warm(made, WarmUp(0.01, 1, 1.0))
    assert made.loop == 20  # 10,000 clocks of 40 ns are 20 calls of 20,000 ns
    assert made.calls == 12
    before = clock.calls
    assert made.run() == 20_000
    assert clock.calls - before == 1 + 12 * 20 + 15
    assert made.single_ns == [20_000] * 15


def test_halves_agree_within_two_per_cent_or_within_their_noise():
    assert settled([100, 100, 100, 100, 101, 101, 101, 101])
    assert not settled([100, 100, 100, 100, 103, 103, 103, 103])
    assert settled([100, 120, 90, 115, 103, 125, 92, 117])


def test_noise_alone_seldom_looks_like_a_warm_up():
    random = np.random.default_rng(0)
    steady = [settled(np.exp(random.normal(0, 0.05, 8))) for _ in range(2000)]
    falling = [
        settled(np.exp(random.normal(0, 0.05, 8) + np.linspace(1, 0, 8))) for _ in range(2000)
    ]
    assert np.mean(steady) > 0.8
    assert np.mean(falling) < 0.05


@pytest.mark.parametrize(("call_ns", "calls"), [(399e6, 4), (401e6, 1)])
def test_a_block_of_a_slow_model_is_one_call(block, call_ns: float, calls: int):
    made, clock = block(call_ns)
    warm(made, WarmUp(seconds=0.0, calls=1, cap=0.0))
    before = clock.calls
    assert made.run() == call_ns
    assert clock.calls - before == calls
    assert len(made.single_ns) == made.calls == max(1, calls - 1)

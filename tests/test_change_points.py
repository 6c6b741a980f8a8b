"""Change points: how often they err on noise, and that a clear step is found where it is."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import binom

from compress.change_points import SHORTEST, change_points


def flat(generator: np.random.Generator, shape: str, n: int) -> list[float]:
    noise = generator.normal(size=n) if shape == "normal" else generator.standard_t(2, size=n)
    return (1 + 0.02 * noise).tolist()


@pytest.mark.parametrize(
    ("shape", "n", "count", "grouped"),
    [("normal", 8, 1, False), ("normal", 14, 3, False), ("t", 14, 2, False), ("t", 14, 2, True)],
)
def test_at_most_one_flat_history_in_twenty_gets_a_change(
    shape: str, n: int, count: int, grouped: bool
) -> None:
    generator, histories, wrong = np.random.default_rng(1), 300, 0
    for _ in range(histories):
        series = [flat(generator, shape, n) for _ in range(count)]
        groups = None
        if grouped:  # two machines by chance, one of them half as fast
            machine = generator.integers(0, 2, n)
            groups = [machine.tolist()] * count
            series = [(np.array(values) + machine).tolist() for values in series]
        wrong += any(change_points(series, groups))
    # No more than a true rate of 5 % gives in all but one of a thousand simulations.
    assert wrong <= binom.ppf(0.999, histories, 0.05)


def test_a_clear_step_is_found_where_it_is() -> None:
    generator, exact, more = np.random.default_rng(2), 0, 0
    for _ in range(60):
        place = int(generator.integers(6, 15))
        values = generator.normal(1.0, 0.01, size=20)
        values[place:] *= 1.08
        other = generator.normal(1.0, 0.01, size=20)
        found, none = change_points([values.tolist(), other.tolist()])
        exact += place in [change.place for change in found]
        more += len(found) > 1 or bool(none)
    assert exact >= 58
    assert more <= 6


def test_several_steps_and_an_outlier() -> None:
    generator = np.random.default_rng(3)
    values = generator.normal(1.0, 0.01, size=60)
    values[20:40] += 0.1
    values[40:] -= 0.1
    values[10] = 9.0
    (found,) = change_points([values.tolist()])
    assert [change.place for change in found] == [20, 40]
    assert all(change.p <= 0.05 for change in found)


def test_a_step_between_machines_is_none_and_within_them_is_one() -> None:
    generator = np.random.default_rng(4)
    machines = ["A"] * 12 + ["B"] * 12
    values = generator.normal(1.0, 0.01, size=24)
    values[12:] *= 1.5
    assert len(change_points([values.tolist()])[0]) == 1
    assert change_points([values.tolist()], [machines]) == [[]]
    mixed = ["A", "B"] * 12
    stepped = np.where(np.arange(24) % 2, 1.5, 1.0) * generator.normal(1.0, 0.01, size=24)
    stepped[12:] *= 1.1
    (found,) = change_points([np.log(stepped).tolist()], [mixed])
    assert [change.place for change in found] == [12]


@pytest.mark.parametrize("values", [[], [1.0], [1.0, 2.0, 9.0], [1.0] * 30, [1, 1, 1, 2, 2, 2]])
def test_too_little_tells_nothing(values: list[float]) -> None:
    assert change_points([values]) == [[]]
    assert SHORTEST == 3


def test_the_same_history_gives_the_same_answer() -> None:
    values = [1.0, 1.1, 0.9, 1.0, 1.1, 1.4, 1.5, 1.4, 1.6, 1.5]
    assert change_points([values]) == change_points([values])
    assert change_points([]) == []

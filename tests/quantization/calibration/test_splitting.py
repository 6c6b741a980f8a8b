"""How batches are cut, by hand-worked budgets."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from compress.quantization.calibration.splitting import Run, Splitter
from compress.runtime.interface import Feeds

SOURCE = Path("model.onnx")


def splitter(budget: int, *shapes: list[Any]) -> Splitter:
    inputs = [
        SimpleNamespace(name=f"x{n}", type="tensor(float)", shape=shape)
        for n, shape in enumerate(shapes)
    ]
    return Splitter(SOURCE, inputs, budget)


def rows(*shape: int) -> Feeds:
    count = int(np.prod(shape))
    return (np.arange(count, dtype=np.float32).reshape(shape),)


def carried_out(cut: Splitter, feeds: Feeds, per_row: int | None) -> list[Run]:
    """All runs, learned of as a collector does; `per_row` bytes, None where a trial fails."""
    found = []
    for run in cut.runs(feeds):
        found.append(run)
        if run.bytes is None:
            failed = run.trial and per_row is None
            cut.learn(run, None if failed else (per_row or 7) * run.filled)
    return found


def sizes(runs: list[Run]) -> list[tuple[int, int | None, bool]]:
    return [(run.rows, run.bytes, run.trial) for run in runs]


def test_one_row_is_tried_and_the_rest_keeps_within_the_budget():
    cut, feeds = splitter(100, ["n", 4]), rows(9, 4)
    runs = carried_out(cut, feeds, 30)
    assert sizes(runs) == [(1, None, True), (3, 90, False), (3, 90, False), (2, 60, False)]
    np.testing.assert_array_equal(np.concatenate([run.feeds[0] for run in runs]), feeds[0])
    # Rows of that size are known from then on.
    assert sizes(carried_out(cut, rows(4, 4), 30)) == [(3, 90, False), (1, 30, False)]


def test_a_row_larger_than_the_budget_is_run_alone():
    assert sizes(carried_out(splitter(100, ["n", 4]), rows(3, 4), 250)) == [
        *[(1, None, True), (1, 250, False), (1, 250, False)]
    ]


def test_longer_rows_are_taken_to_need_the_square_and_tried_where_that_is_far():
    cut = splitter(1000, ["n", "t"])
    carried_out(cut, rows(2, 10), 100)
    # 12 / 10 squared is 1.44: no trial, and no more than six rows of 144.
    assert sizes(carried_out(cut, rows(8, 12), 120)) == [(6, 864, False), (2, 288, False)]
    # shorter ones need no more
    assert sizes(carried_out(cut, rows(8, 3), 30)) == [(8, 800, False)]
    # 20 / 10 squared is 4
    assert sizes(carried_out(cut, rows(8, 20), 250)) == [(1, None, True), (4, 1000, False),
                                                         (3, 750, False)]  # fmt: skip


def test_a_model_that_takes_no_single_row_is_run_whole_and_tried_once():
    cut = splitter(100, ["n", 4])
    assert sizes(carried_out(cut, rows(6, 4), None)) == [(1, None, True), (6, None, False)]
    assert sizes(carried_out(cut, rows(6, 4), None)) == [(6, 42, False)]


@pytest.mark.parametrize("shapes", [[["n", 3], ["k", 2]], [["n", 3], [4, 2]]])
def test_what_is_no_batch_is_run_whole(shapes: list[list[Any]]):
    cut, feeds = splitter(1, *shapes), rows(5, 3) + rows(4, 2)
    assert sizes(carried_out(cut, feeds, 9)) == [(5, None, False)]
    assert len(carried_out(cut, feeds, 9)) == 1


def test_a_fixed_batch_is_filled_up():
    runs = carried_out(splitter(1, [4, 2]), rows(6, 2), 5)
    assert sizes(runs) == [(4, None, False), (2, 20, False)]
    assert [run.filled for run in runs] == [4, 4]
    np.testing.assert_array_equal(runs[1].feeds[0][:, 0], [8, 10, 10, 10])


def test_no_rows_and_no_axis():
    assert carried_out(splitter(1, ["n", 2]), rows(0, 2), 5) == []
    (run,) = carried_out(splitter(1, []), (np.float32(3.0),), 5)
    assert (run.rows, run.filled) == (1, 1)

"""The raw record of a measurement: a report holds enough to compute every ratio anew."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from compress.errors import InputError
from compress.measure.measured import CONTROL, Beside, Cell, Measured, from_report, percentiles
from compress.pipeline.pages import write_report
from compress.report import load_report
from compress.report.measure_schema import Noise, RawMeasurement, RawWorker
from compress.report.schema import Report

ARMS = ("a", "b", CONTROL)


def report_of(raw: RawMeasurement | None) -> Report:
    return Report(
        tool_version="0",
        created="2026-01-01",
        command="compress bench a b",
        title="Benchmark",
        machine={},
        recipe={},
        recipe_hash="",
        baseline="a",
        arms=[],
        raw=raw,
    )


def worker(seed: int, order: list[int]) -> RawWorker:
    noise = Noise(seconds=1.0, calibration_ns=(5, 6))
    return RawWorker(seed=seed, order=[order], cpus=[0, 1], noise=noise)


def made(workers: int = 8, seed: int = 0, arms: tuple[str, ...] = ARMS) -> Measured:
    random = np.random.default_rng(seed)
    cells = [(arm, batch, threads) for arm in arms for batch in (1, 8) for threads in (1, 2)]
    blocks = {
        cell: np.rint(random.lognormal(13, 0.1, (workers, 6))).astype(float) for cell in cells
    }
    beside = {
        cell: Beside(
            (15,) * workers,
            (10**6,) * workers,
            (10**5,) * workers,
            tuple(place == 1 for place in range(workers)),
            tuple(random.integers(10**5, 10**6, 400)),
        )
        for cell in cells
    }
    order = list(range(len(cells)))
    found = tuple(worker(place, order[::-1]) for place in range(workers))
    return Measured(blocks, dict.fromkeys(cells, 15 * 6 * workers), beside, found)


def test_every_ratio_follows_from_report_json_alone(tmp_path: Path):
    measured = made()
    report = report_of(measured.raw())
    write_report(report, tmp_path)
    again = from_report(load_report(tmp_path / "report.json"))
    for batch in (1, 8):
        for arm in ("b", CONTROL):
            assert again.ratio("a", arm, batch) == measured.ratio("a", arm, batch)
    assert again.overall("a", "b") == measured.overall("a", "b")
    assert again.workers == measured.workers
    (first, *_), (expected, *_) = again.latency("a"), measured.latency("a")
    assert first == expected.model_copy(update={"percentiles": {}})
    assert (first.unstable, first.load_ms, first.n) == (1, 1.0, 720)


def test_the_raw_times_stand_in_short_lines(tmp_path: Path):
    write_report(report_of(made().raw()), tmp_path)
    lines = (tmp_path / "report.json").read_text().splitlines()
    assert sum(line.count(",") > 4 for line in lines) >= 12 * 8
    assert load_report(tmp_path / "report.json").raw == made().raw()


def test_an_older_report_says_that_it_cannot():
    with pytest.raises(InputError, match="holds no raw times; measure again"):
        from_report(report_of(None))


def test_joined_workers_keep_their_own_order():
    first, second = made(2), made(3, seed=1, arms=("b", CONTROL, "a"))
    both = first.joined(second)
    assert len(both.workers) == 5
    cells = list(both.blocks)
    drawn = [cells[place] for place in both.workers[-1].order[0]]
    assert drawn == list(second.blocks)[::-1]
    assert both.beside[Cell("a", 1, 1)].load_ns == (10**6,) * 5
    np.testing.assert_array_equal(both.blocks[Cell("b", 8, 2)][2:], second.blocks[Cell("b", 8, 2)])


def test_thread_counts_at_which_an_arm_has_lost_to_itself():
    cells = {Cell("a", 1, 1): 1.0, Cell("a", 1, 2): 1.6, Cell("a", 3, 1): 2.0, Cell("a", 3, 2): 1.4}
    found = Measured({cell: np.full((1, 2), time) for cell, time in cells.items()}, {})
    assert found.slow_threads() == [Cell("a", 1, 2)]


def test_percentiles_need_their_number_of_calls():
    random = np.random.default_rng(0)
    calls = tuple(random.permutation(299) * 1_000_000 + 1_000_000)
    found = percentiles(calls)
    assert found["p50"].value_ms == 150
    assert found["p99"].high_ms == 299
    assert found["p99"].low_ms < found["p99"].value_ms < found["p99"].high_ms
    assert {name for name, value in percentiles(calls[:298]).items() if value is None} == {"p99"}
    few = percentiles(calls[:28])
    assert [name for name, value in few.items() if value is None] == ["p90", "p95", "p99"]
    assert percentiles(()) == {}

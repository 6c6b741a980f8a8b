"""The table on a terminal: it fits, and what matters most stays."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from compress.cli.screen import results_table
from compress.report.schema import Report

STORED = Path(__file__).parents[2] / "benchmarks" / "results" / "main_job.json"


@pytest.fixture(scope="module")
def report() -> Report:
    """The stored report of the main job."""
    stored = json.loads(STORED.read_text(encoding="utf-8"))["report"]
    return Report.model_validate_json(json.dumps(stored))


def test_the_whole_table_has_every_column_and_arm(report: Report):
    lines = results_table(report).splitlines()
    assert len(lines) == 2 + len(report.arms)
    assert lines[0].split()[:2] == ["stage", "precision"]
    for title in ("95 % interval", "kB", "params", "MACs"):
        assert title in lines[0]
    assert sum(" ← final" in line for line in lines) == 1


@pytest.mark.parametrize(("width", "gone"), [(130, ["MACs"]), (100, ["MACs", "params", "95 %"])])
def test_a_narrow_terminal_loses_the_least_needed_columns(
    report: Report, width: int, gone: list[str]
):
    lines = results_table(report, width).splitlines()
    assert max(map(len, lines)) <= width
    for title in gone:
        assert title not in lines[0]
    for title in ("stage", "quality (test)", "ms at 1", "faster", "smaller"):
        assert title in lines[0]

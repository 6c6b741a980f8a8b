"""The table of every timing: percentiles with intervals, loading, and marks of doubt."""

from __future__ import annotations

from sample import sample_report

from compress.report.measure_schema import Percentile
from compress.report.timings import timings_table


def test_columns_without_figures_are_left_out():
    headings = [column.heading for column in timings_table(sample_report()).columns]
    assert "Median" in headings
    assert not {"p50", "p99", "Load", "First call"} & set(headings)


def test_percentiles_loading_and_what_had_not_settled():
    report = sample_report()
    first = report.arms[0]
    point = first.latency[0].model_copy(
        update={
            "percentiles": {
                "p50": Percentile(value_ms=0.61, low_ms=0.6, high_ms=0.62, n=200),
                "p99": None,
            },
            "load_ms": 12.34,
            "first_call_ms": 3.21,
            "unstable": 1,
        }
    )
    arms = [first.model_copy(update={"latency": [point]}), *report.arms[1:]]
    table = timings_table(report.model_copy(update={"arms": arms}))
    cells = dict(zip([each.heading for each in table.columns], table.rows[0], strict=True))
    assert (cells["p50"].text, cells["p50"].notes) == ("0.610 ms", ("[0.600, 0.620]",))
    assert "p99" not in cells
    assert (cells["Load"].text, cells["First call"].text) == ("12.3 ms", "3.21 ms")
    assert cells["Median"].tags == ("unstable",)
    assert cells["Median"].notes == ("in 1 of 3 workers",)

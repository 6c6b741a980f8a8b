"""What the page's tables sort by, and the one script that may do it."""

from __future__ import annotations

import base64
import hashlib
import re

from sample import check_report, sample_report

from compress.report import render_html, tables
from compress.report.gate_table import gate_table
from compress.report.tables import Table
from compress.report.timings import timings_table


def column(table: Table, heading: str) -> list[float | None]:
    place = [column.heading for column in table.columns].index(heading)
    return [row[place].sort for row in table.rows]


def test_figures_are_sorted_by_their_value_and_not_by_their_text() -> None:
    table = tables.arms_table(sample_report())
    assert column(table, "File")[:2] == [1_090_000, 316_000]
    assert column(table, "Latency, batch 1")[:2] == [0.634, 0.331]
    assert column(table, "Latency, batch 1")[-1] is None
    assert column(table, "Accuracy")[0] == 0.989
    assert column(table, "Drop")[1] == 0.008
    assert column(table, "MACs")[2] == 12_380_000
    assert column(timings_table(sample_report()), "Samples a second")[0] == 1000 / 0.634
    assert column(tables.operators_table(sample_report()), "Conv")[0] == 21
    assert column(tables.candidates_table(sample_report()), "Speed")[3] is None


def test_only_what_is_known_carries_a_number() -> None:
    page = render_html(sample_report())
    assert '<td class="numeric" data-sort="1090000">1.09\u00a0MB' in page
    assert '<td class="numeric">–</td>' in page


def test_a_table_of_mixed_units_does_not_sort_and_neither_does_one_row() -> None:
    assert not gate_table(check_report()).sortable
    page = render_html(check_report())
    compared = page.partition('aria-label="Compared"')[2].partition("</table>")[0]
    assert 'class="sortable"' not in compared
    assert 'class="sortable"' in page
    report = check_report()
    alone = report.model_copy(update={"arms": report.arms[:1], "gate": None, "comparisons": []})
    arms = render_html(alone).partition('aria-label="All arms"')[2].partition("</table>")[0]
    assert 'class="sortable"' not in arms


def test_the_policy_names_the_script_by_its_hash_and_allows_no_other() -> None:
    page = render_html(sample_report())
    (script,) = re.findall(r"<script>(.*?)</script>", page, flags=re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = page.partition('Content-Security-Policy" content="')[2].partition('"')[0]
    rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))
    assert rules["default-src"] == "'none'"
    assert rules["script-src"] == f"'sha256-{digest}'"

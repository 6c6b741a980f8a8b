"""The pages of a report, beside its report.json; no framework, so a finished run ends at once."""

from __future__ import annotations

import re
from pathlib import Path

from compress.artifact import write_text
from compress.report import render_html, render_markdown
from compress.report.benchmark_action import render_benchmark_action
from compress.report.junit import render_junit
from compress.report.schema import Report


def write_report(report: Report, out: Path) -> None:
    """Write report.json, and the pages rendered from it."""
    write_text(out / "report.json", _short_lists(report.model_dump_json(indent=1)) + "\n")
    write_pages(report, out)


def write_pages(report: Report, out: Path) -> None:
    """Render report.html and report.md for people, junit.xml and benchmark.json for CI."""
    write_text(out / "report.html", render_html(report))
    write_text(out / "report.md", render_markdown(report))
    write_text(out / "junit.xml", render_junit(report))
    write_text(out / "benchmark.json", render_benchmark_action(report))


def _short_lists(text: str) -> str:
    """The same JSON with every list of numbers on one line: there are thousands of raw times.

    Inside a text no line ends, so that none is taken for a list.
    """
    return re.sub(r"\[\n[-+\d.eE,\s]+\]", lambda found: re.sub(r"\s+", "", found.group()), text)

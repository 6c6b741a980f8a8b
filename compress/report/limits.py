"""A report cut down to what fits on one page; report.json keeps the whole."""

from __future__ import annotations

from typing import Any

from compress.report.highlights import chosen
from compress.report.schema import Arm, Report

#: A page stays below this, in bytes: what a mail or a CI artifact viewer takes without complaint.
PAGE_AT_MOST = 1_000_000
#: Timings that one page shows at first; a row in "Every timing" takes about 400 bytes.
_TIMINGS = 900
_ARMS = 100
_TEXT = 2_000


def fits_at_first(report: Report) -> int:
    """So many arms a page may hold before it is tried out."""
    timings = 0
    for place, arm in enumerate(report.arms):
        timings += len(arm.latency)
        if timings > _TIMINGS or place >= _ARMS:
            return max(1, place)
    return len(report.arms)


def cut(report: Report, arms: int) -> Report:
    """The report with at most so many arms, and what belongs to them.

    Baseline, final model with all it came from, and the Pareto front are kept first.
    """
    if arms >= len(report.arms):
        return report
    kept = _kept(report, arms)
    names = {arm.name for arm in kept}
    candidates = [entry for entry in report.candidates if entry.stage in names][: 3 * arms]
    return report.model_copy(
        update={
            "arms": kept,
            "candidates": candidates,
            "comparisons": [entry for entry in report.comparisons if entry.candidate in names],
        }
    )


def left_out(report: Report, shown: Report) -> str:
    """What a page does not show of the report, in one sentence; nothing where it shows all."""
    pairs = [(len(shown.arms), len(report.arms), "arms")]
    pairs.append((len(shown.candidates), len(report.candidates), "candidates"))
    parts = [f"{some} of {every} {noun}" for some, every, noun in pairs if some < every]
    return f"This page shows {' and '.join(parts)}; report.json has all." if parts else ""


def _kept(report: Report, most: int) -> list[Arm]:
    by_name = {arm.name: arm for arm in report.arms}
    line: list[str] = []
    name = report.final
    while name in by_name and name not in line:
        line.append(name)
        name = by_name[name].parent
    needed = [arm for arm in report.arms if arm.name in {report.baseline, *line[:most]}]
    names = {arm.name for arm in needed}
    rest = [arm for arm in report.arms if arm.name not in names]
    names |= {arm.name for arm in chosen(report, rest, max(0, most - len(needed)))}
    return [arm for arm in report.arms if arm.name in names]


def with_short_texts(report: Report, most: int = _TEXT) -> Report:
    """The report with every text cut to so many letters, and lists of them to as many entries."""
    return Report.model_validate(_short(report.model_dump(), most))


def _short(value: Any, most: int) -> Any:
    if isinstance(value, str):
        return value if len(value) <= most else value[: most - 1] + "…"
    if isinstance(value, dict):
        shown = list(value.items())[:most]
        return {_short(name, most): _short(entry, most) for name, entry in shown}
    if isinstance(value, (list, tuple)):
        return [_short(entry, most) for entry in value[:most]]
    return value

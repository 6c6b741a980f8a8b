"""The reports of many commits as one history: read, sorted, and what each could not be used for."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import compress
from compress.artifact import digest, write_text
from compress.errors import InputError
from compress.pipeline.series import Entry, all_series
from compress.report.history_html import render_history_html
from compress.report.history_markdown import render_history_markdown
from compress.report.history_schema import History, Subject
from compress.report.schema import SCHEMA_VERSION, Arm, Report, load_report
from compress.report.subject import judged_arms, machine_class

#: Reports of one folder each, or named by their commit in one folder.
_PATTERN: Final = "report*.json"
ERROR_RATE: Final = 0.05


class _Skipped(Exception):
    """Why one file takes no part."""


def read_history(folder: Path) -> History:
    """All reports below a folder, in order of time.

    Raises:
        InputError: no such folder, no report in it, or none that can be used.
    """
    if not folder.is_dir():
        raise InputError(
            f"{folder}: no such folder; expected one with the report.json files of many commits."
        )
    files = sorted(path for path in folder.rglob(_PATTERN) if path.is_file())
    if not files:
        raise InputError(
            f"{folder}: no history yet: no {_PATTERN} in it or below. Store the report.json of "
            "every build there, each in a folder of its own."
        )
    dated, skipped = _read(folder, files)
    if not dated:
        raise InputError(
            f"{folder}: none of {len(files)} reports can be used. {' '.join(skipped[:3])}"
        )
    machines: dict[str, str] = {}
    entries = [
        Entry(name, report, _arm(report), _letter(machines, machine_class(report.machine)))
        for _, name, report in sorted(dated, key=lambda each: each[:2])
    ]
    subjects = _subjects(entries)
    return History(
        tool_version=compress.__version__,
        machines={letter: words for words, letter in machines.items()},
        error_rate=ERROR_RATE,
        subjects=subjects,
        skipped=skipped,
        notes=_notes(entries, subjects),
    )


def write_history(history: History, out: Path) -> None:
    """Write history.json, history.html and history.md."""
    write_text(out / "history.json", history.model_dump_json(indent=1) + "\n")
    write_text(out / "history.html", render_history_html(history))
    write_text(out / "history.md", render_history_markdown(history))


def _read(folder: Path, files: list[Path]) -> tuple[list[tuple[datetime, str, Report]], list[str]]:
    found, skipped = [], []
    seen: dict[str, str] = {}
    for path in files:
        name = path.relative_to(folder).as_posix()
        try:
            report = _report(path)
            created = _time(report)
            _arm(report)
            twin = seen.setdefault(digest(report.model_dump(mode="json")), name)
            if twin != name:
                raise _Skipped(f"the same report as {twin}")
        except _Skipped as reason:
            skipped.append(f"{name}: skipped: {reason}.")
            continue
        found.append((created, name, report))
    return found, skipped


def _report(path: Path) -> Report:
    try:
        content: Any = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise _Skipped(f"no JSON that can be read ({type(error).__name__})") from None
    version = content.get("schema_version") if isinstance(content, dict) else None
    if version is not None and version != SCHEMA_VERSION:
        raise _Skipped(f"schema version {version}, expected {SCHEMA_VERSION}")
    try:
        return load_report(path)
    except InputError as error:
        text = str(error).removeprefix(f"{path}: ").partition(". Make it again")[0]
        raise _Skipped(text) from None


def _time(report: Report) -> datetime:
    try:
        created = datetime.fromisoformat(report.created)
    except ValueError:
        raise _Skipped(f"`created` is no ISO 8601 time: {report.created!r}") from None
    return created if created.tzinfo else created.replace(tzinfo=UTC)


def _arm(report: Report) -> Arm:
    """The one model that a report is about."""
    names = {arm.name for arm in report.arms}
    if report.baseline not in names:
        raise _Skipped(f"its baseline '{report.baseline}' is not among its arms")
    try:
        arms = judged_arms(report)
    except KeyError as error:
        raise _Skipped(f"compares {error}, which is not among its arms") from None
    if len(arms) != 1:
        raise _Skipped(
            f"a benchmark of {len(report.arms)} models without a final one; expected two, a run "
            "or a check"
        )
    return arms[0]


def _letter(machines: dict[str, str], words: str) -> str:
    """A, B, …, Z, then numbers, in order of appearance."""
    place = len(machines)
    return machines.setdefault(words, chr(ord("A") + place) if place < 26 else str(place + 1))


def _subjects(entries: list[Entry]) -> list[Subject]:
    titles: dict[str, list[Entry]] = {}
    for entry in entries:
        titles.setdefault(entry.report.title, []).append(entry)
    return [
        Subject(title=title, reports=len(own), series=all_series(own, ERROR_RATE))
        for title, own in titles.items()
    ]


def _notes(entries: list[Entry], subjects: list[Subject]) -> list[str]:
    notes = []
    if len(subjects) > 1 and all(subject.reports == 1 for subject in subjects):
        notes.append(
            "No two reports have the same title, so that nothing can be compared over time: name "
            "the models by the same paths in every build."
        )
    if any(entry.report.commit is None for entry in entries):
        notes.append("Reports that name no commit are shown by their time.")
    if any(entry.report.gate for entry in entries):
        notes.append(
            "The ratio of a check is to the baseline of that build. Where each build is checked "
            "against the one before, a slower model is one high point and not a new level."
        )
    return notes

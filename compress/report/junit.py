"""A report as JUnit XML, which CI systems show beside the tests.

The form is what Jenkins, GitLab and the usual GitHub actions all read: `testsuites` of `testsuite`
of `testcase`, of which one holds at most one `failure` or `skipped`.
"""

from __future__ import annotations

import xml.etree.ElementTree as ET
from dataclasses import dataclass
from typing import Literal

from compress.report.gate_table import comparison_line, comparison_name, promise_name
from compress.report.gates_schema import Promise
from compress.report.schema import Comparison, Gate, Report
from compress.report.subject import judged_arms

_Outcome = Literal["passed", "failure", "skipped"]


@dataclass(frozen=True)
class _Case:
    """One test case: what was decided, how it ended, and why."""

    name: str
    outcome: _Outcome
    message: str
    details: str


def render_junit(report: Report) -> str:
    """The report as JUnit XML, ending in a newline.

    Each comparison of a check is one test case: "regressed" is a failure, "inconclusive" is
    skipped; so it is with each gate of a gate file. A run has its budget as its one case, skipped
    where no budget was set.
    """
    cases = _gate_cases(report, report.gate) if report.gate else [_budget_case(report)]
    counts = {
        "tests": len(cases),
        "failures": sum(case.outcome == "failure" for case in cases),
        "errors": 0,
        "skipped": sum(case.outcome == "skipped" for case in cases),
    }
    numbers = {name: str(count) for name, count in counts.items()} | {"time": "0"}
    root = ET.Element("testsuites", {"name": "compress", **numbers})
    stamp = report.created.split("+")[0].rstrip("Z")
    suite = ET.SubElement(
        root, "testsuite", {"name": printable(_suite(report)), **numbers, "timestamp": stamp}
    )
    for case in cases:
        _write(suite, case, "compress." + ("check" if report.gate else "budget"))
    ET.indent(root, " ")
    return f'<?xml version="1.0" encoding="UTF-8"?>\n{ET.tostring(root, encoding="unicode")}\n'


def printable(text: str) -> str:
    """One line without the characters that XML 1.0 cannot hold, escaped or not."""
    line = " ".join(text.split())
    return "".join(letter for letter in line if letter >= " " and not _forbidden(ord(letter)))


def _forbidden(code: int) -> bool:
    return 0xD800 <= code <= 0xDFFF or code in (0xFFFE, 0xFFFF)


def _suite(report: Report) -> str:
    """The two models; a check names them in its title, for its arms are named by their part."""
    if report.gate is not None:
        return report.title
    names = " and ".join(arm.name for arm in judged_arms(report))
    return f"{names} against {report.baseline}"


def _write(suite: ET.Element, case: _Case, place: str) -> None:
    found = ET.SubElement(
        suite, "testcase", {"name": printable(case.name), "classname": place, "time": "0"}
    )
    message, details = printable(case.message), printable(case.details)
    if case.outcome == "failure":
        attributes = {"message": message, "type": "regressed"}
        ET.SubElement(found, "failure", attributes).text = details
    elif case.outcome == "skipped":
        ET.SubElement(found, "skipped", {"message": message})
        ET.SubElement(found, "system-out").text = details
    else:
        ET.SubElement(found, "system-out").text = details


def _gate_cases(report: Report, gate: Gate) -> list[_Case]:
    cases = [_promised(report, entry) for entry in report.promises]
    cases += [_compared(report, gate, entry) for entry in report.comparisons]
    if gate.verdict == "regressed" and all(case.outcome != "failure" for case in cases):
        cases.append(_Case("Verdict", "failure", gate.explanation, gate.explanation))
    return cases


def _promised(report: Report, entry: Promise) -> _Case:
    """One gate of a gate file: broken fails, undecided or about other machines is skipped."""
    name, said = promise_name(entry), f"{entry.promised}; found {entry.found or 'nothing'}"
    if entry.outcome == "kept":
        return _Case(name, "passed", "", f"kept: {said}")
    message = f"{entry.outcome}: {said}" + (f"; {entry.reason}" if entry.reason else "")
    outcome: _Outcome = "failure" if entry.outcome == "broken" else "skipped"
    return _Case(name, outcome, message, report.gate.explanation if report.gate else message)


def _compared(report: Report, gate: Gate, entry: Comparison) -> _Case:
    name, line = comparison_name(report, entry), comparison_line(report, entry)
    if entry.verdict == "regressed":
        message = f"{name} regressed, {line}; {_allowed(gate, entry)}"
        return _Case(name, "failure", message, gate.explanation)
    if entry.verdict == "inconclusive":
        return _Case(name, "skipped", f"{_doubt(gate, entry)} {line}", gate.explanation)
    return _Case(name, "passed", "", f"{entry.verdict}: {line}")


def _allowed(gate: Gate, entry: Comparison) -> str:
    if entry.what == "latency":
        return f"allowed is {1 + gate.margin:g} ×"
    if entry.what == "quality":
        return f"allowed is {gate.max_drop or 0:.4g}"
    if entry.ratio is not None:
        return f"allowed is {1 + gate.size_margin:g} ×"
    return "none may be lost"


def _doubt(gate: Gate, entry: Comparison) -> str:
    if entry.what == "latency" and not gate.fit:
        strays = ", ".join(f"{ratio:.3f} ×" for ratio in gate.control.values())
        return f"Inconclusive: the machine is unfit, the baseline against itself is {strays}."
    sample = "processes" if entry.what == "latency" else "samples"
    counted = f" after {entry.n:,} {sample}" if entry.n else ""
    return f"Inconclusive{counted}: the interval reaches to both sides of what is allowed."


def _budget_case(report: Report) -> _Case:
    budget = report.budget
    if budget is None:
        reason = "No budget and no gate were set: figures were taken and nothing was decided."
        return _Case("Budget", "skipped", reason, reason)
    said = f"Budget {budget.status}: {budget.explanation}"
    return _Case("Budget", "failure" if budget.status == "missed" else "passed", said, said)

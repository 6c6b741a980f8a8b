"""What CI reads: JUnit by two parsers, the benchmark list by its documented fields."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ET

import pytest
from gated import TITLE, gated_report
from junitparser import Failure, JUnitXml, Skipped
from sample import sample_report

from compress.report import Report
from compress.report.benchmark_action import render_benchmark_action
from compress.report.gates_schema import Promise
from compress.report.junit import render_junit
from compress.report.subject import judged_arms

HOSTILE = 'a<b>&"\x00\x1b\ufffe\n]]>'
#: Jenkins' junit-10.xsd: attributes that must be there, and what a test case may hold.
NEEDED = {"testsuite": {"name", "tests", "failures", "errors"}, "testcase": {"name"}}
WITHIN_CASE = {"failure", "skipped", "system-out"}


def suite_of(report: Report) -> ET.Element:
    """The one suite, after the rules of the schema that Jenkins reads were checked."""
    root = ET.fromstring(render_junit(report).encode())
    assert root.tag == "testsuites"
    (suite,) = root
    assert suite.tag == "testsuite"
    assert NEEDED["testsuite"] <= set(suite.attrib)
    for case in suite:
        assert case.tag == "testcase"
        assert NEEDED["testcase"] <= set(case.attrib)
        assert {child.tag for child in case} <= WITHIN_CASE
        assert sum(child.tag != "system-out" for child in case) <= 1
    for name, tag in (("tests", "."), ("failures", "failure"), ("skipped", "skipped")):
        found = len(suite) if tag == "." else len(suite.findall(f"testcase/{tag}"))
        assert int(suite.attrib[name]) == found
    return suite


def test_each_comparison_of_a_check_is_a_test_case() -> None:
    suite = suite_of(gated_report())
    assert suite.attrib["name"] == TITLE
    (parsed,) = JUnitXml.fromstring(render_junit(gated_report()).encode())
    cases = {case.name: case for case in parsed}
    assert list(cases) == [
        "Accuracy, test split",
        "Latency, batch 1",
        "Latency, batch 32",
        "File",
        "Operators in int8",
    ]
    (failure,) = cases["Latency, batch 1"].result
    assert isinstance(failure, Failure)
    assert failure.message == (
        "Latency, batch 1 regressed, 0.329 ms → 0.142 ms: 1.200 × [1.150, 1.250]; allowed is 1.05 ×"
    )
    assert failure.text == gated_report().gate.explanation
    (skipped,) = cases["Latency, batch 32"].result
    assert isinstance(skipped, Skipped)
    assert skipped.message.startswith("Inconclusive after 18 processes: the interval reaches")
    assert all(cases[name].is_passed for name in ("Accuracy, test split", "File"))
    assert (parsed.tests, parsed.failures, parsed.skipped, parsed.errors) == (5, 1, 1, 0)


def test_an_unfit_machine_is_the_reason_for_skipping() -> None:
    report = gated_report()
    gate = report.gate.model_copy(update={"fit": False, "control": {1: 1.08}})
    suite = suite_of(report.model_copy(update={"gate": gate}))
    skipped = suite.find("testcase/skipped")
    assert "the machine is unfit, the baseline against itself is 1.080 ×" in skipped.get("message")


def test_a_verdict_without_a_comparison_still_fails() -> None:
    report = gated_report("ok")
    assert suite_of(report).attrib["failures"] == "0"
    gate = report.gate.model_copy(update={"verdict": "regressed"})
    suite = suite_of(report.model_copy(update={"gate": gate}))
    assert suite[-1].attrib["name"] == "Verdict"
    assert suite.attrib["failures"] == "1"


@pytest.mark.parametrize(("status", "failures"), [("proven", 0), ("met", 0), ("missed", 1)])
def test_a_run_has_its_budget_as_test_case(status: str, failures: int) -> None:
    report = sample_report()
    budget = report.budget.model_copy(update={"status": status})
    suite = suite_of(report.model_copy(update={"budget": budget}))
    assert suite.attrib["name"] == "5-student against 1-train"
    assert suite.attrib["failures"] == str(failures)
    assert report.budget.explanation in "".join(suite.itertext())


def test_a_benchmark_decides_nothing_and_says_so() -> None:
    suite = suite_of(sample_report().model_copy(update={"budget": None, "final": None}))
    assert suite.attrib["skipped"] == "1"
    assert "nothing was decided" in suite.find("testcase/skipped").get("message")


def test_no_text_of_the_user_breaks_the_file() -> None:
    report = gated_report()
    gate = report.gate.model_copy(update={"explanation": HOSTILE})
    suite = suite_of(report.model_copy(update={"gate": gate, "title": HOSTILE}))
    assert suite.attrib["name"] == 'a<b>&" ]]>'


def entries_of(report: Report) -> dict[str, dict[str, object]]:
    found = json.loads(render_benchmark_action(report))
    for entry in found:
        assert (
            {"name", "unit", "value"} <= set(entry) <= {"name", "unit", "value", "range", "extra"}
        )
        assert isinstance(entry["value"], int | float)
    named = {entry["name"]: entry for entry in found}
    assert len(named) == len(found)
    return named


def test_benchmark_entries_are_ratios_costs_and_the_drop() -> None:
    entries = entries_of(gated_report())
    assert {name: (entry["unit"], entry["value"]) for name, entry in entries.items()} == {
        "Latency, batch 1, candidate / baseline": ("ratio", 1.2),
        "Latency, batch 32, candidate / baseline": ("ratio", 1.04),
        "File": ("bytes", 103_000),
        "Parameters": ("parameters", 74_310),
        "MACs, one sample": ("MACs", 12_380_000),
        "Accuracy drop, test split": ("points", 0.1),
    }
    latency = entries["Latency, batch 1, candidate / baseline"]
    assert latency["range"] == "1.15 to 1.25"
    assert latency["extra"] == "AMD EPYC 7B13, 2 cores; 8 processes; regressed"


def test_a_run_is_exported_by_its_final_model_and_a_benchmark_by_all() -> None:
    sample = sample_report()
    assert [arm.name for arm in judged_arms(sample)] == ["5-student"]
    assert entries_of(sample)["Latency, batch 1, candidate / baseline"]["value"] == pytest.approx(
        0.0092 / 0.634, rel=1e-5
    )
    bench = sample.model_copy(update={"final": None, "comparisons": []})
    entries = entries_of(bench)
    assert entries["4-quantize: Latency, batch 32, candidate / baseline"]["value"] == pytest.approx(
        1.61 / 10.7, rel=1e-5
    )
    assert "7-student-alone: File" not in entries
    alone = bench.model_copy(update={"arms": bench.arms[:1]})
    assert set(entries_of(alone)) == {"File", "Parameters", "MACs, one sample"}


def gate_file_report() -> Report:
    """Four gates on latency, one for each way to end."""
    ends = (("kept", ""), ("broken", ""), ("inconclusive", ""), ("skipped", "no avx512_vnni here"))
    promises = [
        Promise(
            gate=place,
            metric="latency",
            candidate="int8",
            baseline="fp32",
            batch=place + 1,
            promised="at most 0.5 ×",
            found="" if outcome == "skipped" else "0.61 ×",
            value=None if outcome == "skipped" else 0.61,
            outcome=outcome,
            reason=reason,
        )
        for place, (outcome, reason) in enumerate(ends)
    ]
    arms = [
        arm.model_copy(update={"name": name})
        for arm, name in zip(gated_report().arms, ("fp32", "int8"), strict=True)
    ]
    update = {"promises": promises, "comparisons": [], "arms": arms, "baseline": "fp32"}
    return gated_report().model_copy(update=update)


def test_gates_of_a_gate_file_with_an_upper_bound_are_in_the_benchmark_list() -> None:
    report = gate_file_report()
    assert [arm.name for arm in judged_arms(report)] == ["int8"]
    first, *rest = json.loads(render_benchmark_action(report))
    assert first == {
        "name": "int8 latency, batch 1, at most 0.5 ×",
        "unit": "ratio",
        "value": 0.61,
        "extra": "kept",
    }
    assert len(rest) == 2  # the skipped one has no figure
    floor = report.promises[0].model_copy(update={"promised": "at least 3"})
    assert render_benchmark_action(report.model_copy(update={"promises": [floor]})) == "[]\n"


def test_each_gate_of_a_gate_file_is_a_test_case() -> None:
    suite = suite_of(gate_file_report())
    assert [case.get("name") for case in suite] == [f"int8 latency, batch {n}" for n in range(1, 5)]
    (failure,) = suite.findall("testcase/failure")
    assert failure.get("message") == "broken: at most 0.5 ×; found 0.61 ×"
    skipped = [entry.get("message") for entry in suite.findall("testcase/skipped")]
    assert skipped == [
        "inconclusive: at most 0.5 ×; found 0.61 ×",
        "skipped: at most 0.5 ×; found nothing; no avx512_vnni here",
    ]

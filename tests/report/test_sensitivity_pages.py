"""What layers lose in int8, in tables, pictures and on the pages; names come from strangers."""

from __future__ import annotations

import json
import re
import xml.etree.ElementTree as ET
from pathlib import Path

import jsonschema
import pytest
from sample import sample_report

import compress.report
from compress.report import Report, render_html, render_markdown
from compress.report.limits import PAGE_AT_MOST
from compress.report.sensitivity_picture import lines, sensitivity_bar
from compress.report.sensitivity_schema import Sensitivity
from compress.report.sensitivity_section import (
    MOST_CANDIDATES,
    MOST_LAYERS,
    sensitivity_section,
    sensitivity_table,
    sentences,
)

EVIL = "<script>alert('&\"')</script>"


def entry(name: str, divergence: float | None, *, fp32: bool = False, **more) -> Sensitivity:
    fields = {"operator": "Conv", "measure": "relative error", **more}
    return Sensitivity(name=name, divergence=divergence, fp32=fp32, **fields)


ENTRIES = [
    entry("broken", None, fp32=True),
    entry("hard", 0.5, fp32=True),
    entry("block", 0.125, operator="Conv, Gemm", nodes=2),
    entry("harmless", 0.0),
]


def with_sensitivity(*places: int, entries: list[Sensitivity] = ENTRIES) -> Report:
    report = sample_report()
    candidates = [
        candidate.model_copy(update={"sensitivity": entries}) if at in places else candidate
        for at, candidate in enumerate(report.candidates)
    ]
    return report.model_copy(update={"candidates": candidates})


def test_the_table():
    table = sensitivity_table(ENTRIES)
    assert [(column.heading, column.note) for column in table.columns] == [
        ("Layer", ""),
        ("Operator", ""),
        ("Divergence", "relative error"),
        ("Precision", ""),
    ]
    assert [[cell.text for cell in row] for row in table.rows] == [
        ["broken", "Conv", "no number", "fp32"],
        ["hard", "Conv", "0.500", "fp32"],
        ["block", "Conv, Gemm", "0.125", "int8"],
        ["harmless", "Conv", "0", "int8"],
    ]
    assert table.rows[2][0].notes == ("2 nodes",)


def test_bars_are_as_long_as_their_share_of_the_longest():
    rects = [ET.fromstring(sensitivity_bar(line))[0] for line in lines(ENTRIES)]
    widths = [(rect.get("class"), rect.get("width")) for rect in rects]
    assert widths == [
        ("part float", "100.00%"),
        ("part float", "100.00%"),
        ("part int8", "25.00%"),
        ("part int8", "0.00%"),
    ]
    assert [line.length for line in lines([entry("a", 0.0)])] == [0.0]


def test_what_is_said():
    measure, left = sentences(ENTRIES)
    assert measure == (
        "For each layer the relative error (L2) of the outputs against those in fp32, when nothing "
        "but this layer is int8."
    )
    assert left == "2 of 4 layers stay in fp32."
    assert sentences(ENTRIES[1:])[1] == "1 of 3 layers stays in fp32."
    assert sentences(ENTRIES[3:])[1] == "No layer stays in fp32."
    scores = [entry("a", 0.1, measure="KL divergence")]
    assert (
        "the KL divergence of the classes' probabilities, in nats, against" in sentences(scores)[0]
    )


def test_the_pages_show_it_where_there_is_one():
    report = with_sensitivity(1)
    page, text = render_html(report), render_markdown(report)
    candidate = report.candidates[1]
    title = f"Sensitivity: {candidate.stage}, {candidate.name}"
    assert page.count('<section class="sensitivity">') == 1
    assert title in page
    assert f"## {title}" in text
    assert "| hard | Conv | 0.500 | fp32 |" in text
    for picture in re.findall(r"<svg.*?</svg>", page, flags=re.DOTALL):
        ET.fromstring(picture)
    for other in (render_html(sample_report()), render_markdown(sample_report())):
        assert "Sensitivity" not in other


def test_many_layers_are_cut_and_counted():
    many = [entry(f"layer {at} {'x' * 100}", 1 / (at + 1)) for at in range(200)]
    report = with_sensitivity(*range(6), entries=many)
    assert len(sensitivity_section(report)) == MOST_CANDIDATES
    shown = sensitivity_section(report)[0]
    assert len(shown.bars) == len(shown.table.rows) == MOST_LAYERS
    assert "140 less sensitive layers more are in report.json." in shown.sentences
    page = render_html(report)
    assert len(page.encode()) < PAGE_AT_MOST
    assert page.count('<li><span class="name">layer ') == MOST_CANDIDATES * MOST_LAYERS


def test_kept_candidates_come_first():
    report = with_sensitivity(*range(6))
    kept = next(candidate for candidate in report.candidates if candidate.kept)
    assert sensitivity_section(report)[0].title == f"{kept.stage}, {kept.name}"


def test_names_are_escaped():
    report = with_sensitivity(0, entries=[entry(EVIL, 0.1, operator=EVIL), entry("|`*_\n", 0.01)])
    page, text = render_html(report), render_markdown(report)
    assert page.count("<script") == 1  # the page's own, for sorting
    assert page.count("&lt;script&gt;") >= 3
    assert "<script" not in text
    assert r"\|\`\*" in text


@pytest.mark.parametrize("divergence", [float("nan"), float("inf"), -0.1])
def test_a_record_holds_numbers_only(divergence: float):
    with pytest.raises(ValueError, match="divergence"):
        entry("a", divergence)


def test_a_report_with_it_is_read_again_and_fits_the_schema():
    report = with_sensitivity(0, 1)
    document = json.loads(report.model_dump_json())
    assert Report.model_validate(document) == report
    stored = Path(compress.report.__file__).with_name("report.schema.json").read_text("utf-8")
    jsonschema.Draft202012Validator(json.loads(stored)).validate(document)

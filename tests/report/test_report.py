"""The pages say what the report says, whole, escaped and readable without a network."""

from __future__ import annotations

import json
import re
import xml.etree.ElementTree as ET
from html.parser import HTMLParser
from pathlib import Path

import jsonschema
import pytest
from sample import check_report, sample_report

import compress.report
from compress.errors import InputError
from compress.report import Report, load_report, render_html, render_markdown
from compress.report.formatting import fact, metric_format, number, seconds, size
from compress.report.json_schema import schema_text
from compress.report.pictures import accuracy_against_latency
from compress.report.verdict import key_figures, verdict

HOSTILE = '<script>alert("1")</script> & |`*\nnext'
VOID = {"meta", "br"}


class Page(HTMLParser):
    """Collects texts and tags, and fails on tags that do not close in order."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self._open: list[str] = []
        self.feed(source)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self._open and self._open[-1] not in ("style", "script"):
            self.texts.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.texts).split())


def bare_report() -> Report:
    """One arm, nothing known that may be unknown."""
    sample = sample_report()
    unknown: dict[str, object] = {
        "parameters": None,
        "macs": None,
        "peak_memory_bytes": None,
        "seconds": None,
    }
    unknown |= {"quality": None, "validation": None, "operators": {}, "kind": "file"}
    arm = sample.arms[0].model_copy(update=unknown)
    update = {"arms": [arm], "comparisons": [], "candidates": [], "final": None, "budget": None}
    return sample.model_copy(update=update | {"recipe": {}, "notes": [], "measurement": {}})


def hostile_report() -> Report:
    """Every text that a user can choose, replaced everywhere it occurs."""
    texts = json.loads(sample_report().model_dump_json())
    names = [arm["name"] for arm in texts["arms"]]

    def spoilt(value: object, key: str = "") -> object:
        if isinstance(value, dict):
            return {
                (HOSTILE if key == "operators" else name): spoilt(entry, name)
                for name, entry in value.items()
            }
        if isinstance(value, list):
            return [spoilt(entry, key) for entry in value]
        if value in names:
            return f"{value}{HOSTILE}"
        free = ("title", "command", "notes", "reason", "explanation", "cpu", "precision", "metric")
        return HOSTILE if key in free and isinstance(value, str) else value

    return Report.model_validate(spoilt(texts))


def test_verdict_says_speed_size_and_drop_with_its_interval() -> None:
    said = verdict(sample_report())
    assert said.sentence == (
        "68.9 × faster at batch 1, 70.9 × at batch 32, 19.4 × smaller; "
        "accuracy drop 0.2 points [−0.3, 0.7] — budget of 0.5 points: met"
    )
    assert said.status == "met"


def test_verdict_names_what_got_worse_and_what_is_unclear() -> None:
    report = sample_report()
    changed: dict[tuple[str, int | None], dict[str, object]] = {
        ("latency", 1): {"ratio": 1.25, "interval": (1.2, 1.3), "verdict": "regressed"},
        ("latency", 32): {"ratio": 0.98, "interval": (0.9, 1.1), "verdict": "inconclusive"},
        ("size", None): {"ratio": 2.0, "verdict": "regressed"},
    }
    entries = [
        entry.model_copy(update=changed.get((entry.what, entry.batch)))
        for entry in report.comparisons
    ]
    said = verdict(report.model_copy(update={"comparisons": entries, "budget": None}))
    assert said.sentence.startswith(
        "1.25 × slower at batch 1, 1.02 × faster (inconclusive) at batch 32, 2 × larger; "
    )
    assert said.status == "none"


def test_comparisons_with_another_baseline_are_left_out() -> None:
    report = sample_report()
    other = next(
        entry for entry in report.comparisons if (entry.candidate, entry.batch) == ("5-student", 1)
    ).model_copy(update={"baseline": "7-student-alone", "ratio": 0.5})
    mixed = report.model_copy(update={"comparisons": [other, *report.comparisons]})
    assert verdict(mixed).sentence == verdict(report).sentence


def test_page_shows_the_figures() -> None:
    text = Page(render_html(sample_report())).text.replace("\u00a0", " ")
    for figure in (
        "272,186",
        "31.0 M",
        "1.09 MB",
        "0.634 ms",
        "10.7 ms",
        "0.00920 ms",
        "13,114",
        "98.7 %",
        "[97.8, 99.2]",
        "N = 1,000",
        "68.9 × [66.9, 71.0]",
        "fp32, int8 weights",
        "2 min 21 s",
        "1 fp32, 20 int8",
        "5-student trained without a teacher; the teacher gave 1.1 points",
        "drop of 2.3 points exceeds 0.5",
        "compress run recipes/cnn.yaml prune.macs=0.4",
        "max_drop: 0.005",
        "8.20 GB",
    ):
        assert figure in text, figure


@pytest.mark.parametrize(
    "report", [sample_report(), bare_report(), hostile_report(), check_report()]
)
def test_page_is_well_formed_and_loads_nothing(report: Report) -> None:
    source = render_html(report)
    page = Page(source)
    assert len(source.encode()) < 300_000
    assert not {"link", "img", "iframe", "object"} & {tag for tag, _ in page.tags}
    for tag, attributes in page.tags:
        assert not {"src", "href", "xlink:href", "srcset"} & set(attributes), tag
        assert not [name for name in attributes if name.startswith("on")], tag
    assert not re.search(
        r"url\(|@import|http", source.partition("</style>")[0].partition("<style>")[2]
    )
    for picture in re.findall(r"<svg.*?</svg>", source, flags=re.DOTALL):
        ET.fromstring(picture)


def test_hostile_texts_are_shown_as_text() -> None:
    report = hostile_report()
    source = render_html(report)
    assert source.lower().count("<script") == 1
    page = Page(source)
    assert '<script>alert("1")</script> & |`*' in page.text
    labels = ET.fromstring(accuracy_against_latency(report, "wide")).iter("text")
    assert any("<script>" in (label.text or "") for label in labels)


def test_markdown_escapes_user_texts_and_keeps_its_tables_whole() -> None:
    source = render_markdown(hostile_report())
    outside = source.partition("## Repeat it")[0]
    assert "<script" not in outside
    rows = [line for line in outside.splitlines() if line.startswith("|")]
    widths = [len(re.findall(r"(?<!\\)\|", row)) - 1 for row in rows]
    assert widths == [7] * (2 + 8 + 2 + 6)
    assert "## Candidates" in outside
    assert r"&lt;script&gt;alert(" in outside


def test_markdown_command_cannot_leave_its_fence() -> None:
    report = sample_report().model_copy(update={"command": "compress run a\n```\n# injected"})
    block = render_markdown(report).partition("## Repeat it\n\n")[2]
    assert block.startswith("````sh\ncompress run a\n```\n# injected\n````\n")


def test_markdown_says_the_same_in_short() -> None:
    source = render_markdown(sample_report())
    assert source.startswith("# ResNet-20 on MNIST\n\n☑️ **68.9 × faster at batch 1, ")
    row = next(line for line in source.splitlines() if line.startswith("| 5-student **final**"))
    for figure in ("98.7 %", r"\[−0.3, 0.7\]", "0.00920 ms", "68.9 ×", "56.2 kB", "19.4 ×"):
        assert figure in row
    assert "- The machine has two cores" in source
    assert "| **refused** | 2.3 | 1.10 × | 102 kB | drop of 2.3 points exceeds 0.5 |" in source


def test_unknown_values_show_as_a_dash_and_never_as_none() -> None:
    report = sample_report()
    for source in (render_html(report), render_markdown(report), render_html(bare_report())):
        assert not re.search(r"\bNone\b|\bnan\b|Undefined", source)
    page = render_html(report)
    qat = page[page.index(">qat<") :].partition("</tr>")[0]
    assert qat.count(">–<") == 3
    assert "<dt>governor</dt><dd>–</dd>" in page


def test_a_lone_arm_is_compared_with_nothing() -> None:
    page, text = render_html(bare_report()), render_markdown(bare_report())
    headings = re.findall(r"<h2>(.*?)</h2>", page)
    assert headings == [
        "Latency and throughput against batch size",
        "All arms",
        "Spread over processes",
        "How it was measured",
        "Repeat it",
    ]
    assert "Pareto front" not in page
    sentence = "1 arm measured; 1-train: 0.634 ms at batch 1, 10.7 ms at batch 32, 1.09 MB"
    assert sentence in text
    assert sentence in Page(page).text.replace("\u00a0", " ")


def test_numbers_keep_their_significant_digits() -> None:
    assert [number(value) for value in (0.0092, 9.999, 999.6, 272186, -0.5, 0, None)] == [
        "0.00920",
        "10.0",
        "1,000",
        "272,186",
        "−0.500",
        "0",
        "–",
    ]
    assert [size(value) for value in (999, 36_400, 1_090_000)] == ["999 B", "36.4 kB", "1.09 MB"]
    assert [seconds(value) for value in (8.3, 119, 245)] == ["8.3 s", "119 s", "4 min 05 s"]
    assert fact({"a": [True, None, 0.25]}) == "a yes, –, 0.25"


def test_metrics_keep_their_own_unit() -> None:
    assert metric_format("accuracy").difference(-0.0001, 1000) == "0.0"
    assert metric_format("accuracy").value(0.98765, 10_000) == "98.77 %"
    assert metric_format("perplexity").value(23.456, 1000) == "23.46"
    assert metric_format("perplexity").allowed(0.5) == "0.5"
    accuracy = metric_format("accuracy")
    assert [accuracy.allowed(drop) for drop in (0.005, 0.01, 0.02)] == [
        "0.5 points",
        "1 point",
        "2 points",
    ]


def _luminance(colour: str) -> float:
    parts = [int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)]
    linear = [
        part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts
    ]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def test_colours_have_the_contrast_that_wcag_asks_for() -> None:
    style = render_html(bare_report()).partition("<style>")[2]
    themes = [
        dict(re.findall(r"--([\w-]+): (#\w{6});", block)) for block in style.split("@media")[:2]
    ]
    pairs = [(ink, paper) for ink in ("ink", "muted") for paper in ("page", "paper")]
    pairs += [(ink, "paper") for ink in ("accent", "final", "control", "missed", "met")]
    for status in ("proven", "met", "missed", "none"):
        pairs += [(status, f"{status}-paper"), ("ink", f"{status}-paper")]
    for theme in themes:
        for ink, paper in pairs:
            low, high = sorted((_luminance(theme[ink]), _luminance(theme[paper])))
            assert (high + 0.05) / (low + 0.05) >= 4.5, (ink, paper)


def test_schema_file_is_the_generated_one_and_accepts_the_sample() -> None:
    stored = Path(compress.report.__file__).with_name("report.schema.json").read_text("utf-8")
    assert stored == schema_text()
    document = json.loads(sample_report().model_dump_json())
    validator = jsonschema.Draft202012Validator(json.loads(stored))
    validator.validate(document)
    document["arms"][0]["sise_bytes"] = 1
    assert "sise_bytes" in next(validator.iter_errors(document)).message


def test_a_stored_report_renders_to_the_same_page(tmp_path: Path) -> None:
    report = sample_report()
    file = tmp_path / "report.json"
    file.write_text(report.model_dump_json(), encoding="utf-8")
    assert render_html(load_report(file)) == render_html(report)
    file.write_text('{"schema_version": 2}', encoding="utf-8")
    with pytest.raises(InputError, match="not a report of schema version 1"):
        load_report(file)


def test_a_metric_that_is_one_number_alone_is_told_from_what_it_was_and_no_more():
    alone = {"interval": None}
    arms = [
        arm.model_copy(update={"quality": arm.quality and arm.quality.model_copy(update=alone)})
        for arm in sample_report().arms
    ]
    report = sample_report().model_copy(update={"arms": arms})
    notes = {figure.label: figure.note for figure in key_figures(report)}
    assert re.fullmatch(r"from 9\d\.\d+ %", notes["Accuracy, test split"])

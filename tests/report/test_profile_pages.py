"""Profiles in tables, pictures and on the page; names in them come from strangers."""

from __future__ import annotations

import json
import re
import xml.etree.ElementTree as ET

import pytest
from sample import sample_report

from compress.report import Report, render_html, render_markdown
from compress.report.profile_picture import MOST_BARS, bar_picture, bars, look
from compress.report.profile_schema import Profile, ProfiledNode, ProfiledOperator
from compress.report.profile_tables import (
    MOST_NODES,
    Pair,
    compared,
    difference_table,
    microseconds,
    nodes_table,
    operators_table,
    paired_range,
    percent,
    sentences,
    signed,
)

EVIL = "<script>alert('&\"')</script>"


def profile(wall_us: float = 100.0, **times: float) -> Profile:
    """One node an operator; keyword to microseconds, in two processes 10 % apart."""
    total = sum(times.values())
    precisions = {
        operator: "int8 (static)"
        if operator.startswith("QLinear")
        else "int8 conversion"
        if operator == "QuantizeLinear"
        else "fp32"
        for operator in times
    }
    return Profile(
        batch=4,
        threads=2,
        calls=120,
        kernels_us=total,
        wall_us=wall_us,
        profiled_us=3 * wall_us,
        cost_us=2.5,
        workers_kernels_us=[0.9 * total, 1.1 * total],
        workers_wall_us=[wall_us, wall_us],
        operators=[
            ProfiledOperator(
                operator=operator,
                nodes=1,
                runs=1,
                us=us,
                share=us / total,
                share_range=(0.9 * us / total, min(1.0, 1.1 * us / total)),
                workers_us=[0.9 * us, 1.1 * us],
                precisions={precisions[operator]: 1},
                precisions_us={precisions[operator]: us},
            )
            for operator, us in times.items()
        ],
        nodes=[
            ProfiledNode(
                name=f"{EVIL} {operator}",
                operator=operator,
                precision=precisions[operator],
                provider="CPUExecutionProvider",
                shapes=["fp32 4×8"],
                inside=EVIL if operator == "Relu" else None,
                runs=1,
                us=us,
                share=us / total,
            )
            for operator, us in times.items()
        ],
        int8_nodes=sum(kind == "int8 (static)" for kind in precisions.values()),
        int8_share=sum(us for name, us in times.items() if name.startswith("QL")) / total,
        conversion_share=times.get("QuantizeLinear", 0.0) / total,
    )


BEFORE = profile(Conv=60.0, Relu=20.0, Softmax=4.0)
AFTER = profile(50.0, QLinearConv=16.0, QuantizeLinear=8.0, Relu=12.0, Softmax=4.0)


def with_profiles(**profiles: Profile) -> Report:
    report = sample_report()
    names = {"baseline": report.baseline, "final": report.final, "other": report.arms[1].name}
    chosen = {names[role]: entry for role, entry in profiles.items()}
    arms = [arm.model_copy(update={"profile": chosen.get(arm.name)}) for arm in report.arms]
    return report.model_copy(update={"arms": arms})


def cells(table) -> list[list[str]]:
    return [[cell.text for cell in row] for row in table.rows]


def test_operators_and_nodes():
    assert cells(operators_table(AFTER))[0] == [
        *["QLinearConv", "int8 (static)", "1", "1", "16", "40 %", "36.0 to 44.0 %"]
    ]
    table = nodes_table(BEFORE, most=2)
    assert [row[1].text for row in table.rows] == ["Conv", "Relu"]
    assert table.rows[1][0].notes == (f"inside {EVIL}",)
    assert [row[5].text for row in table.rows] == ["60", "20"]


def test_the_difference_by_hand():
    table = difference_table(Pair("a", BEFORE, "b", AFTER))
    assert cells(table) == [
        ["Conv", "60", "–", "−60", "−66 to −54"],
        ["QLinearConv", "–", "16", "+16", "+14.4 to +17.6"],
        ["Relu", "20", "12", "−8", "−8.8 to −7.2"],
        ["QuantizeLinear", "–", "8", "+8", "+7.2 to +8.8"],
        ["Softmax", "4", "4", "0", "0 to 0"],
        ["All kernels", "84", "40", "−44", "−48.4 to −39.6"],
        ["Whole call, without profiler", "100", "50", "−50", "−50 to −50"],
    ]
    tags = {row[0].text: row[0].tags for row in table.rows if row[0].tags}
    assert tags == {"Conv": ("gone",), "QLinearConv": ("new",), "QuantizeLinear": ("new",)}


def test_small_differences_share_a_line_but_what_is_new_or_gone_does_not():
    old = profile(**{f"A{at}": 50.0 - at for at in range(8)}, Gone=0.1)
    new = profile(**{f"A{at}": 2 * (50.0 - at) for at in range(8)}, New=0.2)
    table = cells(difference_table(Pair("a", old, "b", new), most=3))
    assert [row[0] for row in table[:-2]] == ["A0", "A1", "A2", "New", "Gone", "5 others"]
    before = sum(50.0 - at for at in range(3, 8))
    assert table[5][1:] == [microseconds(before), microseconds(2 * before), f"+{before:.0f}", "–"]


def test_processes_that_do_not_pair_have_no_range():
    assert paired_range([1.0, 2.0], [4.0, 3.0]) == (1.0, 3.0)
    assert paired_range([1.0], [4.0, 3.0]) is None
    assert paired_range([], []) is None


def test_which_profiles_are_compared():
    report = with_profiles(baseline=BEFORE, final=AFTER, other=AFTER)
    assert [pair.after_name for pair in compared(report)] == [report.final]
    open_end = report.model_copy(update={"final": None})
    assert len(compared(open_end)) == 2
    assert compared(with_profiles(final=AFTER)) == []
    assert compared(sample_report()) == []


def test_what_is_said():
    first, second, third = sentences(AFTER)
    assert first == (
        "A call takes 50 µs without the profiler (batch 4, 2 threads), its kernels 40 µs under it. "
        "At least 10 µs (20 %) are outside of kernels: the runtime's own work and the call from "
        "Python."
    )
    assert second == (
        "1 of 4 nodes run in int8: 40 % of the kernel time. Conversions to int8 and back take 20 %."
    )
    assert third.startswith("The profiler makes a call 3.00 × as long. 2.5 µs a run of a node are")
    assert third.endswith("120 calls in 2 processes.")
    assert sentences(BEFORE)[1] == "No node runs in int8."
    slowed = profile(50.0, Conv=60.0)
    assert sentences(slowed)[0].endswith("outside of kernels cannot be told from that.")
    assert "a larger batch tells more" in sentences(profile(9.0, Conv=0.4, Relu=0.4))[-1]


@pytest.mark.parametrize(
    ("value", "text"), [(0.04, "0"), (0.56, "0.6"), (12.34, "12.3"), (1234.5, "1,234")]
)
def test_microseconds(value: float, text: str):
    assert microseconds(value) == text


def test_signs_and_shares():
    assert [signed(value) for value in (3.2, -3.2, 0.01)] == ["+3.2", "−3.2", "0"]
    assert [percent(value) for value in (0.5, 0.0994, 0.0996, 0.0)] == [
        *["50 %", "9.9 %", "10 %", "0.0 %"]
    ]


def test_bars_add_up_to_the_whole():
    many = profile(**{f"A{at}": 30.0 - at for at in range(15)})
    found = bars(many)
    assert [bar.name for bar in found[-2:]] == [f"A{MOST_BARS - 1}", "6 others"]
    assert sum(bar.length for bar in found) == pytest.approx(1.0)
    assert len(bars(profile(**{f"A{at}": 30.0 - at for at in range(MOST_BARS + 1)}))) == 10
    assert [bar.share for bar in bars(AFTER)] == ["40 %", "20 %", "30 %", "10 %"]


def test_a_bar_is_as_long_as_its_share_of_the_longest():
    first, second, *_ = bars(AFTER)
    root = ET.fromstring(bar_picture(second, first.length))
    (rect,) = root.iter("rect")
    assert (rect.get("class"), rect.get("width"), rect.get("x")) == (
        *("part conversion", "50.00%", "0.00%"),
    )


@pytest.mark.parametrize(
    ("precision", "expected"),
    [
        ("int8 (dynamic)", "int8"),
        ("int8", "int8"),
        ("int4 weights", "int8"),
        ("int8 conversion", "conversion"),
        ("bf16", "float"),
        ("control flow", "other"),
    ],
)
def test_colours(precision: str, expected: str):
    assert look(precision) == expected


def test_the_page_shows_baseline_final_and_their_difference():
    report = with_profiles(baseline=BEFORE, final=AFTER, other=AFTER)
    page = render_html(report)
    assert page.count('<ol class="times">') == 2
    assert "Where the time goes" in page
    assert f"{report.final} against {report.baseline}" in page
    assert page.count("<summary>Nodes in int8</summary>") == 1
    assert "Where the time goes" not in render_html(sample_report())


def test_markdown_has_the_same_tables_in_short():
    text = render_markdown(with_profiles(baseline=BEFORE, final=AFTER, other=AFTER))
    section = text.partition("## Where the time goes\n")[2].partition("\n## ")[0]
    final = sample_report().final
    assert re.findall(r"^### (.*)$", section, re.M) == [
        "1-train",
        final,
        f"{final} against 1-train",
    ]
    assert section.count("Every node:") == 2
    for line in (
        "| Operator | Precision | Nodes | µs (a call) | Share (of kernel time) |",
        "| QLinearConv | int8 (static) | 1 | 16 | 40 % |",
        "| Operator | Before (µs a call) | After (µs a call) | "
        "Difference (µs, the largest first) |",
        "| Conv **gone** | 60 | – | −60 |",
        "| Whole call, without profiler | 100 | 50 | −50 |",
    ):
        assert f"{line}\n" in f"{section}\n"
    assert "1 of 4 nodes run in int8: 40 % of the kernel time." in section
    assert "Where the time goes" not in render_markdown(sample_report())


def test_markdown_shows_the_slowest_nodes_and_gives_them_up_first():
    many = profile(**{f"A{at}": 90.0 - at for at in range(80)})
    text = render_markdown(with_profiles(baseline=many))
    assert f"The slowest {MOST_NODES} of 80 nodes:" in text
    assert text.count(" A79 |") == 1  # among the operators, not among the nodes
    short = render_markdown(with_profiles(baseline=many), limit=len(text.encode()) - 500)
    assert len(short.encode()) <= len(text.encode()) - 500
    assert re.search(r"\d+ nodes more are left out here", short)
    assert "operators more" not in short
    least = len(render_markdown(sample_report()).encode()) + 1_500
    tight = render_markdown(with_profiles(baseline=many), limit=least)
    assert len(tight.encode()) <= least
    assert "operators more are left out" in tight


def test_names_of_nodes_and_operators_are_escaped():
    evil = profile(**{EVIL: 5.0, "Relu": 2.0, EVIL + "QLinear": 1.0})
    page = render_html(with_profiles(baseline=evil, final=evil))
    assert page.count("<script") == 1  # the page's own, for sorting
    assert page.count("&lt;script&gt;") > 5
    assert "<script" not in render_markdown(with_profiles(baseline=evil, final=evil))


def test_a_report_with_profiles_is_read_again_as_it_was():
    report = with_profiles(baseline=BEFORE, final=AFTER)
    again = Report.model_validate_json(json.dumps(report.model_dump(mode="json")))
    assert again == report

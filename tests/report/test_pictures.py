"""The pictures: what they draw, that nothing overlaps, and that odd input does not break them."""

from __future__ import annotations

import xml.etree.ElementTree as ET

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sample import crowd, latency, quality, sample_report

from compress.report import render_html
from compress.report.axes import linear_axis, log_axis
from compress.report.branches import branch_steps
from compress.report.labels import Box, place_labels
from compress.report.pictures import accuracy_against_latency
from compress.report.points import labelled, outside_picture, pareto_front, picture_points


def test_teacher_gain_takes_the_paired_comparison_either_way_round() -> None:
    report = sample_report()
    pair = {"baseline": "5-student", "candidate": "7-student-alone", "difference": 0.012}
    entry = report.comparisons[0].model_copy(update=pair | {"interval": (0.004, 0.02)})
    stories = []
    for turned in (False, True):
        if turned:
            swap: dict[str, object] = {"baseline": entry.candidate, "candidate": entry.baseline}
            swap |= {"difference": -0.012, "interval": (-0.02, -0.004)}
            entry = entry.model_copy(update=swap)
        paired = report.model_copy(update={"comparisons": [*report.comparisons, entry]})
        stories += [step.kind for branch in branch_steps(paired) for step in branch.steps]
    assert sum("the teacher gave 1.2 points [0.4, 2.0]" in story for story in stories) == 2


def test_control_characters_do_not_break_the_picture() -> None:
    report = sample_report()
    arm = report.arms[1].model_copy(update={"name": "a\x00b\x1bc"})
    spoilt = report.model_copy(update={"arms": [report.arms[0], arm, *report.arms[2:]]})
    texts = [
        text.text for text in ET.fromstring(accuracy_against_latency(spoilt, "wide")).iter("text")
    ]
    assert "abc" in texts


def test_front_holds_what_none_beats_and_no_control() -> None:
    points = picture_points(sample_report())
    front = [point.name for point in pareto_front(points)]
    assert front == ["5-student", "3-distill", "1-train"]
    control = next(point for point in points if point.name == "7-student-alone")
    assert (control.latency, control.role) == (0.0092, "control")


def test_branches_run_from_the_root_to_every_leaf_with_controls_beside() -> None:
    names = [[step.name for step in branch.steps] for branch in branch_steps(sample_report())]
    assert names == [
        ["1-train", "2-prune", "3-distill", "8-pruned-alone", "4-quantize"],
        ["1-train", "5-student", "7-student-alone", "6-student-int8"],
    ]
    quantize = branch_steps(sample_report())[0].steps[-1]
    assert quantize.before == pytest.approx(0.634 / 0.329)
    assert quantize.after == pytest.approx(0.634 / 0.142)


def test_a_cycle_of_parents_ends() -> None:
    report = sample_report()
    first = report.arms[0].model_copy(update={"parent": "4-quantize"})
    arms = [first, *report.arms[1:4]]
    leaf = report.arms[4].model_copy(update={"parent": "4-quantize"})
    looped = report.model_copy(update={"arms": [*arms, leaf], "final": None})
    (branch,) = branch_steps(looped)
    assert [step.name for step in branch.steps if not step.control][-1] == "5-student"


def _boxes(picture: str) -> list[Box]:
    labels = [
        text for text in ET.fromstring(picture).iter("text") if "label" in text.get("class", "")
    ]
    boxes = []
    for label in labels:
        x, y, half = float(label.get("x", 0)), float(label.get("y", 0)), 3.4 * len(label.text or "")
        boxes.append(Box(x - half, y - 11, x + half, y + 3))
    return boxes


@pytest.mark.parametrize("width", ["wide", "narrow"])
def test_labels_of_the_sample_neither_overlap_nor_leave_the_picture(width: str) -> None:
    picture = accuracy_against_latency(sample_report(), "wide" if width == "wide" else "narrow")
    boxes = _boxes(picture)
    assert len(boxes) == 9
    across, down = map(float, ET.fromstring(picture).get("viewBox", "").split()[2:])
    for place, box in enumerate(boxes):
        assert box.inside(Box(0, 0, across, down))
        assert all(box.overlap(other) == 0 for other in boxes[place + 1 :])


@given(
    st.lists(st.tuples(st.floats(60, 500), st.floats(60, 300)), min_size=1, max_size=8),
)
@settings(max_examples=60, deadline=None)
def test_placed_labels_never_overlap(places: list[tuple[float, float]]) -> None:
    frame = Box(0, 0, 560, 360)
    labels = place_labels([(x, y, "A") for x, y in places], [], frame, 12)
    for place, label in enumerate(labels):
        assert label.box.inside(frame)
        assert all(label.box.overlap(other.box) == 0 for other in labels[place + 1 :])


@given(st.lists(st.floats(1e-4, 1e5), min_size=1, max_size=6))
@settings(max_examples=100, deadline=None)
def test_axes_hold_their_values_and_have_ticks(values: list[float]) -> None:
    for axis in (linear_axis(values, 0, 100), log_axis(values, 0, 100)):
        assert all(0 <= axis(value) <= 100 for value in values)
        assert all(0 <= axis(tick) <= 100.000001 for tick in axis.ticks)
        assert 2 <= len(axis.ticks) <= 12


def test_many_arms_carry_keys_with_a_legend() -> None:
    page = render_html(crowd(30))
    assert "<b>AD</b> arm-29" in page
    assert '<ul class="legend" aria-label="Arms by key">' in page


def test_among_very_many_only_the_baseline_and_the_front_carry_keys() -> None:
    report = crowd(50)
    points = picture_points(report)
    assert len(points) == 50
    front = [point.name for point in pareto_front(points)]
    assert front == [f"arm-{place}" for place in range(1, 50, 5)]
    assert [point.name for point in labelled(points)] == ["arm-0", *front]
    page = render_html(report)
    assert page.count("<li><svg") == 2 + len(labelled(points))
    assert "The baseline, the final model and the front carry keys." in page


def test_points_that_step_aside_leave_the_front_where_it_is() -> None:
    report = sample_report()
    beside = [
        report.arms[4].model_copy(
            update={
                "name": f"copy-{place}",
                "latency": latency(0.0092 * 1.01**place, 0.151),
                "quality": quality(0.987 + 0.001 * place, 0.978, 0.995),
            }
        )
        for place in range(1, 5)
    ]
    picture = accuracy_against_latency(
        report.model_copy(update={"arms": [*report.arms, *beside]}), "wide"
    )
    (front,) = (
        line for line in ET.fromstring(picture).iter("polyline") if line.get("class") == "front"
    )
    places = [float(corner.partition(",")[0]) for corner in front.get("points", "").split()]
    assert places == sorted(places)


def test_an_arm_far_below_is_named_and_not_drawn() -> None:
    report = sample_report()
    broken = report.arms[1].model_copy(update={"quality": quality(0.103, 0.089, 0.119)})
    spoilt = report.model_copy(update={"arms": [report.arms[0], broken, *report.arms[2:]]})
    assert outside_picture(report) == []
    assert [point.name for point in outside_picture(spoilt)] == ["2-prune"]
    assert "2-prune" not in accuracy_against_latency(spoilt, "wide")
    assert "2-prune lies far below the picture" in render_html(spoilt)


def test_where_lower_is_better_every_word_points_the_other_way() -> None:
    report = sample_report()
    lower = [
        arm.model_copy(
            update={
                name: found.model_copy(
                    update={"metric": "squared error", "higher_is_better": False}
                )
                for name in ("quality", "validation")
                if (found := getattr(arm, name))
            }
        )
        for arm in report.arms
    ]
    worst = quality(9.7, 8.9, 10.9).model_copy(
        update={"metric": "squared error", "higher_is_better": False}
    )
    lower[1] = lower[1].model_copy(update={"quality": worst})
    page = render_html(report.model_copy(update={"arms": lower}))
    assert "Down and to the left is better" in page
    assert f"{lower[1].name} lies far above the picture" in page
    assert "A positive rise is worse" in page
    assert "squared error rise" in page
    plain = render_html(report)
    assert "Up and to the left is better" in plain
    assert "rise" not in plain.partition("<body")[2].partition("Recipe")[0]

"""A trace that is written by hand, with durations that are known."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from compress.errors import ModelFileError
from compress.measure.trace import (
    Cost,
    middle_mean,
    profiler_cost,
    read_trace,
    summary,
)

FLOAT = {"float": [2, 4]}


def kernel(name: str, operator: str, start: int, us: int, index: int, **more: object) -> dict:
    details = {"op_name": operator, "provider": "CPUExecutionProvider", "node_index": str(index)}
    details |= {"input_type_shape": [FLOAT], "output_type_shape": [FLOAT], **more}
    return {
        "cat": "Node",
        "name": f"{name}_kernel_time",
        "ts": start,
        "dur": us,
        "args": details,
    }


def session(name: str, start: int, us: int) -> dict:
    return {"cat": "Session", "name": name, "ts": start, "dur": us, "args": {}}


def passed(start: int, us: int) -> dict:
    return session("SequentialExecutor::Execute", start, us)


def looped(start: int) -> list[dict]:
    """One call of 100 µs: a product, a Loop of 60 with two passes of 20 and 16 inside, an If."""
    return [
        kernel("product", "MatMul", start, 10, 0),
        kernel("inner", "MatMul", start + 22, 12, 0),
        kernel("inner relu", "Relu", start + 34, 6, 1),
        passed(start + 21, 20),
        kernel("inner", "MatMul", start + 42, 10, 0),
        kernel("inner relu", "Relu", start + 53, 4, 1),
        passed(start + 42, 16),
        kernel("loop", "Loop", start + 15, 60, 1),
        kernel("then", "Tanh", start + 80, 3, 0),
        passed(start + 79, 5),
        kernel("branch", "If", start + 77, 9, 2),
        passed(start, 98),
        session("model_run", start, 100),
    ]


def write(path: Path, events: list[dict]) -> Path:
    path.write_text(json.dumps(events))
    return path


def test_nodes_in_a_loop_are_counted_once(tmp_path: Path):
    opening = [session("model_loading_uri", 0, 900), session("session_initialization", 0, 950)]
    calls = read_trace(write(tmp_path / "t.json", [*opening, *looped(1000), *looped(2000)]))
    assert len(calls) == 2
    for call in calls:
        found = {(node.inside, node.name): (node.us, node.runs) for node in call.nodes.values()}
        assert found == {
            (None, "product"): (10, 1),
            ("loop", "inner"): (22, 2),
            ("loop", "inner relu"): (10, 2),
            (None, "loop"): (60 - 32, 1),
            ("branch", "then"): (3, 1),
            (None, "branch"): (6, 1),
        }
        assert (call.kernels_us, call.us) == (10 + 60 + 9, 100)


def test_a_loop_in_a_loop(tmp_path: Path):
    events = [
        kernel("deep", "Relu", 30, 4, 0),
        passed(29, 6),
        kernel("inner", "Loop", 25, 20, 0),
        passed(24, 22),
        kernel("outer", "Loop", 10, 50, 0),
        passed(9, 60),
        session("model_run", 8, 70),
    ]
    (call,) = read_trace(write(tmp_path / "t.json", events))
    times = {node.name: (node.us, node.inside) for node in call.nodes.values()}
    assert times == {"deep": (4, "inner"), "inner": (16, "outer"), "outer": (30, None)}


def test_neighbours_of_the_same_microsecond_are_not_inside_of_each_other(tmp_path: Path):
    events = [
        kernel("a", "Relu", 5, 0, 0),
        kernel("b", "Relu", 5, 0, 1),
        kernel("c", "Relu", 5, 7, 2),
        passed(5, 9),
        session("model_run", 5, 9),
    ]
    (call,) = read_trace(write(tmp_path / "t.json", events))
    assert [(node.name, node.us, node.inside) for node in call.nodes.values()] == [
        ("a", 0, None),
        ("b", 0, None),
        ("c", 7, None),
    ]


def test_what_is_no_kernel_and_what_is_cut_off_does_not_count(tmp_path: Path):
    fence = kernel("a", "Relu", 5, 3, 0) | {"name": "a_fence_before"}
    cut = [kernel("a", "Relu", 50, 3, 0), passed(49, 5)]
    events = [fence, kernel("a", "Relu", 8, 3, 0), passed(4, 8), session("model_run", 4, 9), *cut]
    (call,) = read_trace(write(tmp_path / "t.json", events))
    assert call.kernels_us == 3


def test_two_nodes_of_one_name_stay_two(tmp_path: Path):
    events = [
        kernel("same", "Relu", 5, 1, 0),
        kernel("same", "Tanh", 8, 2, 1),
        session("model_run", 4, 9),
    ]
    (call,) = read_trace(write(tmp_path / "t.json", events))
    assert [(node.operator, node.us) for node in call.nodes.values()] == [("Relu", 1), ("Tanh", 2)]


def test_names_cannot_move_the_cursor(tmp_path: Path):
    events = [kernel("a\x1b[2J\nb", "Relu", 5, 1, 0), session("model_run", 4, 9)]
    (call,) = read_trace(write(tmp_path / "t.json", events))
    assert [node.name for node in call.nodes.values()] == ["a�[2J�b"]


@pytest.mark.parametrize("text", ["", "[{", '[{"cat": "Node"}]', "[1]", "null"])
def test_what_is_no_trace_is_said_in_one_line(tmp_path: Path, text: str):
    path = tmp_path / "t.json"
    path.write_text(text)
    with pytest.raises(ModelFileError, match=r"^t\.json: not a trace that onnxruntime's profiler"):
        read_trace(path)


def test_the_middle_mean_by_hand():
    assert middle_mean([7.0]) == 7.0
    assert middle_mean([1.0, 3.0, 8.0]) == 4.0
    assert middle_mean([900.0, 1.0, 2.0, 4.0]) == 3.0
    assert middle_mean([5.0, 1.0, 3.0, 2.0, 4.0, 6.0, 100.0, 0.0]) == 3.5


def test_the_profilers_cost_is_taken_off(tmp_path: Path):
    calls = read_trace(write(tmp_path / "t.json", looped(0)))
    found = summary(calls, Cost(run=2.0, between=3.0))
    times = {node["name"]: (node["us"], node["runs"]) for node in found["nodes"]}
    assert times == {
        "product": (8, 1),
        "inner": (22 - 2 * 2, 2),
        "inner relu": (10 - 2 * 2, 2),
        "loop": (28 - 2 - 4 * 3, 1),  # four nodes ran in its body
        "then": (1, 1),
        "branch": (6 - 2 - 3, 1),
    }
    assert (found["calls"], found["us"]) == (1, 100)
    nothing = summary(calls, Cost(run=50.0))
    assert {node["us"] for node in nothing["nodes"]} == {0.0}


def test_a_call_that_was_interrupted_has_no_say(tmp_path: Path):
    events = []
    for start, us in ((0, 10), (1000, 12), (2000, 900), (4000, 11)):
        events += [kernel("a", "Relu", start, us, 0), session("model_run", start, us + 2)]
    found = summary(read_trace(write(tmp_path / "t.json", events)), Cost())
    assert found["nodes"][0]["us"] == 11.5


def test_a_branch_that_is_taken_every_second_time(tmp_path: Path):
    events = []
    for start in (0, 1000):
        events += [kernel("b", "Relu", start, 4, 1)] if start else []
        events += [session("model_run", start, 9)]
    (node,) = summary(read_trace(write(tmp_path / "t.json", events)), Cost())["nodes"]
    assert (node["us"], node["runs"]) == (2.0, 0.5)


def test_no_call_is_an_error():
    with pytest.raises(ModelFileError, match="holds no complete call"):
        summary([], Cost())


def test_the_profilers_cost_by_hand(tmp_path: Path):
    # Two runs of 6 µs in a call of 20; without the profiler the call takes 1.
    events = [
        kernel("a", "Add", 2, 6, 0),
        kernel("b", "Add", 10, 6, 1),
        session("model_run", 0, 20),
    ]
    calls = read_trace(write(tmp_path / "t.json", events))
    assert profiler_cost(calls, 1.0) == Cost(run=(12 - 1) / 2, between=(20 - 12) / 2)
    assert profiler_cost(calls, 99.0).run == 0.0

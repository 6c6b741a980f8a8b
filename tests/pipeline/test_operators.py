"""A type of operator that fell from int8 is a regression, whatever the others gained."""

from __future__ import annotations

import pytest

from compress.pipeline.operators import Counts, compare_operators
from compress.report.schema import Arm, Comparison

STATIC, DYNAMIC, STORED = "int8 (static)", "int8 (dynamic)", "fp32, int8 weights"


def compared(before: Counts, after: Counts) -> list[Comparison]:
    fields = {
        "kind": "file",
        "file": "model.onnx",
        "runtime": "onnxruntime",
        "device": "cpu",
        "precision": "int8",
        "size_bytes": 1,
    }
    named = {"old": before, "new": after}
    arms = [Arm(name=name, operators=counts, **fields) for name, counts in named.items()]
    return compare_operators(*arms)


def test_nothing_changed_is_one_line():
    counts = {"Conv": {STATIC: 20, "fp32": 1}, "Gemm": {STATIC: 1}}
    (entry,) = compared(counts, counts)
    assert (entry.what, entry.operator, entry.difference, entry.verdict) == ("int8", None, 0, "ok")


def test_a_baseline_in_fp32_has_nothing_to_lose():
    assert compared({"Conv": {"fp32": 3}}, {"Conv": {STATIC: 3}}) == []


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        # The sum of the int8 nodes is the same, and still a type fell.
        (
            {"Conv": {STATIC: 4}, "MatMul": {"fp32": 4}},
            {"Conv": {"fp32": 4}, "MatMul": {STATIC: 4}},
            [("Conv", 4, "regressed"), ("MatMul", -4, "improved")],
        ),
        # Weights in int8 are stored so; the product computes in fp32.
        ({"Gemm": {STATIC: 2}}, {"Gemm": {STORED: 2}}, [("Gemm", 2, "regressed")]),
        ({"Gemm": {STORED: 2}}, {"Gemm": {"fp32": 2}}, [("Gemm", 2, "regressed")]),
        ({"Conv": {"fp16": 2}}, {"Conv": {"fp32": 2}}, [("Conv", 2, "regressed")]),
        # Another type of node took the work, in fp32.
        (
            {"MatMul": {DYNAMIC: 3}},
            {"MatMul": {DYNAMIC: 2}, "Gemm": {"fp32": 1}},
            [("Gemm", 0, "ok"), ("MatMul", 1, "regressed")],
        ),
        # Layers that are gone, and a way into int8 that is another.
        ({"Conv": {STATIC: 20, "fp32": 1}}, {"Conv": {STATIC: 12, "fp32": 1}}, [("Conv", 0, "ok")]),
        ({"Gemm": {STATIC: 2}}, {"Gemm": {DYNAMIC: 2}}, [("Gemm", 0, "ok")]),
        ({"LSTM": {STORED: 2}}, {"LSTM": {DYNAMIC: 2}}, [("LSTM", -2, "improved")]),
    ],
)
def test_a_type_is_judged_by_the_nodes_that_fell(
    before: Counts, after: Counts, expected: list[tuple[str, int, str]]
):
    found = [(e.operator, e.difference, e.verdict) for e in compared(before, after)]
    assert found == expected

"""Judging without labels: agreement with the fp32 model, and the user's own metric."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from compress.data.samples import Samples, from_calls
from compress.errors import InputError, ModelFileError
from compress.measure.agreement import Agreement
from compress.measure.own_data import OwnMetric
from compress.runtime.onnxruntime import Session

ROWS = np.random.default_rng(0).normal(size=(40, 6)).astype(np.float32)


def write(path: Path, shift: float = 0.0, *, tail: str = "", scale: float = 1.0) -> Path:
    """y = (x · W + shift) · scale, and behind it perhaps one more operator."""
    weight = np.random.default_rng(1).normal(size=(6, 3)).astype(np.float32)
    bias = np.array([shift, 0, 0], np.float32)
    tensors = [
        numpy_helper.from_array(array, name)
        for name, array in {"w": weight * scale, "b": bias * scale}.items()
    ]
    nodes = [helper.make_node("Gemm", ["x", "w", "b"], ["y0"])]
    nodes.append(helper.make_node(tail or "Identity", ["y0"], ["y"]))
    given = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 6])
    made = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 3])
    graph = helper.make_graph(nodes, "g", [given], [made], tensors)
    opset = [helper.make_opsetid("", 18)]
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=9), path)
    return path


def samples(path: Path) -> Samples:
    return from_calls("mine", [(ROWS,)], Session(path).declared())


def test_scores_are_compared_by_their_largest(tmp_path: Path):
    fp32, other = write(tmp_path / "a.onnx"), write(tmp_path / "b.onnx", 3.0)
    judge = Agreement(samples(fp32), fp32)
    assert (judge.metric, judge.higher_is_better) == ("top-1 agreement", True)
    assert (judge.scores(Session(fp32), "test") == 1).all()
    held = np.concatenate([entry[0] for entry in judge.parts["test"].entries])
    tops = [Session(path).run(held).argmax(axis=1) for path in (fp32, other)]
    found = judge.scores(Session(other), "test")
    assert np.array_equal(found, (tops[0] == tops[1]).astype(float))
    assert 0 < found.mean() < 1
    quality, _ = judge.judged(Session(other), "test")
    assert (quality.value, quality.n) == (pytest.approx(found.mean()), 12)


def test_what_is_no_score_is_compared_by_its_relative_error(tmp_path: Path):
    fp32 = write(tmp_path / "a.onnx", tail="Relu")
    louder = write(tmp_path / "b.onnx", tail="Relu", scale=1.1)
    judge = Agreement(samples(fp32), fp32)
    assert (judge.metric, judge.higher_is_better) == ("relative error", False)
    assert "first output does not look like scores" in judge.notes[0]
    found = judge.scores(Session(louder), "validation")
    answered = np.concatenate([entry[0] for entry in judge.parts["validation"].entries])
    alive = np.abs(Session(fp32).run(answered)).sum(axis=1) > 0
    assert found[alive] == pytest.approx(0.1, rel=1e-5)
    itself, scores = judge.judged(Session(fp32), "validation")
    assert (scores == 0).all()
    assert (itself.value, itself.interval) == (0, None)
    assert judge.judged(Session(louder), "validation")[0].interval is not None


def test_the_rule_can_be_named(tmp_path: Path):
    fp32 = write(tmp_path / "a.onnx")
    judge = Agreement(samples(fp32), fp32, "error")
    assert judge.metric == "relative error"
    assert "looks like" not in judge.notes[0]


def test_an_output_that_no_sample_changes_is_told(tmp_path: Path):
    path = write(tmp_path / "a.onnx", scale=0.0)
    assert "gives the same for all samples: 'y'." in Agreement(samples(path), path).notes[-1]
    path = write(tmp_path / "b.onnx")
    assert not any("same for all samples:" in note for note in Agreement(samples(path), path).notes)


def test_rows_of_unit_length_are_no_scores(tmp_path: Path):
    path = write(tmp_path / "a.onnx")
    model = onnx.load(path)
    model.graph.node[1].op_type = "LpNormalization"
    onnx.save(model, path)
    assert Agreement(samples(path), path).rule == "error"


@pytest.mark.parametrize(("axes", "rule"), [([1], "top-1"), ([1, 2], "error")])
def test_a_map_over_an_image_is_no_row_of_scores(tmp_path: Path, axes: list[int], rule: str):
    path = write(tmp_path / "a.onnx", tail="Sigmoid")
    model = onnx.load(path)
    model.graph.node[1].output[0] = "y1"
    model.graph.node.append(helper.make_node("Unsqueeze", ["y1", "axes"], ["y"]))
    model.graph.initializer.append(numpy_helper.from_array(np.array(axes), "axes"))
    for _ in axes:
        model.graph.output[0].type.tensor_type.shape.dim.add().dim_param = "any"
    onnx.save(model, path)
    assert Agreement(samples(path), path).rule == rule


def test_a_candidate_that_answers_with_nan_is_wrong_everywhere(tmp_path: Path):
    fp32, broken = write(tmp_path / "a.onnx"), write(tmp_path / "b.onnx", scale=np.nan)
    for rule, worst in (("top-1", 0.0), ("error", 1.0)):
        judge = Agreement(samples(fp32), fp32, rule)
        assert (judge.scores(Session(broken), "test") == worst).all()
    with pytest.raises(ModelFileError, match="answers the samples with NaN or infinity; there is"):
        Agreement(samples(fp32), broken)


def test_timed_calls_have_the_size_that_is_asked_for_or_the_one_there_is(tmp_path: Path):
    fp32 = write(tmp_path / "a.onnx")
    judge = Agreement(samples(fp32), fp32)
    assert judge.sizes((1, 32)) == (1, 32)
    assert judge.batch(32)[0].shape == (32, 6)
    assert sum(len(call[0]) for call in judge.calibration(7, 0)) == 7
    model = onnx.load(fp32)
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 4
    model.graph.output[0].type.tensor_type.shape.dim[0].dim_value = 4
    onnx.save(model, tmp_path / "fixed.onnx")
    fixed = Agreement(samples(tmp_path / "fixed.onnx"), tmp_path / "fixed.onnx")
    assert fixed.sizes((1, 32)) == (4,)
    assert fixed.batch(32)[0].shape == (4, 6)
    assert len(fixed.scores(Session(fp32), "test")) == 3


METRICS = """
import numpy as np
rows = np.random.default_rng(0).normal(size=(40, 6)).astype(np.float32)

def mean(run):
    return run({"x": rows})[0].mean()

def each(run, part):
    return run(rows[:10] if part == "test" else rows[10:])[0][:, 0]

def text(run): return "good"
def nan(run): return float("nan")
def fails(run): raise KeyError("labels")
"""


@pytest.fixture
def metric(tmp_path: Path) -> Callable[[str], OwnMetric]:
    (tmp_path / "m.py").write_text(METRICS)
    path = write(tmp_path / "a.onnx")
    return lambda name: OwnMetric(samples(path), f"{tmp_path / 'm.py'}:{name}")


def test_a_number_has_no_interval_and_is_told_to_be_of_one_part(
    metric: Callable[[str], OwnMetric], tmp_path: Path
):
    judge, session = metric("mean"), Session(tmp_path / "a.onnx")
    quality, _ = judge.judged(session, "test")
    assert (quality.metric, quality.n, quality.interval) == ("mean", 1, None)
    assert quality.value == pytest.approx(float(session.run(ROWS).mean()), rel=1e-6)
    assert "the data that the model was chosen by is the data that it is reported" in judge.notes[0]


def test_a_number_for_each_sample_of_a_part_has_one(
    metric: Callable[[str], OwnMetric], tmp_path: Path
):
    judge, session = metric("each"), Session(tmp_path / "a.onnx")
    assert len(judge.scores(session, "validation")) == 30
    assert np.array_equal(judge.scores(session, "test"), session.run(ROWS[:10])[:, 0])
    assert judge.judged(session, "test")[0].interval is not None
    assert judge.notes == []


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("text", "metric '.*:text': ValueError: could not convert string to float: 'good'"),
        ("nan", r"metric '.*:nan' gave \[nan\]; expected a number, or one for each sample\."),
        ("fails", "metric '.*:fails': KeyError: 'labels'"),
    ],
)
def test_a_metric_that_fails_is_told_in_one_line(
    name: str, message: str, metric: Callable[[str], OwnMetric], tmp_path: Path
):
    with pytest.raises(InputError, match=message):
        metric(name).scores(Session(tmp_path / "a.onnx"), "test")


def test_a_metric_that_is_not_there(metric: Callable[[str], OwnMetric]):
    with pytest.raises(InputError, match=r"metric '.*:absent': AttributeError: .*'absent'"):
        metric("absent")


def test_an_interval_keeps_to_what_can_be(tmp_path: Path):
    fp32 = write(tmp_path / "a.onnx")
    judge = Agreement(samples(fp32), fp32)
    steps = {"share": [1.0] * 11 + [0.8], "error": [0.0] * 11 + [0.1]}
    for rule, scores in (("top-1", steps["share"]), ("error", steps["error"])):
        judge = Agreement(samples(fp32), fp32, rule)
        judge.scores = lambda *_, scores=scores: np.array(scores)
        low, high = judge.judged(Session(fp32), "test")[0].interval
        assert 0 <= low < high <= 1
        assert (high == 1) if rule == "top-1" else (low == 0)


def two_outputs(path: Path, second: np.ndarray, kind: int = TensorProto.FLOAT) -> Path:
    """y = x · W, and beside it x and a constant's sum, or of whole numbers the constant alone."""
    write(path)
    model = onnx.load(path)
    model.graph.initializer.append(numpy_helper.from_array(second, "second"))
    if kind == TensorProto.FLOAT:
        nodes = [helper.make_node("Add", ["x", "second"], ["z"])]
        shape = ["n", 6]
    else:
        nodes, shape = [helper.make_node("Identity", ["second"], ["z"])], list(second.shape)
    model.graph.node.extend(nodes)
    model.graph.output.append(helper.make_tensor_value_info("z", kind, shape))
    onnx.save(model, path)
    return path


@pytest.mark.parametrize(("shift", "right"), [(0.0, 1.0), (0.01, 1.0), (5.0, 0.0)])
def test_another_output_beside_scores_may_not_be_ruined(tmp_path: Path, shift: float, right: float):
    fp32 = two_outputs(tmp_path / "a.onnx", np.zeros(6, np.float32))
    other = two_outputs(tmp_path / "b.onnx", np.full(6, shift, np.float32))
    judge = Agreement(samples(fp32), fp32)
    assert judge.rule == "top-1"
    assert "Outputs that do not look like scores may be 10% off" in judge.notes[1]
    assert judge.scores(Session(other), "test").mean() == right


def test_whole_numbers_are_compared_as_well(tmp_path: Path):
    kind = TensorProto.INT64
    fp32 = two_outputs(tmp_path / "a.onnx", np.array([3, 4, 5, 6]), kind)
    other = two_outputs(tmp_path / "b.onnx", np.array([3, 4, 5, 7]), kind)
    judge = Agreement(samples(fp32), fp32, "error")
    assert judge.scores(Session(other), "test") == pytest.approx(np.full(12, 0.25))
    longer = two_outputs(tmp_path / "c.onnx", np.array([3, 4, 5, 6, 7]), kind)
    assert not any("another number of values" in note for note in judge.notes)
    for part in ("validation", "test"):
        assert judge.scores(Session(longer), part) == pytest.approx(np.ones(12))
    assert sum("another number of values" in note for note in judge.notes) == 1


def test_scores_whose_largest_is_always_the_same_are_compared_by_their_error(tmp_path: Path):
    fp32 = write(tmp_path / "a.onnx", shift=1000)
    judge = Agreement(samples(fp32), fp32)
    assert judge.rule == "error"
    assert "the largest score in the same place for all samples" in judge.notes[0]
    assert Agreement(samples(fp32), fp32, "top-1").rule == "top-1"


def test_another_output_of_scores_is_compared_by_its_largest_as_well(tmp_path: Path):
    files = [write(tmp_path / f"{name}.onnx") for name in "ab"]
    for file, shift in zip(files, (0.0, 3.0), strict=True):
        model = onnx.load(file)
        weight = np.random.default_rng(2).normal(size=(6, 4)).astype(np.float32)
        bias = np.array([shift, 0, 0, 0], np.float32)
        model.graph.initializer.append(numpy_helper.from_array(weight, "w2"))
        model.graph.initializer.append(numpy_helper.from_array(bias, "b2"))
        model.graph.node.append(helper.make_node("Gemm", ["x", "w2", "b2"], ["z"]))
        model.graph.output.append(helper.make_tensor_value_info("z", TensorProto.FLOAT, ["n", 4]))
        onnx.save(model, file)
    judge = Agreement(samples(files[0]), files[0])
    assert len(judge.notes) == 1
    rows = np.concatenate([entry[0] for entry in judge.parts["test"].entries])
    first, second = (Session(file).every_output((rows,))[1].argmax(axis=1) for file in files)
    same = (first == second).mean()
    assert 0 < same < 1
    assert judge.scores(Session(files[1]), "test").mean() == pytest.approx((1 + same) / 2)


def test_an_output_that_holds_nothing_is_no_score(tmp_path: Path):
    fp32 = write(tmp_path / "a.onnx")
    model = onnx.load(fp32)
    model.graph.initializer.append(numpy_helper.from_array(np.zeros((0, 4), np.float32), "none"))
    model.graph.node.append(helper.make_node("Identity", ["none"], ["boxes"]))
    model.graph.output.append(helper.make_tensor_value_info("boxes", TensorProto.FLOAT, [0, 4]))
    onnx.save(model, fp32)
    judge = Agreement(samples(fp32), fp32)
    assert judge.rule == "top-1"
    assert (judge.scores(Session(fp32), "test") == 1).all()
    model.graph.output.append(model.graph.output[0])
    del model.graph.output[0]  # the empty one is the first
    onnx.save(model, fp32)
    for rule in ("auto", "top-1"):
        right = 1 if rule == "top-1" else 0
        assert (Agreement(samples(fp32), fp32, rule).scores(Session(fp32), "test") == right).all()

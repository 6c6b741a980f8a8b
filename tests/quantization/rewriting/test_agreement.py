"""When outputs agree, and what a model is run on without samples."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from onnx import numpy_helper
from sketch import Sketch, save

from compress.errors import ModelFileError, ShapeMismatch
from compress.quantization.rewriting.agreement import (
    MOST,
    TOLERANCE,
    Disagreement,
    reference,
    relative_difference,
)

FLOATS = arrays(np.float32, (3, 2), elements=st.floats(-1e6, 1e6, width=32))


@given(FLOATS, FLOATS)
def test_difference_is_relative_to_the_largest(want, got):
    found = relative_difference(want, got)
    if np.array_equal(want, got):
        assert found == 0
    elif want.any():
        expected = np.abs(want.astype(float) - got).max() / np.abs(want.astype(float)).max()
        assert found == pytest.approx(expected)
    else:
        assert found == np.inf


@pytest.mark.parametrize(
    ("want", "got", "difference"),
    [
        (np.array([1.0, np.nan]), np.array([1.0, np.nan]), 0),
        (np.array([1.0, np.nan]), np.array([1.0, 2.0]), np.inf),
        (np.array([1.0, np.inf]), np.array([1.1, np.inf]), 0.1),
        (np.array([1.0, np.inf]), np.array([1.0, -np.inf]), np.inf),
        (np.array([1, 2]), np.array([1, 2]), 0),
        (np.array([1, 2]), np.array([1, 3]), np.inf),
        (np.array([1.0]), np.array([[1.0]]), np.inf),
        (np.array([1.0], np.float32), np.array([1.0]), np.inf),
        (np.array(["a"]), np.array(["a"]), 0),
        (np.zeros(0), np.zeros(0), 0),
        ([np.array([2.0])], [np.array([1.0])], 0.5),
        ([np.array([2.0])], [], np.inf),
        ([{"a": 2.0}], [{"a": 1.0}], 0.5),
        ([{"a": 2.0}], [{"b": 2.0}], np.inf),
    ],
)
def test_what_is_compared(want, got, difference):
    assert relative_difference(want, got) == pytest.approx(difference)


def test_a_result_that_is_no_number_does_not_agree():
    assert np.isnan(relative_difference(np.array([1.0]), np.array([np.nan])))


def written(g, path):
    onnx.save(g.model(), path)
    return path


def summed(factor, path):
    g = Sketch()
    x = g.input("x", ("batch", 2))
    return written(g.output(g.Relu(x)).output(g.Mul(x, factor)), path)


def test_all_outputs_are_compared(tmp_path):
    x = np.array([[1, 2]], np.float32)
    expected = reference(summed(2.0, tmp_path / "a.onnx"), (x,))
    assert expected.difference(summed(2.0001, tmp_path / "b.onnx")) == pytest.approx(5e-5, rel=0.01)
    with pytest.raises(Disagreement, match=r"output 'v1_0' differs by 0.05 of its largest number"):
        expected.difference(summed(2.1, tmp_path / "b.onnx"))
    (tmp_path / "c.onnx").write_bytes(b"nothing")
    with pytest.raises(Disagreement, match=r"does not run any more: .*Protobuf parsing failed"):
        expected.difference(tmp_path / "c.onnx")


def test_samples_are_cut_or_filled_to_a_fixed_batch(tmp_path):
    g = Sketch()
    path = written(g.output(g.Relu(g.input("x", (4, 2)))), tmp_path / "m.onnx")
    for rows in (1, 4, 9):
        found = reference(path, (np.ones((rows, 2), np.float32),))
        assert found.outputs[0].shape == (4, 2)


def test_samples_that_do_not_fit(tmp_path):
    path = summed(2, tmp_path / "m.onnx")
    for samples in ((), (np.ones((1, 3), np.float32),), (np.ones((1, 2)),)):
        with pytest.raises(ShapeMismatch, match=r"takes x tensor\(float\) \['batch', 2\]"):
            reference(path, samples)


def test_made_up_inputs(tmp_path):
    g = Sketch()
    x, lengths = g.input("x", ("batch", "time", 3)), g.input("lengths", ("batch",), np.int64)
    state, scale = g.input("state", (1, "batch", 3)), g.input("scale", ())
    total = g.Mul(g.Add(g.Add(x, g.Transpose(state, perm=[1, 0, 2])), scale), 2)
    path = written(g.output(total).output(lengths), tmp_path / "m.onnx")
    found = reference(path, None)
    assert [feed.shape for feed in found.feeds] == [(2, 8, 3), (2,), (1, 2, 3), ()]
    assert found.outputs[1].tolist() == [1, 1]


def test_made_up_inputs_grow_until_they_fit(tmp_path):
    g = Sketch()
    x = g.input("x", (None, 1, None, None))
    made = g.Conv(x, g.constant(np.ones((1, 1, 11, 11))))
    found = reference(written(g.output(made), tmp_path / "m.onnx"), None)
    assert found.feeds[0].shape == (2, 1, 32, 32)


def test_nothing_that_is_made_up_fits(tmp_path):
    g = Sketch()
    made = g.Reshape(g.input("x", ("batch", "odd")), g.constant([77, 77], np.int64))
    with pytest.raises(ModelFileError, match=r"give samples; it does not run on made-up inputs: "):
        reference(written(g.output(made), tmp_path / "m.onnx"), None)
    with pytest.raises(ModelFileError, match="does not run on the samples: "):
        reference(tmp_path / "m.onnx", (np.ones((1, 2), np.float32),))


def cancelling(g, weight):
    """A variance as the difference of two means of squares, of values that hardly vary."""
    x = g.Add(g.MatMul(g.input("x", ("n", 8)), g.constant(0.01 * weight)), 3.0)
    mean = g.mean(x, -1)
    variance = g.Sub(g.mean(g.Mul(x, x), -1), g.Mul(mean, mean))
    return g.Div(g.Sub(x, mean), g.Sqrt(g.Add(g.Max(variance, 0.0), 1e-4)))


def test_what_the_original_makes_of_roundings_is_allowed(tmp_path):
    plain, doubtful, random = Sketch(), Sketch(), np.random.default_rng(0)
    weight = random.standard_normal((8, 16))
    samples = (random.standard_normal((5, 8)).astype(np.float32),)
    made = plain.MatMul(plain.input("x", ("n", 8)), plain.constant(weight))
    save(plain.output(made).model(), tmp_path / "plain.onnx")
    source = save(doubtful.output(cancelling(doubtful, weight)).model(), tmp_path / "doubtful.onnx")
    assert reference(tmp_path / "plain.onnx", samples).sensitivity < 1e-6
    expected = reference(source, samples)
    assert TOLERANCE < expected.sensitivity <= MOST
    other = onnx.load(source)
    for tensor in other.graph.initializer:
        values = numpy_helper.to_array(tensor)
        if values.size == 1 and values.item() == 3:
            nearly = np.nextafter(values, np.float32(4))
            tensor.CopyFrom(numpy_helper.from_array(nearly, tensor.name))
    assert 0 < expected.difference(save(other, tmp_path / "other.onnx")) <= expected.sensitivity

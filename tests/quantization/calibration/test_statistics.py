"""Ranges by every method, and statistics that are saved, loaded and refused."""

from __future__ import annotations

import dataclasses
import zipfile
from pathlib import Path

import numpy as np
import pytest
from onnx import helper
from small_graphs import convolutions, save, value, whole

from compress.errors import InputError, UnknownName
from compress.onnx_files import model_digest
from compress.quantization.calibration import Statistics, collect
from compress.quantization.calibration.ranges import entropy_range, mse_range, percentile_range
from compress.quantization.calibration.statistics import METHODS


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return convolutions(tmp_path / "model.onnx")


@pytest.fixture
def statistics(model: Path) -> Statistics:
    batches = [(whole(4, 2, 8, 8, seed=number),) for number in range(3)]
    return collect(model, batches, channels={"c2": 1, "x": 1})


def test_each_method_is_applied_to_each_tensor(statistics: Statistics):
    for name, tensor in statistics.tensors.items():
        arguments = tensor.histogram, tensor.low, tensor.high
        expected = {
            "minmax": (tensor.low, tensor.high),
            "moving-average": (tensor.average_low, tensor.average_high),
            "percentile": percentile_range(*arguments, 95.0),
            "entropy": entropy_range(*arguments),
            "mse": mse_range(*arguments, 16),
        }
        for method, (low, high) in expected.items():
            found = statistics.ranges(method, percentile=95.0, levels=16)[name]
            assert found == (min(low, 0), max(high, 0)), (name, method)
    narrow = statistics.ranges("percentile", percentile=95.0)["c1"]
    whole_range = statistics.ranges()["c1"]
    assert whole_range[0] < narrow[0] < narrow[1] < whole_range[1]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    ("constant", "expected"), [(0.0, (0, 1)), (1e-40, (0, 1)), (2.5, (0, 2.5)), (-4.0, (-4, 0))]
)
def test_constant_tensors_have_a_range_that_can_be_divided_by(
    tmp_path: Path, method: str, constant: float, expected: tuple[float, float]
):
    nodes = [helper.make_node("MatMul", ["x", "w"], ["y"], "m")]
    shapes = [value("x", ["n", 2])], [value("y", ["n", 2])]
    path = save(tmp_path / "m.onnx", nodes, *shapes, {"w": np.zeros((2, 2), np.float32)})
    found = collect(path, [(np.full((3, 2), constant, np.float32),)]).ranges(method)
    assert found["x"] == pytest.approx(expected, rel=2e-3)
    assert found["y"] == (0, 1)


def test_a_tensor_that_never_had_a_value_has_no_range(tmp_path: Path):
    nodes = [helper.make_node("MatMul", ["x", "w"], ["y"], "m")]
    shapes = [value("x", ["n", "t", 2])], [value("y", ["n", "t", 2])]
    path = save(tmp_path / "m.onnx", nodes, *shapes, {"w": np.eye(2, dtype=np.float32)})
    empty, full = np.zeros((3, 0, 2), np.float32), np.ones((1, 1, 2), np.float32)
    assert collect(path, [(empty,)]).ranges() == {}
    for method in METHODS:
        assert collect(path, [(empty,), (full,)]).ranges(method)["y"] == pytest.approx((0, 1), 2e-3)


def test_an_unknown_method_is_named(statistics: Statistics):
    with pytest.raises(UnknownName) as error:
        statistics.ranges("percentiles")  # type: ignore[arg-type]
    assert str(error.value) == (
        "No calibration method named 'percentiles'. Known: entropy, minmax, moving-average, mse, "
        "percentile. Did you mean 'percentile'?"
    )


def test_what_is_saved_is_loaded(statistics: Statistics, model: Path, tmp_path: Path):
    statistics.save(tmp_path / "statistics.npz")
    found = Statistics.load(tmp_path / "statistics.npz", model)
    for field in ("source", "samples", "batches"):
        assert getattr(found, field) == getattr(statistics, field)
    assert list(found.tensors) == list(statistics.tensors)
    for name, tensor in statistics.tensors.items():
        loaded = found.tensors[name]
        np.testing.assert_array_equal(loaded.histogram.counts, tensor.histogram.counts)
        assert loaded.histogram.limit == tensor.histogram.limit
        kept = {field.name for field in dataclasses.fields(tensor)} - {"histogram", "channels"}
        assert all(getattr(loaded, field) == getattr(tensor, field) for field in kept)
        if tensor.channels is None:
            assert loaded.channels is None
        else:
            np.testing.assert_array_equal(loaded.channels.largest, tensor.channels.largest)
            np.testing.assert_array_equal(loaded.channels.mean, tensor.channels.mean)
            assert loaded.channels.axis == 1
    for method in METHODS:
        assert found.ranges(method) == statistics.ranges(method)


def test_statistics_of_another_file_are_refused(
    statistics: Statistics, model: Path, tmp_path: Path
):
    path, before = tmp_path / "statistics.npz", model_digest(model)
    statistics.save(path)
    convolutions(model, 4)
    with pytest.raises(InputError) as error:
        Statistics.load(path, model)
    assert str(error.value) == (
        f"{path}: statistics of another file (SHA-256 {before[:12]}…) than {model} "
        f"({model_digest(model)[:12]}…); calibrate again."
    )


def test_what_is_no_saved_statistics_is_refused(
    statistics: Statistics, model: Path, tmp_path: Path
):
    path = tmp_path / "statistics.npz"
    with pytest.raises(InputError) as error:
        Statistics.load(path, model)
    assert str(error.value) == f"{path}: no such file; expected saved statistics (npz)."
    statistics.save(path)
    whole_file = path.read_bytes()
    damaged = [b"", b"nonsense", whole_file[: len(whole_file) // 2]]
    for content in damaged:
        path.write_bytes(content)
        with pytest.raises(InputError, match=r"not saved statistics \(\w+\); calibrate again\.$"):
            Statistics.load(path, model)
    path.write_bytes(whole_file)
    with zipfile.ZipFile(path) as stored:
        parts = {name: stored.read(name) for name in stored.namelist()}
    parts.pop("limits.npy")
    with zipfile.ZipFile(path, "w") as stored:
        for name, content in parts.items():
            stored.writestr(name, content)
    with pytest.raises(InputError, match=r"not saved statistics \(KeyError\)"):
        Statistics.load(path, model)
    np.savez(path, version=np.array(7))
    with pytest.raises(InputError, match=r"statistics of version 7, expected 2; calibrate again"):
        Statistics.load(path, model)

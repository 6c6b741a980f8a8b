"""One pass over samples against numpy on every activation, kept at once by plain onnxruntime."""

from __future__ import annotations

from pathlib import Path
from threading import Lock, get_ident
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import ValueInfoProto, helper
from small_graphs import INT64, attention, convolutions, save, value, whole

from compress.errors import InputError, ModelFileError, ShapeMismatch, UnknownName
from compress.quantization.calibration import Statistics, collect, collecting
from compress.quantization.calibration.observed import STATIC_KINDS, observe
from compress.quantization.calibration.seeing import Seen
from compress.runtime.interface import Feeds


def every_tensor(path: Path, batches: list[Feeds]) -> dict[str, list[np.ndarray]]:
    """All that a graph computes, a list of batches each."""
    model = onnx.load(path)
    taken = [entry.name for entry in model.graph.input]
    made = [name for node in model.graph.node for name in node.output]
    known = {entry.name for entry in model.graph.output}
    model.graph.output.extend(ValueInfoProto(name=name) for name in made if name not in known)
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    runs = [dict(zip(taken, feeds, strict=True)) for feeds in batches]
    found = {name: [run[name] for run in runs] for name in taken}
    for run in runs:
        for name, values in zip(made, session.run(made, run), strict=True):
            found.setdefault(name, []).append(values)
    return found


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return convolutions(tmp_path / "model.onnx")


def images(*sizes: int) -> list[Feeds]:
    return [(whole(size, 2, 8, 8, seed=number),) for number, size in enumerate(sizes)]


@pytest.mark.parametrize("budget", [1, 20_000, 2**26])
def test_statistics_are_those_of_all_activations_however_they_are_run(model: Path, budget: int):
    batches = images(5, 1, 7)
    found = collect(model, batches, budget=budget)
    assert (found.samples, found.batches) == (13, 3)
    assert set(found.tensors) == {"x", "c1", "r1", "p", "c2", "s", "r2", "f", "y"}
    expected = every_tensor(model, batches)
    for name, tensor in found.tensors.items():
        values = np.concatenate([part.ravel() for part in expected[name]])
        assert (tensor.count, tensor.low, tensor.high) == (
            values.size,
            values.min(),
            values.max(),
        ), name
        limit = tensor.histogram.limit
        counts, _ = np.histogram(values.astype(np.float64), 4096, (-limit, limit))
        np.testing.assert_array_equal(tensor.histogram.counts, counts)
        means = [np.mean([part.min() for part in expected[name]])]
        means += [np.mean([part.max() for part in expected[name]])]
        np.testing.assert_allclose((tensor.average_low, tensor.average_high), means)


def test_what_only_moves_or_bends_values_is_not_fetched(model: Path):
    observed = observe(model, kinds=STATIC_KINDS, channels=(), threads=1)
    assert observed.fetched == ["c1", "c2", "p", "s", "y"]
    # A tensor whose channels are wanted is fetched itself.
    observed = observe(model, kinds=STATIC_KINDS, channels=("r1",), threads=1)
    assert observed.fetched == ["c1", "c2", "p", "r1", "s", "y"]


def test_only_the_operators_that_are_named_need_ranges(model: Path):
    assert set(collect(model, images(2), kinds=("Gemm",)).tensors) == {"f", "y"}


def test_channels_are_looked_at_one_by_one(model: Path):
    batches = images(4, 3)
    found = collect(model, batches, channels={"r1": 1, "x": 1}, kinds=("Gemm",))
    assert set(found.tensors) == {"r1", "x", "f", "y"}
    expected = every_tensor(model, batches)
    for name in ("r1", "x"):
        values = np.concatenate(expected[name]).astype(np.float64)
        channels = found.tensors[name].channels
        assert channels is not None
        np.testing.assert_array_equal(channels.largest, np.abs(values).max(axis=(0, 2, 3)))
        np.testing.assert_allclose(channels.mean, values.mean(axis=(0, 2, 3)))
    assert found.tensors["y"].channels is None


def test_memory_depends_on_the_budget_and_not_on_the_samples(
    model: Path, monkeypatch: pytest.MonkeyPatch
):
    held: list[int] = []
    plain = collecting.see

    def see(*given: Any, **settings: Any) -> Seen:
        found = plain(*given, **settings)
        held.append(found.bytes)
        return found

    monkeypatch.setattr(collecting, "see", see)
    largest, sizes = {}, {}
    for count in (16, 256):
        held.clear()
        found = collect(model, images(count), budget=20_000)
        largest[count] = max(held)
        sizes[count] = sum(tensor.histogram.counts.nbytes for tensor in found.tensors.values())
        assert len(held) > count / 12
    assert largest[16] == largest[256] <= 20_000
    assert sizes[16] == sizes[256]


def as_numbers(found: Statistics) -> dict[str, list[Any]]:
    """Everything that is kept, to be compared bit by bit."""
    numbers: dict[str, list[Any]] = {"samples": [found.samples, found.batches]}
    for name, tensor in found.tensors.items():
        numbers[name] = [tensor.count, tensor.masked, tensor.low, tensor.high, tensor.batches]
        numbers[name] += [tensor.average_low, tensor.average_high, tensor.histogram.limit]
        numbers[name] += tensor.histogram.counts.tolist()
        if tensor.channels is not None:
            assert tensor.channels.largest is not None
            assert tensor.channels.total is not None
            numbers[name] += [*tensor.channels.largest, *tensor.channels.total]
            numbers[name].append(tensor.channels.count)
    return numbers


@pytest.mark.parametrize("budget", [1, 40_000, 2**27])
def test_runs_beside_each_other_give_what_one_after_another_give(
    model: Path, budget: int, monkeypatch: pytest.MonkeyPatch
):
    random = np.random.default_rng(3)
    batches: list[Feeds] = [
        (random.normal(0, 1.3**n, (n % 5 + 1, 2, 8, 8)).astype(np.float32),) for n in range(14)
    ]
    plain, threads, lock = collecting.see, set[int](), Lock()
    held, most, row = 0, 0, 0

    def see(*given: Any, **settings: Any) -> Seen:
        nonlocal held, most, row
        expected = given[2].bytes or 0
        with lock:
            threads.add(get_ident())
            held += expected
            most = max(most, held)
        found = plain(*given, **settings)
        with lock:
            held -= expected
            row = found.bytes // found.rows
        assert expected in (0, found.bytes)
        return found

    monkeypatch.setattr(collecting, "see", see)
    wanted = as_numbers(collect(model, batches, channels={"c2": 1}, budget=budget, threads=1))
    for number in (2, 5):
        found = collect(model, batches, channels={"c2": 1}, budget=budget, threads=number)
        assert as_numbers(found) == wanted
    assert len(threads) > 1
    assert row <= most <= max(budget, row)


def test_cores_that_runs_beside_each_other_cannot_use_are_given_to_each(
    model: Path, monkeypatch: pytest.MonkeyPatch
):
    loaded: list[int] = []
    plain = collecting.observe

    def observe(source: Path, **settings: Any) -> Any:
        loaded.append(settings["threads"])
        return plain(source, **settings)

    monkeypatch.setattr(collecting, "observe", observe)
    for budget, expected in ((2**27, [1]), (1, [1, 4])):
        loaded.clear()
        collect(model, images(3, 3), budget=budget, threads=4)
        assert loaded == expected
    loaded.clear()
    # Whole batches at once: the first one has all cores, those after it run beside each other.
    collect(convolutions(model.with_name("fixed.onnx"), 4), images(4, 4), threads=4)
    assert loaded == [1, 4, 1]


def test_the_first_of_several_bad_batches_is_named(tmp_path: Path):
    nodes = [helper.make_node("Log", ["x"], ["l"], "l")]
    nodes.append(helper.make_node("MatMul", ["l", "w"], ["y"], "m"))
    shapes = [value("x", ["n", 2])], [value("y", ["n", 2])]
    model = save(tmp_path / "m.onnx", nodes, *shapes, {"w": np.eye(2, dtype=np.float32)})
    batches: list[Feeds] = [(np.float32([[1, 2]]),) for _ in range(6)]
    batches += [(np.float32([[1, -1]]),) for _ in range(6)]
    with pytest.raises(InputError, match="tensor 'l' holds NaN or infinity in calibration batch 7"):
        collect(model, batches, threads=4)


def test_shapes_may_differ_between_batches_and_masks_are_no_values(tmp_path: Path):
    model = attention(tmp_path / "model.onnx")
    batches: list[Feeds] = [
        (whole(3, 5, 4), np.array([5, 2, 3])),
        (whole(2, 9, 4, seed=1), np.array([9, 1])),
    ]
    expected = every_tensor(model, batches)
    for budget in (1, 2**26):
        found = collect(model, batches, budget=budget)
        # whole numbers are no activations, and a constant is none, either
        assert set(found.tensors) == {"x", "q", "k", "scores", "masked", "shares", "y"}
        for name, tensor in found.tensors.items():
            values = np.concatenate([part.ravel() for part in expected[name]])
            seen = values[np.isfinite(values)]
            assert (tensor.count, tensor.masked) == (seen.size, values.size - seen.size)
            np.testing.assert_allclose((tensor.low, tensor.high), (seen.min(), seen.max()), 1e-6)
        assert found.tensors["masked"].masked == 5 * 5 + 9 * 8
        assert set(found.ranges()) == {"x", "q", "k", "scores", "shares", "y"}


@pytest.mark.parametrize("count", [1, 3, 4, 6])
def test_a_batch_size_in_the_file_is_filled_and_counted_once(tmp_path: Path, count: int):
    fixed = convolutions(tmp_path / "fixed.onnx", 4)
    found = collect(fixed, images(count))
    wanted = collect(convolutions(tmp_path / "any.onnx"), images(count))
    assert found.samples == count
    for name in ("x", "c1", "p", "s", "y"):
        assert found.tensors[name].count == wanted.tensors[name].count
        np.testing.assert_array_equal(
            found.tensors[name].histogram.counts, wanted.tensors[name].histogram.counts
        )


def test_bounds_are_exact_also_where_the_first_axis_only_looks_like_the_batch(tmp_path: Path):
    nodes = [helper.make_node("Transpose", ["x"], ["t"], "t", perm=[1, 0])]
    nodes.append(helper.make_node("MatMul", ["t", "w"], ["y"], "m"))
    constants = {"w": np.eye(4, dtype=np.float32)}
    model = save(tmp_path / "m.onnx", nodes, [value("x", [4, 4])], [value("y", [4, 4])], constants)
    given = np.float32([[1, 2, 3, 9], [4, 5, 6, -9]])  # the fourth column becomes a row
    found = collect(model, [(given,)])
    assert (found.tensors["y"].low, found.tensors["y"].high) == (-9, 9)


def test_a_batch_size_written_into_the_graph_is_run_whole(tmp_path: Path):
    nodes = [helper.make_node("Reshape", ["x", "shape"], ["r"], "r")]
    nodes.append(helper.make_node("MatMul", ["r", "w"], ["y"], "m"))
    constants = {"shape": np.array([6, 4]), "w": whole(4, 2)}
    model = save(
        tmp_path / "m.onnx", nodes, [value("x", ["n", 2, 4])], [value("y", [6, 2])], constants
    )
    batch = whole(3, 2, 4, seed=1)
    found = collect(model, [(batch,)], budget=1)
    assert found.tensors["y"].count == 12
    assert found.tensors["y"].high == (batch.reshape(6, 4) @ constants["w"]).max()


def test_inputs_that_do_not_share_their_rows_are_run_whole(tmp_path: Path):
    nodes = [helper.make_node("MatMul", ["x", "w"], ["y"], "m")]
    inputs = [value("x", ["n", 3]), value("w", ["k", 2])]
    model = save(tmp_path / "m.onnx", nodes, inputs, [value("y", ["n", 2])])
    x, w = whole(5, 3), whole(3, 2, seed=1)
    found = collect(model, [(x, w)], budget=1)
    assert (found.samples, found.tensors["y"].low) == (5, (x @ w).min())


def test_progress_says_how_far_it_is(model: Path):
    steps: list[tuple[str, int, int]] = []

    def progress(label: str, done: int, total: int) -> None:
        steps.append((label, done, total))

    collect(model, images(1, 2), progress=progress)
    assert steps == [("calibration", 1, 2), ("calibration", 2, 2)]
    steps.clear()
    collect(model, iter(images(1)), progress=progress)
    assert steps == [("calibration", 1, 0)]


@pytest.mark.parametrize("batches", [[], images(0)])
def test_nothing_to_calibrate_with_is_said(model: Path, batches: list[Feeds]):
    with pytest.raises(InputError) as error:
        collect(model, batches)
    assert str(error.value) == (
        f"{model}: nothing to calibrate with: {len(batches)} batches and no sample in them; "
        "expected at least one."
    )


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_data_that_is_no_number_is_named(model: Path, bad: float):
    batches = images(2, 3)
    batches[1][0][1, 0, 2, 2] = bad
    with pytest.raises(InputError) as error:
        collect(model, batches)
    assert str(error.value) == (
        f"{model}: input 'x' holds NaN or infinity in calibration batch 2; "
        "remove such samples from the data."
    )


@pytest.mark.parametrize("kind", ["Log", "Reciprocal"])
def test_a_tensor_that_is_no_number_is_named(tmp_path: Path, kind: str):
    nodes = [helper.make_node(kind, ["x"], ["l"], "l")]
    nodes.append(helper.make_node("MatMul", ["l", "w"], ["y"], "m"))
    shapes = [value("x", ["n", 2])], [value("y", ["n", 2])]
    model = save(tmp_path / "m.onnx", nodes, *shapes, {"w": np.eye(2, dtype=np.float32)})
    good = np.float32([[1, 2]])
    with pytest.raises(InputError) as error:
        collect(model, [(good,), (np.float32([[1, -1 if kind == "Log" else 0]]),)])
    assert str(error.value) == (
        f"{model}: tensor 'l' holds NaN or infinity in calibration batch 2; "
        "check the model on this data in fp32."
    )


@pytest.mark.parametrize(
    ("feeds", "given"),
    [
        ((whole(1, 3, 8, 8),), "float32 [1, 3, 8, 8]"),
        ((whole(1, 2, 8),), "float32 [1, 2, 8]"),
        ((whole(1, 2, 8, 8).astype(np.float64),), "float64 [1, 2, 8, 8]"),
        ((whole(1, 2, 8, 8), whole(1)), "float32 [1, 2, 8, 8], float32 [1]"),
        ((), ""),
    ],
)
def test_data_that_does_not_fit_is_said(model: Path, feeds: Feeds, given: str):
    with pytest.raises(ShapeMismatch) as error:
        collect(model, [feeds])
    expected = f"{model}: takes x tensor(float) ['n', 2, 8, 8], the data is {given}."
    assert str(error.value) == expected


def test_a_failing_run_is_one_line(tmp_path: Path):
    nodes = [helper.make_node("Gather", ["table", "x"], ["g"], "g")]
    nodes.append(helper.make_node("MatMul", ["g", "w"], ["y"], "m"))
    constants = {"table": whole(3, 2), "w": whole(2, 2)}
    shapes = [value("x", ["n"], INT64)], [value("y", ["n", 2])]
    model = save(tmp_path / "m.onnx", nodes, *shapes, constants)
    with pytest.raises(InputError) as error:
        collect(model, [(np.array([0, 99]),)])
    start = f"{model}: onnxruntime fails on calibration batch 1: "
    assert str(error.value).startswith(start)
    assert "\n" not in str(error.value)
    assert "idx=99" in str(error.value)


def test_a_file_that_does_not_load_is_said(tmp_path: Path):
    missing = tmp_path / "missing.onnx"
    with pytest.raises(
        ModelFileError, match=r"missing\.onnx: no such file; expected an ONNX model"
    ):
        collect(missing, images(1))
    missing.write_bytes(b"not a model")
    with pytest.raises(ModelFileError, match=r"missing\.onnx: not a valid ONNX model: "):
        collect(missing, images(1))
    nodes = [helper.make_node("Own", ["x"], ["y"], "own", domain="here")]
    model = save(missing, nodes, [value("x", ["n"])], [value("y", ["n"])])
    with pytest.raises(ModelFileError, match=r"missing\.onnx: onnxruntime cannot load it: "):
        collect(model, [(whole(1),)])


def test_an_unknown_tensor_is_named(model: Path):
    with pytest.raises(UnknownName) as error:
        collect(model, images(1), channels={"c3": 1})
    assert str(error.value) == (
        "No tensor (channels) named 'c3'. Known: c1, c2, f, p, r1, r2, s, x, y."
    )


def test_what_a_mask_fills_in_may_be_no_number(tmp_path: Path):
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["h"], "m"),
        helper.make_node("Log", ["x"], ["l"], "l"),  # NaN where x is negative
        helper.make_node("Less", ["x", "zero"], ["below"], "less"),
        helper.make_node("Where", ["below", "h", "l"], ["y"], "pick"),
        helper.make_node("Mul", ["l", "one"], ["z"], "scaled"),
    ]
    constants = {
        "w": np.eye(2, dtype=np.float32),
        "zero": np.float32([0]),
        "one": np.float32([1]),
    }
    shapes = [value("x", ["n", 2])], [value("y", ["n", 2]), value("z", ["n", 2])]
    model = save(tmp_path / "m.onnx", nodes, *shapes, constants)
    found = collect(model, [(np.float32([[1, 2]]),), (np.float32([[1, -1]]),)])
    assert {"x", "h"} <= found.ranges().keys()
    assert not {"l", "z"} & found.ranges().keys()

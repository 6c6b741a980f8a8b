"""Weight-only int8 against numpy by hand, and what onnxruntime makes of it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from onnx import NodeProto, TensorProto, helper, numpy_helper

from compress.export.graph import operators
from compress.export.torch_to_onnx import export
from compress.models.build import build
from compress.models.references import resolve
from compress.quantization.weight_only import quantize_symmetric, quantize_weights

RANDOM = np.random.default_rng(0)
FLOATS = st.floats(-1e6, 1e6, width=32, allow_subnormal=False).map(
    lambda value: 0.0 if abs(value) < 1e-20 else value
)


@pytest.fixture(autouse=True)
def same_numbers() -> None:
    """Each test draws the same, whichever tests ran before it in its process."""
    RANDOM.bit_generator.state = np.random.default_rng(0).bit_generator.state


def normal(*shape: int) -> np.ndarray:
    return RANDOM.standard_normal(shape).astype(np.float32)


def write(
    path: Path,
    nodes: list[NodeProto],
    constants: dict[str, np.ndarray],
    inputs: list[object],
    kind: int = TensorProto.FLOAT,
) -> Path:
    """A model from `x` of the given shape to `y`."""
    x = helper.make_tensor_value_info("x", kind, inputs)
    unknown = [f"size{number}" for number in range(len(inputs))]
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, unknown)
    tensors = [numpy_helper.from_array(value, name) for name, value in constants.items()]
    graph = helper.make_graph(nodes, "g", [x], [y], tensors)
    opset = [helper.make_opsetid("", 18)]
    model = helper.make_model(graph, opset_imports=opset, ir_version=9)
    onnx.checker.check_model(model)
    onnx.save(model, path)
    return path


def run(path: Path, rows: np.ndarray) -> np.ndarray:
    return np.asarray(onnxruntime.InferenceSession(path).run(None, {"x": rows})[0])


def optimized(path: Path, target: Path) -> list[str]:
    """Operators that are left when onnxruntime has loaded the file."""
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(target)
    options.log_severity_level = 3
    onnxruntime.InferenceSession(path, options)
    return [node.op_type for node in onnx.load(target).graph.node]


def initializers(path: Path) -> dict[str, np.ndarray]:
    tensors = onnx.load(path).graph.initializer
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in tensors}


def test_a_case_worked_by_hand():
    weight = np.array([[127.0, -63.5, 0.4], [0.0, 0.0, 0.0], [-1.0, 0.5, 0.25]], np.float32)
    values, scale = quantize_symmetric(weight, axis=0)
    # 63.5 and 0.5 · 127 lie between two integers and go to the even one.
    assert values.tolist() == [[127, -64, 0], [0, 0, 0], [-127, 64, 32]]
    np.testing.assert_array_equal(scale, np.array([[1], [1], [1 / 127]], np.float32))
    assert (values.dtype, scale.dtype) == (np.int8, np.float32)


def test_the_other_axis():
    values, scale = quantize_symmetric(np.array([[2.0, 0.0], [-1.0, 0.0]], np.float32), axis=1)
    np.testing.assert_array_equal(scale, np.array([[2 / 127, 1]], np.float32))
    assert values.tolist() == [[127, 0], [-64, 0]]


def test_a_scale_for_each_pair_of_channels():
    weight = np.array([[[1.0, -2.0], [0.0, 0.0]], [[127.0, 1.0], [-0.5, 0.25]]], np.float32)
    values, scale = quantize_symmetric(weight, (0, 1))
    np.testing.assert_array_equal(
        scale, np.array([[[2 / 127], [1]], [[1], [0.5 / 127]]], np.float32)
    )
    assert values.tolist() == [[[64, -127], [0, 0]], [[127, 1], [-127, 64]]]


def test_one_scale_for_everything():
    values, scale = quantize_symmetric(np.array([[1.0, -2.0], [0.5, 0.0]], np.float32), ())
    np.testing.assert_array_equal(scale, np.array([[2 / 127]], np.float32))
    assert values.tolist() == [[64, -127], [32, 0]]


@settings(max_examples=100, deadline=None)
@given(
    weight=arrays.arrays(
        np.float32, arrays.array_shapes(min_dims=1, max_dims=4, max_side=5), elements=FLOATS
    ),
    data=st.data(),
)
def test_no_value_is_off_by_more_than_half_a_step(weight: np.ndarray, data: st.DataObject):
    axis = data.draw(st.integers(0, weight.ndim - 1))
    values, scale = quantize_symmetric(weight, axis)
    assert values.shape == weight.shape
    assert scale.shape == tuple(n if i == axis else 1 for i, n in enumerate(weight.shape))
    error = np.abs(values.astype(np.float64) * scale - weight)
    assert (error <= scale.astype(np.float64) * (0.5 + 1e-4)).all()
    assert (np.abs(values.astype(int)) <= 127).all()
    assert (values[weight == 0] == 0).all()
    others = tuple(i for i in range(weight.ndim) if i != axis)
    largest = np.abs(values.astype(int)).max(axis=others)
    assert (largest == np.where(np.abs(weight).max(axis=others) > 0, 127, 0)).all()


CASES = {
    "MatMul": ([helper.make_node("MatMul", ["x", "w"], ["y"])], (64, 32), 1, ["n", 64]),
    "Gemm": ([helper.make_node("Gemm", ["x", "w", "b"], ["y"])], (64, 32), 1, ["n", 64]),
    "Gemm transposed": (
        [helper.make_node("Gemm", ["x", "w", "b"], ["y"], transB=1)],
        (32, 64),
        0,
        ["n", 64],
    ),
    "Conv": ([helper.make_node("Conv", ["x", "w", "b"], ["y"])], (32, 8, 3, 3), 0, ["n", 8, 5, 5]),
    "ConvTranspose": (
        [helper.make_node("ConvTranspose", ["x", "w", "b"], ["y"])],
        (8, 32, 3, 3),
        1,
        ["n", 8, 5, 5],
    ),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_every_operator_gets_a_scale_an_output_channel_and_runs_in_float(
    case: tuple[list[NodeProto], tuple[int, ...], int, list[object]], tmp_path: Path
):
    nodes, shape, axis, inputs = case
    weight = normal(*shape) * np.geomspace(1e-3, 1e3, 32, dtype=np.float32).reshape(
        [32 if i == axis else 1 for i in range(len(shape))]
    )
    constants = {"w": weight} | ({"b": normal(32)} if len(nodes[0].input) == 3 else {})
    source = write(tmp_path / "a.onnx", nodes, constants, inputs)
    assert quantize_weights(source, tmp_path / "b.onnx") == 1
    stored = initializers(tmp_path / "b.onnx")
    values, scale = quantize_symmetric(weight, axis)
    np.testing.assert_array_equal(stored["w_int8"], values)
    np.testing.assert_array_equal(stored["w_scale"], scale)
    assert "w" not in stored
    rows = normal(3, *[size for size in inputs if isinstance(size, int)])
    same = dict(constants, w=(values * scale).astype(np.float32))
    expected = run(write(tmp_path / "c.onnx", nodes, same, inputs), rows)
    found = run(tmp_path / "b.onnx", rows)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5 * np.abs(expected).max())
    channels = (0, *range(2, found.ndim))
    difference = np.abs(found - run(source, rows)).max(axis=channels)
    # No weight is off by more than half a step of its own channel.
    bound = scale.ravel() / 2 * np.abs(rows).reshape(len(rows), -1).sum(axis=1).max()
    assert (difference <= 1.01 * bound).all()
    left = optimized(tmp_path / "b.onnx", tmp_path / "optimized.onnx")
    assert not {"Cast", "Mul", "DequantizeLinear"} & set(left)


STEPS = ["time", "batch", 16]


def recurrent(kind: str, gates: int, directions: int) -> tuple[list[NodeProto], dict]:
    """One layer of 16 units behind 16 features, rows of very different size, summed up to `y`."""
    way = "bidirectional" if directions == 2 else "forward"
    node = helper.make_node(
        kind, ["x", "w", "r", "b"], ["every", "last"], hidden_size=16, direction=way
    )
    rows = np.geomspace(0.01, 1, gates * 16, dtype=np.float32).reshape(1, -1, 1)
    constants = {
        "w": normal(directions, gates * 16, 16) * rows,
        "r": normal(directions, gates * 16, 16) * rows,
        "b": normal(directions, 2 * gates * 16) * 0.1,
        "axes": np.array([0]),
    }
    total = helper.make_node("ReduceSum", ["last", "axes"], ["y"], keepdims=0)
    return [node, total], constants


@pytest.mark.parametrize("directions", [1, 2])
@pytest.mark.parametrize(("kind", "gates"), [("LSTM", 4), ("GRU", 3), ("RNN", 1)])
def test_recurrent_weights_have_a_scale_for_each_direction_and_row(
    kind: str, gates: int, directions: int, tmp_path: Path
):
    nodes, constants = recurrent(kind, gates, directions)
    source = write(tmp_path / "a.onnx", nodes, constants, STEPS)
    assert quantize_weights(source, tmp_path / "b.onnx") == 2
    stored, same = initializers(tmp_path / "b.onnx"), dict(constants)
    for name in "wr":
        values, scale = quantize_symmetric(constants[name], (0, 1))
        assert stored[f"{name}_scale"].shape == (directions, gates * 16, 1)
        np.testing.assert_array_equal(stored[f"{name}_int8"], values)
        np.testing.assert_array_equal(stored[f"{name}_scale"], scale)
        same[name] = (values * scale).astype(np.float32)
    rows = normal(7, 3, 16)
    expected = run(write(tmp_path / "c.onnx", nodes, same, STEPS), rows)
    np.testing.assert_allclose(run(tmp_path / "b.onnx", rows), expected, atol=1e-5)
    assert np.abs(expected - run(source, rows)).max() < 0.1
    left = optimized(tmp_path / "b.onnx", tmp_path / "optimized.onnx")
    assert not {"Cast", "Mul", "DequantizeLinear"} & set(left)
    assert operators(onnx.load(tmp_path / "b.onnx")) == {kind: {"fp32, int8 weights": 1}}


def test_only_the_rows_of_a_table_that_are_read_become_fp32(tmp_path: Path):
    nodes = [helper.make_node("Gather", ["w", "x"], ["y"])]
    table = normal(600, 32) * np.geomspace(1e-3, 1e3, 600, dtype=np.float32).reshape(-1, 1)
    inputs = ["batch", "time"]
    source = write(tmp_path / "a.onnx", nodes, {"w": table}, inputs, TensorProto.INT64)
    assert quantize_weights(source, tmp_path / "b.onnx") == 1
    stored = initializers(tmp_path / "b.onnx")
    values, scale = quantize_symmetric(table, 0)
    np.testing.assert_array_equal(stored["w_int8"], values)
    assert stored["w_scale"].shape == (600, 1)
    tokens = RANDOM.integers(0, 600, (3, 5))
    found = run(tmp_path / "b.onnx", tokens)
    assert found.shape == (3, 5, 32)
    np.testing.assert_array_equal(found, (values * scale)[tokens])
    optimized(tmp_path / "b.onnx", tmp_path / "optimized.onnx")
    kinds = {
        tensor.data_type for tensor in onnx.load(tmp_path / "optimized.onnx").graph.initializer
    }
    assert kinds == {TensorProto.INT8, TensorProto.FLOAT}
    assert (tmp_path / "optimized.onnx").stat().st_size < table.nbytes / 3


def test_a_narrow_table_has_a_scale_for_each_column(tmp_path: Path):
    nodes = [helper.make_node("Gather", ["w", "x"], ["y"])]
    table = normal(4096, 3) * np.array([0.01, 1, 100], np.float32)
    source = write(tmp_path / "a.onnx", nodes, {"w": table}, ["b", "t"], TensorProto.INT64)
    assert quantize_weights(source, tmp_path / "b.onnx") == 1
    assert initializers(tmp_path / "b.onnx")["w_scale"].shape == (1, 3)
    values, scale = quantize_symmetric(table, 1)
    tokens = RANDOM.integers(0, 4096, (3, 5))
    np.testing.assert_array_equal(run(tmp_path / "b.onnx", tokens), (values * scale)[tokens])
    assert (tmp_path / "b.onnx").stat().st_size < table.nbytes / 3.7


def test_a_product_with_a_vector_has_one_scale(tmp_path: Path):
    nodes = [helper.make_node("MatMul", ["x", "w"], ["y"])]
    weight = normal(300)
    source = write(tmp_path / "a.onnx", nodes, {"w": weight}, [1, 300])
    assert quantize_weights(source, tmp_path / "b.onnx") == 1
    assert initializers(tmp_path / "b.onnx")["w_scale"].shape == (1,)


def test_a_table_that_also_makes_the_outputs_is_stored_once(tmp_path: Path):
    nodes = [
        helper.make_node("Gather", ["w", "x"], ["vectors"]),
        helper.make_node("Gemm", ["vectors", "w"], ["y"], transB=1),
    ]
    table = normal(200, 32)
    source = write(tmp_path / "a.onnx", nodes, {"w": table}, ["batch"], TensorProto.INT64)
    assert quantize_weights(source, tmp_path / "b.onnx") == 1
    assert sorted(initializers(tmp_path / "b.onnx")) == ["w_int8", "w_scale"]
    values, scale = quantize_symmetric(table, 0)
    tokens = np.array([3, 199, 0])
    expected = (values * scale)[tokens] @ (values * scale).T
    np.testing.assert_allclose(run(tmp_path / "b.onnx", tokens), expected, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize(
    ("axis", "shape", "tokens"),
    [(1, (64, 200), [[1, 2]]), (1, (40, 8, 32), [1, 2]), (0, (64, 32), [1, 2])],
    ids=["of columns", "within matrices", "small"],
)
def test_other_gathers_are_left_as_they_are(
    axis: int, shape: tuple[int, ...], tokens: list, tmp_path: Path
):
    nodes = [helper.make_node("Gather", ["w", "x"], ["y"], axis=axis)]
    inputs = [f"n{number}" for number in range(np.ndim(tokens))]
    source = write(tmp_path / "a.onnx", nodes, {"w": normal(*shape)}, inputs, TensorProto.INT64)
    assert quantize_weights(source, tmp_path / "b.onnx") == 0
    assert (tmp_path / "b.onnx").read_bytes() == onnx.load(source).SerializeToString()


def test_many_matrices_have_a_scale_for_each_matrix_and_column(tmp_path: Path):
    nodes = [helper.make_node("MatMul", ["x", "w"], ["y"])]
    weight = normal(3, 16, 8)
    source = write(tmp_path / "a.onnx", nodes, {"w": weight}, [3, "n", 16])
    assert quantize_weights(source, tmp_path / "b.onnx") == 1
    assert initializers(tmp_path / "b.onnx")["w_scale"].shape == (3, 1, 8)
    rows = normal(3, 4, 16)
    values, scale = quantize_symmetric(weight, (0, 2))
    np.testing.assert_allclose(run(tmp_path / "b.onnx", rows), rows @ (values * scale), atol=1e-4)


def test_a_large_weight_makes_the_file_four_times_smaller(tmp_path: Path):
    nodes = [helper.make_node("MatMul", ["x", "w"], ["y"])]
    source = write(tmp_path / "a.onnx", nodes, {"w": normal(512, 256)}, ["n", 512])
    quantize_weights(source, tmp_path / "b.onnx")
    ratio = source.stat().st_size / (tmp_path / "b.onnx").stat().st_size
    assert 3.9 < ratio < 4
    onnx.checker.check_model(onnx.load(tmp_path / "b.onnx"))


def test_a_shared_weight_is_stored_once(tmp_path: Path):
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["hidden"]),
        helper.make_node("MatMul", ["hidden", "w"], ["y"]),
    ]
    weight = normal(32, 32)
    source = write(tmp_path / "a.onnx", nodes, {"w": weight}, ["n", 32])
    assert quantize_weights(source, tmp_path / "b.onnx") == 1
    assert sorted(initializers(tmp_path / "b.onnx")) == ["w_int8", "w_scale"]
    values, scale = quantize_symmetric(weight, 1)
    rows = normal(4, 32)
    expected = rows @ (values * scale) @ (values * scale)
    np.testing.assert_allclose(run(tmp_path / "b.onnx", rows), expected, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize(
    ("nodes", "weight"),
    [
        (  # used as a weight and as something else
            [
                helper.make_node("MatMul", ["x", "w"], ["hidden"]),
                helper.make_node("Add", ["hidden", "w"], ["y"]),
            ],
            normal(32, 32),
        ),
        (  # output channels on two different axes
            [
                helper.make_node("MatMul", ["x", "w"], ["hidden"]),
                helper.make_node("Gemm", ["hidden", "w"], ["y"], transB=1),
            ],
            normal(32, 32),
        ),
        ([helper.make_node("Add", ["x", "w"], ["y"])], normal(32, 32)),
        ([helper.make_node("MatMul", ["w", "x"], ["y"])], normal(32, 32)),
        ([helper.make_node("MatMul", ["x", "w"], ["y"])], normal(32, 7)),  # under 256 values
    ],
    ids=["shared with Add", "two axes", "no weight", "on the left", "small"],
)
def test_what_is_left_as_it_is(nodes: list[NodeProto], weight: np.ndarray, tmp_path: Path):
    source = write(tmp_path / "a.onnx", nodes, {"w": weight}, [32, 32])
    assert quantize_weights(source, tmp_path / "b.onnx") == 0
    np.testing.assert_array_equal(initializers(tmp_path / "b.onnx")["w"], weight)
    rows = normal(32, 32)
    np.testing.assert_array_equal(run(tmp_path / "b.onnx", rows), run(source, rows))


def test_a_recurrent_node_whose_input_weights_are_small_counts_as_int8(tmp_path):
    model = build(resolve("gru", {"widths": [32]}, {"in_features": 1, "outputs": 2})).eval()
    source, target = tmp_path / "m.onnx", tmp_path / "q.onnx"
    export(model, torch.randn(3, 5, 1), source, sequences=True)
    assert quantize_weights(source, target) == 1  # 96 values for the input, 3,072 for the state
    assert operators(onnx.load(target))["GRU"] == {"fp32, int8 weights": 1}

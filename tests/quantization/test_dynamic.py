"""Dynamic int8 against the same weights in fp32, and which operators it takes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import NodeProto, TensorProto, helper, numpy_helper

from compress.export.graph import operators, precision
from compress.export.loading import load_onnx
from compress.export.torch_to_onnx import export
from compress.models.rnn import Recurrent
from compress.models.sequence_configs import RecurrentConfig
from compress.quantization.dynamic import quantize_dynamic_int8
from compress.quantization.rewriting.simplify import simplify
from compress.quantization.weight_only import quantize_symmetric

RANDOM = np.random.default_rng(0)


@pytest.fixture(autouse=True)
def same_numbers() -> None:
    """Each test draws the same, whichever tests ran before it in its process."""
    RANDOM.bit_generator.state = np.random.default_rng(0).bit_generator.state


def normal(*shape: int) -> np.ndarray:
    return RANDOM.standard_normal(shape).astype(np.float32)


def write(path: Path, nodes: list[NodeProto], constants: dict[str, np.ndarray], width: int) -> Path:
    """A model from `x` (n, width) to `y`."""
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", width])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", "m"])
    tensors = [numpy_helper.from_array(value, name) for name, value in constants.items()]
    graph = helper.make_graph(nodes, "g", [x], [y], tensors)
    opset = [helper.make_opsetid("", 18)]
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=9), path)
    return path


def run(path: Path, **feeds: np.ndarray) -> np.ndarray:
    onnx.checker.check_model(onnx.load(path))
    return np.asarray(onnxruntime.InferenceSession(path).run(None, feeds)[0])


def kinds(path: Path) -> list[str]:
    return [node.op_type for node in onnx.load(path).graph.node]


PRODUCTS = {
    "MatMul": ([helper.make_node("MatMul", ["x", "w"], ["y"])], False),
    "MatMul and a bias": (
        [
            helper.make_node("MatMul", ["x", "w"], ["product"]),
            helper.make_node("Add", ["b", "product"], ["y"]),
        ],
        False,
    ),
    "Gemm": ([helper.make_node("Gemm", ["x", "w", "b"], ["y"])], False),
    "Gemm transposed": ([helper.make_node("Gemm", ["x", "w", "b"], ["y"], transB=1)], True),
    "Gemm without bias": ([helper.make_node("Gemm", ["x", "w"], ["y"], transB=1)], True),
}


@pytest.mark.parametrize("per_channel", [True, False])
@pytest.mark.parametrize(("nodes", "transposed"), PRODUCTS.values(), ids=PRODUCTS)
def test_a_product_is_one_integer_operator(
    nodes: list[NodeProto], transposed: bool, per_channel: bool, tmp_path: Path
):
    weight, bias = normal(128, 96) * np.geomspace(0.1, 1, 96, dtype=np.float32), normal(96)
    biased = any("b" in node.input for node in nodes)
    constants = {"w": weight.T.copy() if transposed else weight} | ({"b": bias} if biased else {})
    source = write(tmp_path / "a.onnx", nodes, constants, 128)
    quantize_dynamic_int8(source, tmp_path / "b.onnx", per_channel=per_channel)
    assert kinds(tmp_path / "b.onnx") == ["DynamicQuantizeMatMul"]
    rows = np.rint(RANDOM.uniform(-0.5, 254.5, (5, 128))).astype(np.float32)
    rows[0, :2] = (0, 255)  # exact as uint8: all that is lost is in the weight
    values, scale = quantize_symmetric(weight, 1 if per_channel else ())
    expected = rows @ (values * scale) + biased * bias
    found = run(tmp_path / "b.onnx", x=rows)
    np.testing.assert_allclose(found, expected, atol=1e-4 * np.abs(expected).max())


@pytest.mark.parametrize("per_channel", [True, False])
def test_weights_of_several_matrices_have_scales_of_their_own(per_channel: bool, tmp_path: Path):
    """One matrix is ten times as large as the next; each is multiplied with its own rows."""
    weight = normal(3, 128, 96) * np.float32([[[1]], [[10]], [[100]]])
    constants = {"w": weight, "b": normal(96)}
    nodes = [
        helper.make_node("Unsqueeze", ["x", "front"], ["rows"]),
        helper.make_node("MatMul", ["rows", "w"], ["product"], "product"),
        helper.make_node("Add", ["product", "b"], ["each"]),
        helper.make_node("ReduceSum", ["each", "front"], ["y"], keepdims=0),
    ]
    source = write(tmp_path / "a.onnx", nodes, constants | {"front": np.array([0])}, 128)
    quantize_dynamic_int8(source, tmp_path / "b.onnx", per_channel=per_channel)
    assert kinds(tmp_path / "b.onnx") == ["Unsqueeze", "DynamicQuantizeMatMul", "ReduceSum"]
    rows = np.rint(RANDOM.uniform(-0.5, 254.5, (5, 128))).astype(np.float32)
    rows[0, :2] = (0, 255)
    values, scale = quantize_symmetric(weight, (0, 2) if per_channel else ())
    expected = (rows @ (values * scale) + constants["b"]).sum(axis=0)
    found = run(tmp_path / "b.onnx", x=rows)
    np.testing.assert_allclose(found, expected, atol=1e-4 * np.abs(expected).max())


def test_what_is_no_plain_product_stays_as_it_is(tmp_path: Path):
    weight = normal(128, 128)
    nodes = [
        helper.make_node("MatMul", ["w", "x"], ["a"]),
        helper.make_node("Gemm", ["x", "w"], ["b"], alpha=0.5),
        helper.make_node("Gemm", ["w", "x"], ["c"], transA=1),
        helper.make_node("MatMul", ["a", "b"], ["d"]),
        helper.make_node("Add", ["c", "d"], ["y"]),
    ]
    source = write(tmp_path / "a.onnx", nodes, {"w": weight}, 128)
    quantize_dynamic_int8(source, tmp_path / "b.onnx")
    assert kinds(tmp_path / "b.onnx") == [node.op_type for node in nodes]


def test_a_sum_that_is_used_twice_keeps_its_product(tmp_path: Path):
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["a"]),
        helper.make_node("Add", ["a", "b"], ["c"]),
        helper.make_node("Mul", ["a", "c"], ["y"]),
    ]
    constants = {"w": normal(128, 128), "b": normal(128)}
    source = write(tmp_path / "a.onnx", nodes, constants, 128)
    quantize_dynamic_int8(source, tmp_path / "b.onnx")
    assert kinds(tmp_path / "b.onnx") == ["DynamicQuantizeMatMul", "Add", "Mul"]
    rows = normal(5, 128)
    expected = run(source, x=rows)
    assert np.abs(run(tmp_path / "b.onnx", x=rows) - expected).max() < 0.1 * np.abs(expected).max()


def test_a_weight_that_is_used_both_ways_round_is_stored_both_ways(tmp_path: Path):
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["a"]),
        helper.make_node("Gemm", ["a", "w"], ["y"], transB=1),
    ]
    source = write(tmp_path / "a.onnx", nodes, {"w": normal(128, 96)}, 128)
    quantize_dynamic_int8(source, tmp_path / "b.onnx")
    rows = normal(5, 128)
    expected = run(source, x=rows)
    assert np.abs(run(tmp_path / "b.onnx", x=rows) - expected).max() < 0.05 * np.abs(expected).max()


def test_small_products_stay_fp32_beside_large_ones_only(tmp_path: Path):
    nodes = [
        helper.make_node("MatMul", ["x", "large"], ["a"]),
        helper.make_node("MatMul", ["a", "small"], ["y"]),
    ]
    source = write(
        tmp_path / "a.onnx", nodes, {"large": normal(64, 128), "small": normal(128, 10)}, 64
    )
    quantize_dynamic_int8(source, tmp_path / "b.onnx")
    assert kinds(tmp_path / "b.onnx") == ["DynamicQuantizeMatMul", "MatMul"]
    source = write(tmp_path / "a.onnx", nodes[1:], {"small": normal(128, 10)}, 64)
    alone = onnx.load(source)
    alone.graph.node[0].input[0] = "x"
    onnx.save(alone, source)
    quantize_dynamic_int8(source, tmp_path / "b.onnx")
    assert kinds(tmp_path / "b.onnx") == ["DynamicQuantizeMatMul"]


@pytest.fixture(scope="module")
def sequence_models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Exported and preprocessed models of tokens, by their cell; rows of weights differ in size."""
    folder, found = tmp_path_factory.mktemp("sequences"), {}
    tokens, lengths = torch.randint(0, 400, (3, 9)), torch.tensor([9, 1, 4])
    for cell in ("lstm", "gru"):
        torch.manual_seed(0)
        model = Recurrent(
            RecurrentConfig(cell=cell, widths=(32, 24), bidirectional=True, vocabulary=400)
        )
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.detach().mul_(torch.rand(len(parameter), 1) + 0.1)
        export(model, (tokens, lengths), folder / "m.onnx", sequences=True)
        found[cell] = folder / f"{cell}.onnx"
        simplify(folder / "m.onnx", found[cell])
    return found


def test_an_lstm_with_lengths_and_its_embedding_become_int8(
    sequence_models: dict[str, Path], tmp_path: Path
):
    source = sequence_models["lstm"]
    errors = {}
    for per_channel in (True, False):
        path = tmp_path / "b.onnx"
        quantize_dynamic_int8(source, path, per_channel=per_channel)
        counts = operators(load_onnx(path))
        assert counts == {
            "Gather": {"fp32, int8 weights": 1},
            "Gemm": {"fp32": 1},
            "LSTM": {"int8 (dynamic)": 2},
        }
        assert precision(counts) == "int8 (dynamic)"
        differences, largest = [], 0.0
        random = np.random.default_rng(1)
        for batch, time in ((1, 1), (1, 17), (8, 12)):
            given = {
                "input": random.integers(0, 400, (batch, time)),
                "lengths": random.integers(1, time + 1, batch),
            }
            expected = run(source, **given)
            differences.append(np.abs(run(path, **given) - expected).max())
            largest = max(largest, float(np.abs(expected).max()))
        errors[per_channel] = max(differences) / largest
    assert errors[True] < 0.02
    assert errors[True] < errors[False] < 0.2


def test_a_gru_is_left_alone_unless_it_is_asked_for(
    sequence_models: dict[str, Path], tmp_path: Path
):
    quantize_dynamic_int8(sequence_models["gru"], tmp_path / "b.onnx")
    counts = operators(load_onnx(tmp_path / "b.onnx"))
    assert counts["GRU"] == {"fp32": 2}
    assert counts["Gather"] == {"fp32, int8 weights": 1}


def test_a_file_without_anything_to_quantize_is_copied(tmp_path: Path):
    nodes = [helper.make_node("Relu", ["x"], ["y"])]
    source = write(tmp_path / "a.onnx", nodes, {}, 4)
    quantize_dynamic_int8(source, tmp_path / "b.onnx")
    assert (tmp_path / "b.onnx").read_bytes() == source.read_bytes()


def test_what_is_copied_has_its_weights_with_it(tmp_path: Path):
    nodes = [helper.make_node("MatMul", ["x", "w"], ["m"]), helper.make_node("Neg", ["m"], ["y"])]
    (tmp_path / "in").mkdir()
    source = write(tmp_path / "in/a.onnx", nodes, {"w": normal(4, 4)}, 4)
    beside = {"save_as_external_data": True, "location": "w.bin", "size_threshold": 0}
    onnx.save(onnx.load(source), source, **beside)
    quantize_dynamic_int8(source, tmp_path / "b.onnx")
    x = normal(2, 4)
    np.testing.assert_array_equal(run(tmp_path / "b.onnx", x=x), run(source, x=x))

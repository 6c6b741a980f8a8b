"""A range for each row of a product: the same in fp32, and every row as exact as the largest."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from compress.data.samples import from_calls
from compress.measure.agreement import Agreement
from compress.progress import quiet
from compress.quantization.building import build
from compress.quantization.calibration import collect
from compress.quantization.config import QuantizeConfig
from compress.quantization.rescue import rescue
from compress.quantization.row_ranges import normalize_rows
from compress.quantization.static import quantize_static_int8
from compress.runtime.onnxruntime import Session

WIDTH = 96


def rows(seed: int, count: int = 64) -> np.ndarray:
    """Rows of magnitudes from a thousandth to a thousand, one of them zeros."""
    random = np.random.default_rng(seed)
    found = random.normal(size=(count, WIDTH)) * 10.0 ** random.uniform(-3, 3, size=(count, 1))
    found[0] = 0
    return found.astype(np.float32)


def model(path: Path, opset: int, weight: np.ndarray | None = None) -> Path:
    """Three products of one input: plain, with a bias, and too small for int8."""
    random = np.random.default_rng(0)
    tensors = {
        "w1": random.normal(size=(WIDTH, WIDTH)) if weight is None else weight,
        "w2": random.normal(size=(WIDTH, WIDTH)),
        "b2": random.normal(size=WIDTH),
        "w3": random.normal(size=(WIDTH, 8)),
    }
    nodes = [
        helper.make_node("MatMul", ["x", "w1"], ["a"], "plain"),
        helper.make_node("Gemm", ["x", "w2", "b2"], ["b"], "biased", transB=1, alpha=0.5),
        helper.make_node("MatMul", ["x", "w3"], ["c"], "small"),
    ]
    kind = TensorProto.FLOAT
    given = helper.make_tensor_value_info("x", kind, ["n", WIDTH])
    made = [helper.make_tensor_value_info(name, kind, ["n", None]) for name in "abc"]
    constants = [numpy_helper.from_array(v.astype(np.float32), name) for name, v in tensors.items()]
    graph = helper.make_graph(nodes, "g", [given], made, constants)
    found = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    onnx.save(found, path)
    return path


def by_row(found: np.ndarray, expected: np.ndarray) -> np.ndarray:
    """The error of each row as a share of the row."""
    sizes = np.linalg.norm(expected, axis=1)
    return np.linalg.norm(found - expected, axis=1)[sizes > 0] / sizes[sizes > 0]


@pytest.mark.parametrize("opset", [13, 18])
def test_every_row_is_as_exact_in_int8(tmp_path: Path, opset: int):
    source, target = model(tmp_path / "model.onnx", opset), tmp_path / "rows.onnx"
    assert normalize_rows(source, target) == {"plain", "biased"}
    kinds = [node.op_type for node in onnx.load(target).graph.node]
    assert kinds.count("ReduceMax") == 1, "what both products read is divided once"
    feed = rows(1)
    expected = Session(source).outputs_of((feed,))
    for before, after in zip(expected, Session(target).outputs_of((feed,)), strict=True):
        np.testing.assert_allclose(after, before, rtol=1e-3, atol=1e-4)
    worst = {}
    for path in (source, target):
        ranges = collect(path, [(rows(0),)]).ranges()
        int8 = path.with_stem(f"{path.stem}-int8")
        quantize_static_int8(path, int8, ranges, QuantizeConfig(), kinds=("Gemm", "MatMul"))
        worst[path.stem] = by_row(Session(int8).outputs_of((feed,))[0], expected[0]).max()
    assert worst["rows"] < 0.03
    assert worst["model"] > 0.5, "one range for all leaves nothing of a small row"


def test_what_is_no_product_by_a_constant_stays(tmp_path: Path):
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [WIDTH, WIDTH])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, [WIDTH, WIDTH])
    z = helper.make_tensor_value_info("z", TensorProto.FLOAT, [WIDTH, WIDTH])
    w = numpy_helper.from_array(np.ones((WIDTH, WIDTH), np.float32), "w")
    nodes = [
        helper.make_node("MatMul", ["x", "x"], ["y"]),
        helper.make_node("Gemm", ["x", "w"], ["z"], transA=1),
    ]
    graph = helper.make_graph(nodes, "g", [x], [y, z], [w])
    found = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    onnx.save(found, tmp_path / "model.onnx")
    assert normalize_rows(tmp_path / "model.onnx", tmp_path / "rows.onnx") == frozenset()
    assert not (tmp_path / "rows.onnx").exists()


def convolution(path: Path) -> Path:
    """A convolution along one axis, (n, 64, steps) to (n, 64, steps - 2), and its activation."""
    weight = np.random.default_rng(0).normal(size=(64, 64, 3)).astype(np.float32)
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 64, "steps"])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 64, None])
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"], "conv", kernel_shape=[3]),
        helper.make_node("Tanh", ["c"], ["y"], "tanh"),
    ]
    graph = helper.make_graph(nodes, "g", [x], [y], [numpy_helper.from_array(weight, "w")])
    found = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    onnx.save(found, path)
    return path


def test_a_choice_makes_products_of_convolutions_where_static_int8_loses_too_much(tmp_path: Path):
    source = convolution(tmp_path / "conv.onnx")
    random = np.random.default_rng(0)
    scales = 10.0 ** random.uniform(-2, 1, size=(200, 1, 1))
    samples = (random.normal(size=(200, 64, 20)) * scales).astype(np.float32)
    declared = Session(source).declared()
    judge = Agreement(from_calls("mine", [(samples,)], declared), source, "error")
    folder = tmp_path / "made"
    folder.mkdir()
    built = build(source, folder, judge, QuantizeConfig(), 0)
    drops = dict.fromkeys(built.files, 1.0)
    name = "static, a range for each row"

    def drop(path: Path) -> float:
        return float(judge.scores(Session(path), "validation").mean())

    found = rescue(built, drops, drop, 0.05, scores=False, progress=quiet)
    assert found.drops[name] < 0.05
    assert found.drops["static, ranges of least error"] > 0.1
    kinds = {node.op_type for node in onnx.load(found.files[name]).graph.node}
    assert "Conv" not in kinds

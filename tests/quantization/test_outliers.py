"""Products whose inputs have a few very large values, at no fixed place."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from compress.data.samples import from_calls
from compress.measure.agreement import Agreement
from compress.progress import quiet
from compress.quantization import candidates
from compress.quantization.building import build
from compress.quantization.calibration import collect
from compress.quantization.calibration.histogram import Histogram
from compress.quantization.config import QuantizeConfig
from compress.quantization.outliers import bound, split_outliers
from compress.quantization.rescue import rescue
from compress.quantization.static import quantize_static_int8
from compress.runtime.onnxruntime import Session

CONFIG = QuantizeConfig()


def rows(seed: int, count: int = 256) -> np.ndarray:
    """Normal values, one in 500 of them 80 times as large."""
    random = np.random.default_rng(seed)
    found = random.normal(size=(count, 32))
    found[random.random(found.shape) < 0.002] *= 80
    return found.astype(np.float32)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Two products of one input, one of them with a bias, and a convolution of it."""
    random = np.random.default_rng(0)
    tensors = {
        "w1": random.normal(size=(32, 16)),
        "w2": random.normal(size=(16, 32)),
        "b2": random.normal(size=16),
        "w3": random.normal(size=(16, 1, 3)),
    }
    nodes = [
        helper.make_node("MatMul", ["x", "w1"], ["a"], "first"),
        helper.make_node("Gemm", ["x", "w2", "b2"], ["b"], "second", transB=1),
        helper.make_node("Unsqueeze", ["x", "one"], ["wide"]),
        helper.make_node("Conv", ["wide", "w3"], ["c"], "third"),
    ]
    kind = onnx.TensorProto.FLOAT
    given = helper.make_tensor_value_info("x", kind, ["n", 32])
    made = [helper.make_tensor_value_info(name, kind, ["n", 16]) for name in "ab"]
    made.append(helper.make_tensor_value_info("c", kind, ["n", 16, 30]))
    constants = [numpy_helper.from_array(v.astype(np.float32), name) for name, v in tensors.items()]
    constants.append(numpy_helper.from_array(np.array([1]), "one"))
    graph = helper.make_graph(nodes, "g", [given], made, constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    onnx.save(model, tmp_path / "model.onnx")
    return tmp_path / "model.onnx"


def kinds(path: Path) -> list[str]:
    return sorted(node.op_type for node in onnx.load(path).graph.node)


def test_what_is_asked_for_is_taken_apart_and_computes_the_same(source: Path, tmp_path: Path):
    statistics, target = collect(source, [(rows(1),)]), tmp_path / "apart.onnx"
    done = split_outliers(source, target, statistics, ["first", "second", "third"])
    assert done == {"first", "second"}
    # One cut for both products; the bias is added once.
    expected = ["Add", "Add", "Clip", "Conv", "Gemm", "Gemm", "MatMul", "MatMul", "Sub"]
    assert kinds(target) == [*expected, "Unsqueeze"]
    for wanted, found in zip(
        Session(source).outputs_of((rows(2),)), Session(target).outputs_of((rows(2),)), strict=True
    ):
        np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-3)
    assert split_outliers(source, target, statistics, ["first"]) == {"first"}
    assert kinds(target).count("Gemm") == 1


def test_int8_then_loses_a_fraction(source: Path, tmp_path: Path):
    apart = tmp_path / "apart.onnx"
    statistics = collect(source, [(rows(1),)])
    split_outliers(source, apart, statistics, ["first"])
    wanted, errors = Session(source).outputs_of((rows(2),))[0], []
    for path in (source, apart):
        int8 = path.with_stem(f"{path.stem}-int8")
        ranges = collect(path, [(rows(1),)]).ranges()
        quantize_static_int8(path, int8, ranges, CONFIG, kinds=("MatMul",))
        errors.append(float(np.square(Session(int8).outputs_of((rows(2),))[0] - wanted).mean()))
    assert errors[1] < errors[0] / 10


def test_nothing_is_written_where_no_input_has_outliers(source: Path, tmp_path: Path):
    even = np.random.default_rng(3).uniform(-1, 1, (256, 32)).astype(np.float32)
    statistics = collect(source, [(even,)])
    assert not split_outliers(source, tmp_path / "apart.onnx", statistics, ["first", "second"])
    assert not (tmp_path / "apart.onnx").exists()


def test_the_bound_has_the_least_error_of_all():
    values = rows(4, 4096).ravel()
    histogram = Histogram()
    histogram.add(values)
    found = bound(histogram)
    assert found is not None

    def error(limit: float) -> float:
        """Rounded to 255 levels within the bound, and as many beyond it."""
        within = values.clip(-limit, limit)
        parts = (within, limit), (values - within, np.abs(values).max() - limit)
        whole = sum(np.rint(part / (2 * most / 255)) * (2 * most / 255) for part, most in parts)
        return float(np.square(whole - values).mean())

    others = [error(limit) for limit in np.geomspace(0.5, 200, 40)]
    assert error(found) <= 1.1 * min(others)
    zeros = Histogram()
    assert bound(zeros) is None
    zeros.add(np.zeros(9, np.float32))
    assert bound(zeros) is None


def test_a_choice_takes_outliers_apart_where_a_layer_would_stay_fp32(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(candidates, "slower_layers", lambda *_, **__: frozenset())
    random, width, tensors, nodes, name = np.random.default_rng(0), 32, [], [], "x"
    for at in range(4):
        weight = random.normal(0, width**-0.5, (width, width)).astype(np.float32)
        tensors.append(numpy_helper.from_array(weight, f"w{at}"))
        nodes.append(helper.make_node("MatMul", [name, f"w{at}"], [f"m{at}"], f"layer{at}"))
        nodes.append(helper.make_node("Tanh", [f"m{at}"], [f"t{at}"]))
        name = f"t{at}"
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes,
        "g",
        [value("x", onnx.TensorProto.FLOAT, ["n", width])],
        [value(name, onnx.TensorProto.FLOAT, ["n", width])],
        tensors,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    source = tmp_path / "model.onnx"
    onnx.save(model, source)
    calls = from_calls("mine", [(rows(5, 512),)], Session(source).declared())
    judge = Agreement(calls, source, "error")
    built = build(source, tmp_path, judge, CONFIG)

    def drop(path: Path) -> float:
        return float(judge.scores(Session(path), "validation").mean())

    drops = {name: drop(path) for name, path in built.files.items()}
    found = rescue(built, drops, drop, 0.02, scores=False, progress=quiet)
    for way, kind in (("static", "MatMul"), ("dynamic", "DynamicQuantizeMatMul")):
        name = f"{way}, outliers of 1 of 4 layers apart"
        assert found.drops[name] <= 0.02 < drops[way]
        assert kinds(found.files[name]).count(kind) == 5

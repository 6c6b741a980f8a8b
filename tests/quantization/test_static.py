"""QDQ from given ranges: against onnxruntime's own file, in every scheme, and what stays fp32."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import (
    CalibrationDataReader,
    CalibrationMethod,
    QuantFormat,
    QuantType,
    quantize_static,
)
from pydantic import ValidationError
from small_graphs import attention, save, value, whole

from compress.data.task import Task
from compress.errors import UnknownName
from compress.export.graph import operators
from compress.quantization.calibration import Ranges, collect
from compress.quantization.calibration.shared import Calibration
from compress.quantization.config import QuantizeConfig
from compress.quantization.rewriting import files
from compress.quantization.rewriting.simplify import simplify
from compress.quantization.scratch import inside_scratch_folder
from compress.quantization.static import quantize_static_int8
from compress.runtime.interface import Feeds
from compress.runtime.onnxruntime import Session

STATIC = "int8 (static)"
TYPES = {"int8": QuantType.QInt8, "uint8": QuantType.QUInt8}
SCHEMES = [("uint8", "int8"), ("uint8", "uint8"), ("int8", "int8")]


@pytest.fixture(scope="module")
def prepared(trained_onnx: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("prepared") / "prepared.onnx"
    simplify(trained_onnx, path)
    return path


@pytest.fixture(scope="module")
def batches(tiny_task: Task) -> list[Feeds]:
    rows = tiny_task.train.inputs.numpy()
    return [(rows[:32],), (rows[32:64],)]


@pytest.fixture(scope="module")
def ranges(prepared: Path, batches: list[Feeds]) -> Ranges:
    return collect(prepared, batches).ranges()


class Reader(CalibrationDataReader):
    def __init__(self, path: Path, batches: list[Feeds]) -> None:
        names = [entry.name for entry in onnx.load(path).graph.input]
        self.feeds = iter([dict(zip(names, feeds, strict=True)) for feeds in batches])

    def get_next(self) -> dict[str, np.ndarray] | None:
        return next(self.feeds, None)


@pytest.mark.parametrize("kinds", [(), ("Conv",)])
def test_the_file_is_that_of_onnxruntimes_own_calibration(
    prepared: Path, batches: list[Feeds], ranges: Ranges, tmp_path: Path, kinds: tuple[str, ...]
):
    own, theirs = tmp_path / "own.onnx", tmp_path / "theirs.onnx"
    quantize_static_int8(prepared, own, ranges, QuantizeConfig(), kinds=kinds)
    with inside_scratch_folder():
        quantize_static(
            str(prepared),
            str(theirs),
            Reader(prepared, batches),
            quant_format=QuantFormat.QDQ,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            per_channel=True,
            calibrate_method=CalibrationMethod.MinMax,
            op_types_to_quantize=list(kinds) or None,
            extra_options={"OpTypesToExcludeOutputQuantization": ["Gemm", "MatMul"]},
        )
    graphs = [onnx.load(path).graph for path in (own, theirs)]
    nodes = [sorted((n.op_type, *n.input, *n.output) for n in graph.node) for graph in graphs]
    assert nodes[0] == nodes[1]
    found, wanted = ({t.name: numpy_helper.to_array(t) for t in g.initializer} for g in graphs)
    assert found.keys() == wanted.keys()
    for name, values in wanted.items():
        assert found[name].dtype == values.dtype
        if values.dtype == np.float32:  # scales; optimizations round differently
            np.testing.assert_allclose(found[name], values, rtol=1e-5)
        else:
            assert np.abs(found[name].astype(int) - values).max() <= 1


@pytest.mark.parametrize(("activations", "weights"), SCHEMES)
@pytest.mark.parametrize("per_channel", [True, False])
@pytest.mark.parametrize("reduce_range", [True, False])
def test_every_scheme_loads_runs_and_agrees(
    prepared: Path,
    ranges: Ranges,
    tiny_task: Task,
    tmp_path: Path,
    activations: str,
    weights: str,
    per_channel: bool,
    reduce_range: bool,
):
    config = QuantizeConfig(
        activations=activations, weights=weights, per_channel=per_channel, reduce_range=reduce_range
    )
    path = tmp_path / "int8.onnx"
    quantize_static_int8(prepared, path, ranges, config)
    model = onnx.load(path)
    assert operators(model) == {"Conv": {STATIC: 6}, "Gemm": {STATIC: 1}}
    tensors = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    stored = {n: v for n, v in tensors.items() if v.ndim > 1 and n.endswith("_quantized")}
    assert len(stored) == 7
    for name, values in stored.items():
        assert values.dtype == weights
        # Rounding may take one step more than the range has.
        assert int(values.max()) - int(values.min()) <= (128 if reduce_range else 255)
        scale = tensors[name.replace("_quantized", "_scale")]
        assert scale.ndim == int(per_channel)
    zeros = [v for n, v in tensors.items() if n.endswith("_zero_point") and v.ndim == 0]
    assert {str(v.dtype) for v in zeros} - {"int32"} <= {activations, weights}
    rows = tiny_task.validation.inputs.numpy()
    found, expected = Session(path).run(rows), Session(prepared).run(rows)
    assert (found.argmax(axis=1) == expected.argmax(axis=1)).mean() >= 0.9
    assert not np.array_equal(found, expected)


def test_int8_activations_with_uint8_weights_are_refused():
    with pytest.raises(
        ValidationError, match="onnxruntime has no such operators; expected weights"
    ):
        QuantizeConfig(activations="int8", weights="uint8")


@pytest.mark.parametrize("method", ["minmax", "moving-average", "percentile", "entropy", "mse"])
def test_every_calibration_gives_a_model_that_agrees(
    prepared: Path, batches: list[Feeds], tiny_task: Task, tmp_path: Path, method: str
):
    config = QuantizeConfig(calibration=method)
    found = Calibration(batches, config).ranges(prepared)
    quantize_static_int8(prepared, tmp_path / "int8.onnx", found, config)
    rows = tiny_task.validation.inputs.numpy()
    own, expected = Session(tmp_path / "int8.onnx").run(rows), Session(prepared).run(rows)
    assert (own.argmax(axis=1) == expected.argmax(axis=1)).mean() >= 0.9


def test_what_has_no_range_stays_as_it_is(tmp_path: Path):
    source, target = attention(tmp_path / "fp32.onnx"), tmp_path / "int8.onnx"
    prepared = tmp_path / "prepared.onnx"
    simplify(source, prepared)
    feeds = whole(3, 5, 4), np.array([5, 2, 3])
    found = collect(prepared, [feeds]).ranges()
    quantize_static_int8(prepared, target, found, QuantizeConfig())
    model = onnx.load(target)
    # The mask holds minus infinity: what writes it and what reads it are left alone.
    masks = [node for node in model.graph.node if node.op_type == "Where"]
    assert len(masks) == 1
    read = [node for node in model.graph.node if masks[0].output[0] in node.input]
    assert [node.op_type for node in read] == ["Softmax"]
    assert operators(model)["MatMul"][STATIC] >= 2
    expected = Session(prepared).run(feeds)
    np.testing.assert_allclose(Session(target).run(feeds), expected, atol=0.3)


def test_nodes_without_a_name_are_left_alone_one_by_one(prepared: Path, tmp_path: Path):
    model = onnx.load(prepared)
    for node in model.graph.node:
        node.name = ""
    onnx.save(model, tmp_path / "nameless.onnx")
    ranges = collect(tmp_path / "nameless.onnx", [(whole(2, 1, 12, 12),)]).ranges()
    gemm = next(node for node in model.graph.node if node.op_type == "Gemm")
    ranges.pop(gemm.output[0])
    quantize_static_int8(tmp_path / "nameless.onnx", tmp_path / "8.onnx", ranges, QuantizeConfig())
    assert operators(onnx.load(tmp_path / "8.onnx")) == {"Conv": {STATIC: 6}, "Gemm": {"fp32": 1}}


def test_a_node_to_keep_that_is_not_there_is_named(prepared: Path, ranges: Ranges, tmp_path: Path):
    config = QuantizeConfig(keep_fp32=("nowhere",))
    with pytest.raises(UnknownName, match=r"^No node \(keep_fp32\) named 'nowhere'\. Known: "):
        quantize_static_int8(prepared, tmp_path / "int8.onnx", ranges, config)
    assert not (tmp_path / "int8.onnx").exists()


def test_a_model_of_half_precision_keeps_its_type(tmp_path: Path):
    nodes = [onnx.helper.make_node("MatMul", ["x", "w"], ["y"], "m")]
    half = onnx.TensorProto.FLOAT16
    shapes = [value("x", ["n", 4], half)], [value("y", ["n", 3], half)]
    weights = {"w": whole(4, 3).astype(np.float16)}
    path = save(tmp_path / "fp16.onnx", nodes, *shapes, weights, opset=19)
    rows = whole(6, 4, seed=1).astype(np.float16)
    ranges = collect(path, [(rows,)]).ranges()
    quantize_static_int8(path, tmp_path / "int8.onnx", ranges, QuantizeConfig())
    assert operators(onnx.load(tmp_path / "int8.onnx")) == {"MatMul": {STATIC: 1}}
    found = Session(tmp_path / "int8.onnx").run(rows)
    assert found.dtype == np.float16
    np.testing.assert_allclose(found, rows @ weights["w"], atol=0.3)


def test_a_large_model_is_written_beside_its_weights(
    prepared: Path, batches: list[Feeds], ranges: Ranges, tmp_path: Path, monkeypatch
):
    small, large = tmp_path / "small.onnx", tmp_path / "large.onnx"
    quantize_static_int8(prepared, small, ranges, QuantizeConfig())
    monkeypatch.setattr(files, "_LARGEST", 1000)
    assert collect(prepared, batches).ranges() == ranges
    quantize_static_int8(prepared, large, ranges, QuantizeConfig())
    assert large.stat().st_size < small.stat().st_size
    np.testing.assert_array_equal(Session(large).run(batches[0]), Session(small).run(batches[0]))


def test_symmetric_activations_have_no_zero_point(
    prepared: Path, batches: list[Feeds], ranges: Ranges, tmp_path: Path
):
    config = QuantizeConfig(symmetric=True)
    quantize_static_int8(prepared, tmp_path / "int8.onnx", ranges, config)
    graph = onnx.load(tmp_path / "int8.onnx").graph
    tensors = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    found = {
        node.input[0]: tensors[node.input[2]]
        for node in graph.node
        if node.op_type == "QuantizeLinear"
    }
    assert found
    assert not any(zero.any() for zero in found.values())
    signs = {name: low < 0 for name, (low, _) in ranges.items() if name in found}
    assert {name: zero.dtype == np.int8 for name, zero in found.items()} == signs
    assert set(signs.values()) == {True, False}
    wanted, made = (Session(path).run(batches[0]) for path in (prepared, tmp_path / "int8.onnx"))
    assert np.abs(made - wanted).max() < 0.1 * np.abs(wanted).max()


def test_what_stays_fp32_reads_what_was_not_rounded(tmp_path: Path):
    """The residual of a BERT reads its normalization, as int8 products do."""
    width = 16
    weight = np.random.default_rng(0).normal(size=(width, width)).astype(np.float32)
    nodes = [
        helper.make_node("LayerNormalization", ["x", "s"], ["n"]),
        helper.make_node("MatMul", ["n", "w"], ["p"], "product"),
        helper.make_node("Add", ["p", "n"], ["y"], "residual"),
    ]
    kind = TensorProto.FLOAT
    tensors = [numpy_helper.from_array(weight, "w")]
    tensors.append(numpy_helper.from_array(np.ones(width, np.float32), "s"))
    ends = [helper.make_tensor_value_info(name, kind, ["n", width]) for name in "xy"]
    graph = helper.make_graph(nodes, "g", ends[:1], ends[1:], tensors)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    onnx.save(model, tmp_path / "model.onnx")
    ranges = {"x": (-3.0, 3.0), "n": (-3.0, 3.0), "p": (-9.0, 9.0), "y": (-9.0, 9.0)}
    quantize_static_int8(
        tmp_path / "model.onnx", tmp_path / "int8.onnx", ranges, QuantizeConfig(), kinds=("MatMul",)
    )
    found = {node.name: list(node.input) for node in onnx.load(tmp_path / "int8.onnx").graph.node}
    assert found["residual"] == ["p", "n"]
    assert found["product"][0] == "n_DequantizeLinear_Output"


def test_a_bias_that_convolutions_share_takes_no_name_of_another_value(tmp_path: Path):
    """onnxruntime numbers its copies b0, b1, …; two of them are the values between here."""
    random = np.random.default_rng(0)
    constants = {"w": random.normal(size=(4, 4, 3, 3)), "b": random.normal(size=4)}
    names = ["x", "b0", "b1", "y"]
    nodes = [
        helper.make_node("Conv", [given, "w", "b"], [made], f"c{made}", pads=[1, 1, 1, 1])
        for given, made in pairwise(names)
    ]
    constants = {name: array.astype(np.float32) for name, array in constants.items()}
    shape = ["n", 4, 8, 8]
    path = save(tmp_path / "m.onnx", nodes, [value("x", shape)], [value("y", shape)], constants)
    rows = random.normal(size=(2, 4, 8, 8)).astype(np.float32)
    target = tmp_path / "int8.onnx"
    quantize_static_int8(path, target, collect(path, [(rows,)]).ranges(), QuantizeConfig())
    wanted, found = Session(path).run(rows), Session(target).run(rows)
    assert np.abs(found - wanted).max() < 0.05 * np.abs(wanted).max()


def test_sums_in_fp32_are_rounded_by_nothing_behind_a_convolution(
    prepared: Path, ranges: Ranges, tmp_path: Path
):
    found = {}
    for fp32_sums in (False, True):
        path = tmp_path / f"{fp32_sums}.onnx"
        config = QuantizeConfig()
        quantize_static_int8(
            prepared, path, ranges, config, kinds=("Conv", "Gemm"), fp32_sums=fp32_sums
        )
        graph = onnx.load(path).graph
        rounded = {node.input[0] for node in graph.node if node.op_type == "QuantizeLinear"}
        restored = {node.output[0] for node in graph.node if node.op_type == "DequantizeLinear"}
        convolutions = [node for node in graph.node if node.op_type == "Conv"]
        assert len(convolutions) == 6
        assert all({*node.input[:2]} <= restored for node in convolutions)
        found[fp32_sums] = sum(node.output[0] in rounded for node in convolutions)
    assert found == {False: 6, True: 0}


def test_a_softmax_of_doubles_stays_as_it_is(tmp_path: Path):
    double = TensorProto.DOUBLE
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["h"], "product"),
        helper.make_node("Cast", ["h"], ["d"], "wider", to=double),
        helper.make_node("Softmax", ["d"], ["y"], "shares"),
    ]
    inputs, outputs = [value("x", ["n", 8])], [value("y", ["n", 8], double)]
    source = save(tmp_path / "a.onnx", nodes, inputs, outputs, {"w": whole(8, 8)})
    rows = whole(16, 8, seed=1)
    found = collect(source, [(rows,)]).ranges()
    quantize_static_int8(source, tmp_path / "b.onnx", found, QuantizeConfig())
    assert operators(onnx.load(tmp_path / "b.onnx"))["MatMul"] == {STATIC: 1}
    expected, made = (Session(tmp_path / f"{name}.onnx").run((rows,)) for name in "ab")
    assert made.dtype == np.float64
    assert np.abs(made - expected).max() < 0.2


@pytest.mark.parametrize("weights", ["int8", "uint8"])
def test_a_weight_of_three_axes_has_one_scale(tmp_path: Path, weights: str):
    nodes = [helper.make_node("MatMul", ["x", "w"], ["y"], "product")]
    inputs, outputs = [value("x", ["n", 4, 5, 8])], [value("y", ["n", 4, 5, 16])]
    source = save(tmp_path / "a.onnx", nodes, inputs, outputs, {"w": whole(4, 8, 16)})
    rows = whole(2, 4, 5, 8, seed=1)
    found = collect(source, [(rows,)]).ranges()
    config = QuantizeConfig(weights=weights, activations="uint8")
    quantize_static_int8(source, tmp_path / "b.onnx", found, config)
    assert operators(onnx.load(tmp_path / "b.onnx"))["MatMul"] == {STATIC: 1}
    expected, made = (Session(tmp_path / f"{name}.onnx").run((rows,)) for name in "ab")
    assert np.linalg.norm(made - expected) < 0.02 * np.linalg.norm(expected)


@pytest.mark.parametrize("kind", ["Gemm", "LayerNormalization"])
def test_a_bias_of_several_axes_stays_with_its_node(tmp_path: Path, kind: str):
    constants = {"w": whole(8, 8), "s": whole(4, 8, seed=2), "b": whole(4, 8, seed=3)}
    settings = {"axis": -2} if kind == "LayerNormalization" else {}
    second = "s" if kind == "LayerNormalization" else "w"
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["h"], "product"),
        helper.make_node(kind, ["h", second, "b"], ["y"], "biased", **settings),
    ]
    inputs, outputs = [value("x", [4, 8])], [value("y", [4, 8])]
    source = save(tmp_path / "a.onnx", nodes, inputs, outputs, constants)
    rows = whole(4, 8, seed=1)
    found = collect(source, [(rows,)]).ranges()
    quantize_static_int8(source, tmp_path / "b.onnx", found, QuantizeConfig())
    assert operators(onnx.load(tmp_path / "b.onnx"))["MatMul"] == {STATIC: 1}
    expected, made = (Session(tmp_path / f"{name}.onnx").run((rows,)) for name in "ab")
    assert np.linalg.norm(made - expected) < 0.05 * np.linalg.norm(expected)


def test_a_transposed_convolution_in_groups_has_one_scale(tmp_path: Path):
    nodes = [helper.make_node("ConvTranspose", ["x", "w", "b"], ["y"], "up", group=2)]
    inputs, outputs = [value("x", ["n", 8, 6, 6])], [value("y", ["n", 6, 8, 8])]
    constants = {"w": whole(8, 3, 3, 3), "b": whole(6, seed=2)}
    source = save(tmp_path / "a.onnx", nodes, inputs, outputs, constants)
    rows = whole(2, 8, 6, 6, seed=1)
    found = collect(source, [(rows,)]).ranges()
    quantize_static_int8(source, tmp_path / "b.onnx", found, QuantizeConfig())
    assert operators(onnx.load(tmp_path / "b.onnx"))["ConvTranspose"] == {STATIC: 1}
    expected, made = (Session(tmp_path / f"{name}.onnx").run((rows,)) for name in "ab")
    assert np.linalg.norm(made - expected) < 0.03 * np.linalg.norm(expected)

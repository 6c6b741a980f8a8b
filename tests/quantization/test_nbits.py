"""Weights of 4 bits in blocks, against their definition and against onnxruntime's kernels."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from onnx import TensorProto, helper, numpy_helper

from compress.export.torch_to_onnx import export
from compress.models.sequence_configs import TransformerConfig
from compress.models.transformer import Transformer
from compress.quantization.dynamic import quantize_dynamic_int8
from compress.quantization.nbits import BLOCK, pack_blocks, quantize_4bit
from compress.quantization.rewriting.simplify import simplify
from compress.runtime.onnxruntime import Session


def unpack(packed, scale, width):
    """The rows that packed blocks stand for."""
    integers = np.stack([packed & 15, packed >> 4], axis=2).reshape(len(packed), -1)
    return ((integers.astype(np.float32) - 8) * scale.repeat(BLOCK, axis=1))[:, :width]


def one_node(kind, weight, path, inputs):
    taken = TensorProto.INT64 if kind == "Gather" else TensorProto.FLOAT
    graph = helper.make_graph(
        [helper.make_node(kind, inputs, ["y"], name="it")],
        "it",
        [helper.make_tensor_value_info("x", taken, ["batch", "some"])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(weight, "w")],
    )
    opset = [helper.make_opsetid("", 20)]
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=10), path)
    return path


def random(*shape):
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


def test_blocks_by_hand():
    row = np.zeros((1, 34), np.float32)
    row[0, [0, 1, 2, 32, 33]] = [-8, 7, 3, 4, -1]
    packed, scale = pack_blocks(row)
    assert scale.tolist() == [[1.0, -0.5]]
    # 0 and 15, the first in the lower half; 11 and a zero, which is 8; 4 / -0.5 = -8 and 2.
    assert packed[0, [0, 1, 2, 16]].tolist() == [0xF0, 0x8B, 0x88, 0xA0]
    packed, scale = pack_blocks(np.zeros((2, 5), np.float32))
    assert (packed == 0x88).all()
    assert (scale == 1).all()


@settings(max_examples=50, deadline=None)
@given(
    arrays.arrays(
        np.float32,
        st.tuples(st.integers(1, 5), st.integers(1, 70)),
        elements=st.floats(-100, 100, width=32, allow_subnormal=False),
    )
)
def test_no_value_is_off_by_more_than_a_step(rows):
    packed, scale = pack_blocks(rows)
    steps = np.abs(scale).repeat(BLOCK, axis=1)[:, : rows.shape[1]]
    # Half a step; a whole one at the end of which there is one integer less.
    assert (np.abs(unpack(packed, scale, rows.shape[1]) - rows) <= steps * 1.001).all()


@pytest.mark.parametrize("rows", [64, 200])
def test_onnxruntime_multiplies_by_what_is_meant(rows, tmp_path):
    weight = random(rows, 48)
    source = one_node("MatMul", weight, tmp_path / "fp32.onnx", ["x", "w"])
    assert quantize_4bit(source, tmp_path / "int4.onnx") == 1
    found = Session(tmp_path / "int4.onnx").run(np.eye(rows, dtype=np.float32))
    np.testing.assert_allclose(found, unpack(*pack_blocks(weight.T), rows).T, atol=1e-5)


@pytest.mark.parametrize("width", [64, 50])
def test_onnxruntime_reads_the_rows_that_are_meant(width, tmp_path):
    table = random(300, width)
    source = one_node("Gather", table, tmp_path / "fp32.onnx", ["w", "x"])
    assert quantize_4bit(source, tmp_path / "int4.onnx") == 1
    tokens = np.array([[7, 299], [0, 7]])
    found = Session(tmp_path / "int4.onnx").run(tokens)
    np.testing.assert_allclose(found, unpack(*pack_blocks(table), width)[tokens], atol=1e-6)


def test_what_is_small_or_odd_stays(tmp_path):
    product = one_node("MatMul", random(16, 16), tmp_path / "product.onnx", ["x", "w"])
    table = one_node("Gather", random(300, 51), tmp_path / "table.onnx", ["w", "x"])
    for source, kind in ((product, "MatMul"), (table, "Gather")):
        assert quantize_4bit(source, tmp_path / "int4.onnx") == 0
        assert [node.op_type for node in onnx.load(tmp_path / "int4.onnx").graph.node] == [kind]


def test_a_transformer_in_4_bits(tmp_path):
    torch.manual_seed(0)
    config = TransformerConfig(vocabulary=300, width=64, heads=(2, 2), feed_forward=(256, 256))
    model = Transformer(config).eval()
    inputs = (torch.randint(3, 300, (4, 15)), torch.tensor([15, 3, 15, 9]))
    export(model, inputs, tmp_path / "model.onnx", sequences=True)
    source = tmp_path / "prepared.onnx"
    simplify(tmp_path / "model.onnx", source)
    feeds = tuple(part.numpy() for part in inputs)
    # In each block 6 products; the tables of tokens and positions.
    assert quantize_4bit(source, tmp_path / "int4.onnx") == 2 * 6 + 2
    expected, found = Session(source).run(feeds), Session(tmp_path / "int4.onnx").run(feeds)
    assert np.abs(found - expected).max() < 0.2 * np.abs(expected).max()
    quantize_dynamic_int8(source, tmp_path / "int8.onnx")
    sizes = [(tmp_path / name).stat().st_size for name in ("int4.onnx", "int8.onnx")]
    assert sizes[0] < 0.7 * sizes[1]
    assert sizes[0] < 0.2 * source.stat().st_size

"""Which nodes are layers, and what a quantizer made of them."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import onnx
import pytest
from chains import StaticMaker, batches, convolutions, model, products, saved
from onnx import helper, numpy_helper

from compress.errors import ModelFileError
from compress.quantization.dynamic import quantize_dynamic_int8
from compress.quantization.layers import by_operator, check_names, int8_layers, layers
from compress.quantization.weight_only import quantize_weights


def renamed(given: list[str]) -> onnx.ModelProto:
    found = products(2)
    for node, name in zip(found.graph.node, given, strict=True):
        node.name = name
    return found


def test_layers_are_what_computes_with_constant_weights():
    attention = helper.make_node("MatMul", ["y", "f2"], ["z"], "attention")
    turned = helper.make_node("Transpose", ["f"], ["f2"], "turn", perm=[1, 0])
    weight = numpy_helper.from_array(np.ones((4, 3), np.float32))
    stored = helper.make_node("Constant", [], ["w9"], "stored", value=weight)
    last = helper.make_node("MatMul", ["y", "w9"], ["last"], "from-constant")
    found = convolutions()
    found.graph.node.extend([turned, attention, stored, last])
    assert list(layers(found)) == ["conv0", "conv1", "conv2", "head", "from-constant"]
    assert layers(found)["head"] == {"head"}
    assert by_operator(found) == {
        "convolutions": {"conv0", "conv1", "conv2"},
        "products": {"head", "from-constant"},
    }


def test_a_recurrent_layer_is_one():
    tensors = [
        numpy_helper.from_array(np.ones((1, 8, size), np.float32), "wr"[size == 2])
        for size in (3, 2)
    ]
    node = helper.make_node("LSTM", ["x", *(t.name for t in tensors)], ["y"], "lstm", hidden_size=2)
    found = model([node], tensors, {"x": ["t", "n", 3]}, {"y": ["t", 1, "n", 2]})
    assert by_operator(found) == {"recurrent layers": {"lstm"}}


def test_what_cannot_be_told_apart_is_refused():
    place = Path("m.onnx")
    check_names(products(2), layers(products(2)), place)
    twice = renamed(["a", "b", "a"])
    with pytest.raises(ModelFileError, match=re.escape("m.onnx: 2 nodes named 'a'; expected one.")):
        check_names(twice, layers(twice), place)
    with pytest.raises(ModelFileError, match=re.escape("m.onnx: no node named 'z'; expected one.")):
        check_names(twice, {"z": frozenset({"z"})}, place)
    nameless = renamed(["", "", ""])
    with pytest.raises(ModelFileError, match=r"m.onnx: a layer has no name; .*name_nodes` gives"):
        check_names(nameless, layers(nameless), place)


def test_which_layers_became_int8(tmp_path: Path):
    source = saved(convolutions(), tmp_path)
    make = StaticMaker(source, batches((2, 8, 8)))
    make(frozenset({"conv1"}), tmp_path / "static.onnx")
    found = int8_layers(onnx.load(source), onnx.load(tmp_path / "static.onnx"))
    assert found == {"conv0", "conv2", "head"}


@pytest.mark.parametrize("quantize", [quantize_dynamic_int8, quantize_weights])
def test_other_ways_to_int8_are_seen(quantize, tmp_path: Path):
    source = saved(products(2, width=96), tmp_path)
    quantize(source, tmp_path / "int8.onnx")
    original = onnx.load(source)
    assert int8_layers(original, onnx.load(tmp_path / "int8.onnx")) == {"layer0", "layer1"}
    assert int8_layers(original, original) == frozenset()

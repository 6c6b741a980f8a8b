"""HardSigmoid against its pieces, of every slope and type."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from sketch import Sketch, extremes, kinds, run, save

from compress.quantization.rewriting.checked import write_changed
from compress.quantization.rewriting.folding import infer_shapes
from compress.quantization.rewriting.for_openvino import for_openvino

FLOAT, HALF = 1, 10
X = np.concatenate([extremes((2, 4, 8)), np.linspace(-4, 4, 64, dtype="f").reshape(2, 4, 8)])


def bent(opset=18, **attributes):
    """Behind another node, so that its type has to be inferred."""
    g = Sketch(opset)
    x = g.Neg(g.input())
    model = g.output(g.Mul(x, g.HardSigmoid(x, **attributes))).model()
    infer_shapes(model)
    return model


@pytest.mark.parametrize("opset", [11, 18])
@pytest.mark.parametrize(
    "attributes",
    [{}, {"alpha": 1 / 6}, {"beta": 0.25}, {"alpha": 1 / 6, "beta": 0.5}, {"alpha": -0.7}],
)
def test_the_pieces_give_what_the_node_does(attributes, opset, tmp_path: Path):
    model, target = bent(opset, **attributes), tmp_path / "pieces.onnx"
    assert write_changed(save(model, tmp_path / "model.onnx"), target, (X,), for_openvino)
    after = onnx.load(target)
    assert kinds(after) == {"Neg": 1, "Mul": 2, "Add": 1, "Clip": 1}
    np.testing.assert_allclose(run(after, X)[0], run(model, X)[0], rtol=1e-5, atol=1e-6)


def test_each_node_has_numbers_of_its_own(tmp_path: Path):
    g = Sketch()
    x = g.input()
    g.output(g.HardSigmoid(g.HardSigmoid(x), alpha=0.9, beta=-0.1)).output(g.HardSigmoid(x))
    source, target = save(g.model(), tmp_path / "model.onnx"), tmp_path / "pieces.onnx"
    model = onnx.load(source)
    infer_shapes(model)
    assert write_changed(save(model, source), target, (X,), for_openvino)
    assert kinds(onnx.load(target)) == {"Mul": 3, "Add": 3, "Clip": 3}
    for found, expected in zip(run(onnx.load(target), X), run(model, X), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


def half_precision():
    g = Sketch()
    model = g.output(g.Cast(g.HardSigmoid(g.Cast(g.input(), to=HALF)), to=FLOAT)).model()
    infer_shapes(model)
    return model


def without():
    g = Sketch()
    return g.output(g.Sigmoid(g.input())).model()


def of_another_domain():
    model = bent()
    (node,) = (node for node in model.graph.node if node.op_type == "HardSigmoid")
    node.domain = "com.microsoft"
    return model


@pytest.mark.parametrize("make", [half_precision, without, of_another_domain, lambda: bent(10)])
def test_without_any_of_fp32_nothing_is_written(make, tmp_path: Path):
    target = tmp_path / "pieces.onnx"
    assert not write_changed(save(make(), tmp_path / "model.onnx"), target, (X,), for_openvino)
    assert not target.exists()

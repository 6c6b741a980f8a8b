"""Gemm of every form that ONNX has, against the same computed as it is written."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from nested import model, normal, run, saved, value
from onnx import helper

from compress.export.graph import operators
from compress.export.loading import load_onnx
from compress.quantization.calibration.collecting import collect
from compress.quantization.config import QuantizeConfig
from compress.quantization.dynamic import quantize_dynamic_int8
from compress.quantization.editing import attributes
from compress.quantization.rewriting.gemms import plain_gemms
from compress.quantization.rewriting.simplify import simplify
from compress.quantization.static import quantize_static_int8

IN, OUT, ROWS = 128, 96, 5
BIASES = {
    "no bias": None,
    "a list": (OUT,),
    "one row": (1, OUT),
    "one number": (),
    "one number as a list": (1,),
    "one for each row": (ROWS, 1),
    "all": (ROWS, OUT),
}
FORMS = {
    "alpha": {"alpha": 0.5},
    "beta": {"beta": -2.0},
    "transA": {"transA": 1},
    "transB": {"transB": 1},
    "all at once": {"alpha": 0.3, "beta": 0.7, "transA": 1, "transB": 1},
}


def gemm(bias=None, **settings):
    shape = [IN, ROWS] if settings.get("transA") else [ROWS, IN]
    weight = normal(OUT, IN) if settings.get("transB") else normal(IN, OUT)
    constants = {"w": weight} | ({} if bias is None else {"b": normal(*bias)})
    node = helper.make_node("Gemm", ["x", *constants], ["y"], name="it", **settings)
    return model([node], [value("x", shape)], [value("y", [ROWS, OUT])], constants), normal(*shape)


@pytest.mark.parametrize("bias", BIASES.values(), ids=BIASES)
@pytest.mark.parametrize("settings", [{}, *FORMS.values()], ids=["plain", *FORMS])
def test_what_is_left_is_x_times_weight_plus_bias(settings, bias, tmp_path):
    source, x = gemm(bias, **settings)
    (expected,) = run(saved(source, tmp_path / "a.onnx"), x)
    changed = plain_gemms(source)
    is_plain = not settings.keys() - {"transB"} and bias in (None, (OUT,))
    assert changed == (0 if is_plain else 1)
    (found,) = run(saved(source, tmp_path / "b.onnx"), x)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)
    (left,) = (node for node in source.graph.node if node.op_type == "Gemm")
    assert left.name == "it"
    if changed:
        assert attributes(left).keys() <= {"transB"}
        tensors = {tensor.name: list(tensor.dims) for tensor in source.graph.initializer}
        assert [tensors[name] for name in left.input[2:]] in ([], [[OUT]])
    assert plain_gemms(source) == 0


def test_products_of_two_computed_values_and_biases_that_are_scaled_stay(tmp_path):
    nodes = [
        helper.make_node("Gemm", ["x", "x"], ["a"], alpha=0.5, transB=1),
        helper.make_node("Gemm", ["a", "w", "a"], ["y"], beta=0.5),
    ]
    source = model(nodes, [value("x", [4, 8])], [value("y", [4, 4])], {"w": normal(4, 4)})
    before = [node.SerializeToString() for node in source.graph.node]
    assert plain_gemms(source) == 0
    assert [node.SerializeToString() for node in source.graph.node] == before


@pytest.mark.parametrize("settings", FORMS.values(), ids=FORMS)
def test_every_form_becomes_int8(settings, tmp_path):
    source, x = gemm((OUT,), **settings)
    path = saved(source, tmp_path / "a.onnx")
    ready, dynamic, static = (tmp_path / f"{name}.onnx" for name in ("ready", "dynamic", "static"))
    simplify(path, ready, (x,))
    quantize_dynamic_int8(ready, dynamic)
    ranges = collect(ready, [(x,)]).ranges()
    quantize_static_int8(ready, static, ranges, QuantizeConfig(), kinds=("Gemm", "MatMul"))
    (expected,) = run(path, x)
    for target in (dynamic, static):
        (counts,) = operators(load_onnx(target)).values()
        assert all(precision.startswith("int8") for precision in counts)
        onnx.checker.check_model(onnx.load(target))
        (found,) = run(target, x)
        assert np.abs(found - expected).max() < 0.05 * np.abs(expected).max()


def test_a_bias_that_is_computed_is_added_behind_dynamic_int8(tmp_path):
    node = helper.make_node("Gemm", ["x", "w", "b"], ["y"], name="it")
    inputs = [value("x", ["n", IN]), value("b", ["n", OUT])]
    source = model([node], inputs, [value("y", ["n", OUT])], {"w": normal(IN, OUT)})
    path, given = saved(source, tmp_path / "a.onnx"), (normal(ROWS, IN), normal(ROWS, OUT))
    quantize_dynamic_int8(path, tmp_path / "b.onnx")
    product, added = onnx.load(tmp_path / "b.onnx").graph.node
    assert (product.op_type, product.name) == ("DynamicQuantizeMatMul", "it")
    assert (added.op_type, added.name) == ("Add", "")
    (found,), (expected,) = run(tmp_path / "b.onnx", *given), run(path, *given)
    assert np.abs(found - expected).max() < 0.05 * np.abs(expected).max()

"""Einsum as products: the same numbers, and int8 for the layers of a Keras attention."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from sketch import Sketch, kinds, numbers, run

from compress.export.graph import operators
from compress.quantization.dynamic import quantize_dynamic_int8
from compress.quantization.rewriting.einsums import multiply_einsums
from compress.quantization.rewriting.simplify import simplify
from compress.quantization.rewriting.tidy import tidy

SIZES = {"b": 2, "t": 5, "d": 6, "h": 3, "e": 4, "s": 7}


def shaped(word: str) -> tuple[int, ...]:
    return tuple(SIZES[letter] for letter in word)


def sketched(equation: str, constant: int | None) -> tuple[onnx.ModelProto, list[np.ndarray]]:
    """An Einsum, one of whose operands may be constant; axes of size 2 to 7, dots for b and t."""
    g, feeds, names = Sketch(18), [], []
    for place, word in enumerate(equation.partition("->")[0].split(",")):
        values = numbers(*shaped(word.replace("...", "bt")))
        if place == constant:
            names.append(g.constant(values))
        else:
            feeds.append(values)
            names.append(g.input(f"x{place}", [f"n{axis}" for axis in range(values.ndim)]))
    return g.output(g.Einsum(*names, equation=equation)).model(), feeds


PRODUCTS = {
    "dense": ("btd,de->bte", 1),
    "dense, weights turned": ("btd,ed->bte", 1),
    "dense, weights first": ("de,btd->bte", 0),
    "dense, dots": ("...d,de->...e", 1),
    "heads": ("btd,dhe->bthe", 1),
    "heads, turned": ("btd,hde->bhte", 1),
    "heads joined": ("bthe,hed->btd", 1),
    "heads joined, turned": ("bhte,ehd->btd", 1),
    "to one number": ("btd,d->bt", 1),
    "a matrix for each head": ("bthd,hde->bthe", 1),
    "a matrix for each head, turned": ("bthd,hed->bthe", 1),
    "scores": ("bthe,bshe->bhts", None),
    "values": ("bhts,bshe->bthe", None),
    "scores, second first": ("bshe,bthe->bhts", None),
}


@pytest.mark.parametrize("name", PRODUCTS)
def test_the_same_numbers_by_one_product(name: str):
    equation, constant = PRODUCTS[name]
    model, feeds = sketched(equation, constant)
    before = run(model, *feeds)[0]
    assert multiply_einsums(model) == 1
    tidy(model, model)
    assert kinds(model)["MatMul"] == 1
    assert set(kinds(model)) <= {"MatMul", "Transpose", "Reshape"}
    np.testing.assert_allclose(run(model, *feeds)[0], before, rtol=1e-5, atol=1e-6)


NEAR = {
    "outer product": ("bt,d->btd", 1),
    "elementwise": ("btd,d->btd", 1),
    "summed": ("btd,de->be", 1),
    "diagonal": ("bd,dd->bd", 1),
    "a vector and weights": ("d,de->e", 1),
    "no matrix": ("bd,bde->be", None),
    "no arrow": ("td,de", 1),
}


@pytest.mark.parametrize("name", NEAR)
def test_what_is_no_product_stays(name: str):
    model, _ = sketched(*NEAR[name])
    assert multiply_einsums(model) == 0
    assert kinds(model) == {"Einsum": 1}


def test_layers_of_an_attention_by_einsum_become_int8_under_their_names(tmp_path: Path):
    g, width, heads = Sketch(18), 128, 4
    x = g.input("x", ("batch", "time", width))
    into = [numbers(width, heads, 32) / 16 for _ in range(3)]
    query, key, passed = (g.Einsum(x, g.constant(w), equation="abc,cde->abde") for w in into)
    shares = g.Softmax(g.Einsum(key, query, equation="aecd,abcd->acbe"), axis=-1)
    context = g.Einsum(shares, passed, equation="acbe,aecd->abcd")
    g.output(g.Einsum(context, g.constant(numbers(heads, 32, width)), equation="abcd,cde->abe"))
    model = g.model()
    for place, node in enumerate(model.graph.node):
        node.name = f"layer{place}"
    onnx.save(model, tmp_path / "m.onnx")
    rewrites = simplify(tmp_path / "m.onnx", tmp_path / "simple.onnx", [numbers(2, 5, width)])
    assert [(r.places, r.undone) for r in rewrites if r.name == "Einsum to products"] == [(6, "")]
    quantize_dynamic_int8(tmp_path / "simple.onnx", tmp_path / "dynamic.onnx")
    made = onnx.load(tmp_path / "dynamic.onnx")
    assert operators(made) == {"MatMul": {"fp32": 2, "int8 (dynamic)": 4}}
    names = {node.name for node in made.graph.node}
    assert {f"layer{place}" for place in (0, 1, 2, 3, 5, 6)} <= names

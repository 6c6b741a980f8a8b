"""fp16 against the same file in fp32, and what may not become fp16."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from halves import converted, counts, difference, numbers
from onnx import TensorProto, helper
from small_graphs import INT64, attention, save, value, whole

from compress.data.samples import from_calls
from compress.errors import NoEffect
from compress.export.graph import operators, precision
from compress.export.loading import load_onnx
from compress.export.torch_to_onnx import export
from compress.measure.agreement import Agreement
from compress.models.build import build as build_model
from compress.models.references import resolve
from compress.quantization.account import account_of_nodes
from compress.quantization.building import FUSED, REWRITTEN, build
from compress.quantization.candidates import NO_INT8
from compress.quantization.config import QuantizeConfig
from compress.quantization.fp16 import convert_fp16
from compress.quantization.rewriting.simplify import simplify
from compress.runtime.onnxruntime import Session

node = helper.make_node

TOKENS = torch.randint(1, 30, (4, 9), generator=torch.Generator().manual_seed(0))
LENGTHS = torch.tensor([9, 7, 2, 5])
FRAMES = torch.from_numpy(numbers(4, 9, 5))
WIDE = {"in_features": 5, "outputs": 3}
TEXT = {"vocabulary": 30, "outputs": 3}
SMALL = {"width": 32, "heads": [4, 4], "head_width": 8, "feed_forward": [64, 64], "max_length": 16}
FAMILIES = {
    "lstm": ({"widths": [64, 64]}, WIDE, (FRAMES, LENGTHS)),
    "gru": ({"widths": [64, 64]}, WIDE, (FRAMES, LENGTHS)),
    "transformer": (SMALL, TEXT, (TOKENS, LENGTHS)),
    "gpt": (SMALL, TEXT | {"outputs": 30}, (TOKENS, LENGTHS)),
}


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """A model of a family with random weights as an ONNX file, made once."""
    folder = tmp_path_factory.mktemp("families")

    @cache
    def make(name: str) -> Path:
        settings, facts, samples = FAMILIES[name]
        torch.manual_seed(0)
        model = build_model(resolve(name, settings, facts)).eval()
        export(model, samples, folder / f"{name}.onnx", sequences=True)
        return folder / f"{name}.onnx"

    return make


@pytest.mark.parametrize("name", FAMILIES)
def test_each_family_is_half_as_large_and_answers_alike(
    name: str, exported: Callable[[str], Path], tmp_path: Path
):
    feeds = tuple(sample.numpy() for sample in FAMILIES[name][2])
    simplify(exported(name), tmp_path / "whole.onnx", feeds)
    half = converted(tmp_path / "whole.onnx", *feeds)
    assert 1e-6 < difference(exported(name), half, *feeds) < 5e-3
    assert half.stat().st_size < 0.6 * (tmp_path / "whole.onnx").stat().st_size
    found = operators(load_onnx(half))
    assert precision(found) == "fp16"
    assert {kind for kinds in found.values() for kind in kinds} <= {"fp16", "fp32"}
    if name in ("lstm", "gru"):
        assert found[name.upper()] == {"fp16": 2}


def test_a_convolutional_network(trained_onnx: Path, tmp_path: Path):
    rows = numbers(8, 1, 12, 12)
    simplify(trained_onnx, tmp_path / "whole.onnx", (rows,))
    half = converted(tmp_path / "whole.onnx", rows)
    assert operators(load_onnx(half)) == {"Conv": {"fp16": 6}, "Gemm": {"fp16": 1}}
    assert difference(trained_onnx, half, rows) < 5e-3
    assert account_of_nodes(load_onnx(half))[0]["precision"] == "fp16"
    assert not any("why" in entry for entry in account_of_nodes(load_onnx(half)))


def test_numbers_that_fp16_cannot_hold_stay_fp32(tmp_path: Path):
    nodes = [
        node("MatMul", ["x", "w"], ["a"], "product"),
        node("Mul", ["a", "large"], ["b"], "up"),
        node("Add", ["b", "b"], ["c"], "sum"),
        node("Div", ["c", "large"], ["d"], "down"),
        node("Relu", ["d"], ["y"], "bend"),
    ]
    constants = {"w": numbers(8, 8, seed=1), "large": np.array(1e6, np.float32)}
    path = save(
        tmp_path / "m.onnx", nodes, [value("x", ["n", 8])], [value("y", ["n", 8])], constants
    )
    rows = numbers(16, 8)
    half = converted(path, rows)
    assert difference(path, half, rows) < 2e-3
    # x, what is large, and back: none between the nodes that stay fp32.
    assert counts(half)["Cast"] == 4
    stored = {t.name: t.data_type for t in onnx.load(half).graph.initializer}
    assert sorted(stored.values()) == [TensorProto.FLOAT, TensorProto.FLOAT16]
    assert operators(load_onnx(half)) == {"MatMul": {"fp16": 1}}


def test_a_product_that_overflows_is_told_to_be_fp32(tmp_path: Path):
    nodes = [
        node("MatMul", ["x", "w"], ["a"], "first"),
        node("MatMul", ["a", "w"], ["y"], "second"),
    ]
    constants = {"w": 300 * np.eye(8, dtype=np.float32)}
    path = save(
        tmp_path / "m.onnx", nodes, [value("x", ["n", 8])], [value("y", ["n", 8])], constants
    )
    rows = numbers(16, 8)
    half = converted(path, rows)
    assert difference(path, half, rows) < 1e-3
    found = {entry["name"]: entry for entry in account_of_nodes(load_onnx(half))}
    assert found["first"] == {"name": "first", "operator": "MatMul", "precision": "fp16"}
    assert found["second"]["precision"] == "fp32"
    assert found["second"]["why"] == (
        "takes or makes numbers that fp16 cannot hold, or has no fp16 form"
    )


def test_squares_of_small_numbers_do_not_vanish(tmp_path: Path):
    nodes = [
        node("Relu", ["x"], ["r"], "bend"),
        node("Pow", ["r", "two"], ["s"], "squares"),
        node("ReduceMean", ["s", "axes"], ["m"], "mean"),
        node("Sqrt", ["m"], ["norm"], "root"),
        node("Div", ["r", "norm"], ["y"], "scale"),
    ]
    constants = {"two": np.array(2, np.float32), "axes": np.array([1])}
    path = save(
        tmp_path / "m.onnx", nodes, [value("x", ["n", 8])], [value("y", ["n", 8])], constants
    )
    rows = 1e-4 * np.abs(numbers(16, 8))
    assert (np.square(rows.astype(np.float16)) == 0).mean() > 0.9
    assert difference(path, converted(path, rows), rows) < 5e-3


def test_an_infinite_mask(tmp_path: Path):
    path, feeds = attention(tmp_path / "m.onnx"), (numbers(3, 5, 4), np.array([5, 2, 3]))
    half = converted(path, *feeds)
    assert difference(path, half, *feeds) < 5e-3
    assert operators(load_onnx(half)) == {"MatMul": {"fp16": 3}}


@pytest.mark.parametrize("least", [-3.4e38, -1e9, -1e38])
def test_an_added_mask_of_large_numbers(least: float, tmp_path: Path):
    """Attention's scores keep what is masked apart, twice, and a row of nothing else has no NaN."""
    nodes = [
        node("Sub", ["one", "keep"], ["drop"], "drop"),
        node("Mul", ["drop", "least"], ["mask"], "mask"),
        node("MatMul", ["x", "w"], ["scores"], "scores"),
        node("Add", ["scores", "mask"], ["masked"], "once"),
        node("Add", ["masked", "mask"], ["twice"], "twice"),
        node("Softmax", ["twice"], ["y"], "shares"),
    ]
    constants = {
        "one": np.array(1, np.float32),
        "least": np.array(least, np.float32),
        "w": 20 * numbers(6, 6, seed=1),
    }
    inputs = [value("x", ["n", 6]), value("keep", ["n", 6])]
    path = save(tmp_path / "m.onnx", nodes, inputs, [value("y", ["n", 6])], constants)
    keep = (np.arange(6) < np.array([6, 3, 1, 4])[:, None]).astype(np.float32)
    half = converted(path, numbers(4, 6), keep)
    given = numbers(4, 6), keep * np.array([1, 1, 1, 0], np.float32)[:, None]
    shares = Session(half).outputs_of(given)[0]
    assert np.isfinite(shares).all()
    expected = Session(path).outputs_of(given)[0]
    np.testing.assert_allclose(shares[:3], expected[:3], atol=0.05)
    assert (shares[:3][keep[:3] == 0] == 0).all()
    kinds = {t.data_type for t in onnx.load(half).graph.initializer}
    assert kinds == {TensorProto.FLOAT16}
    assert counts(half)["Cast"] == 3


def test_a_bound_without_an_end(tmp_path: Path):
    nodes = [
        node("MatMul", ["x", "w"], ["a"], "product"),
        node("Clip", ["a", "zero", "most"], ["y"], "bend"),
    ]
    constants = {
        "w": 4000 * numbers(8, 8, seed=1),
        "zero": np.array(0, np.float32),
        "most": np.array(3.4e38, np.float32),
    }
    path = save(
        tmp_path / "m.onnx", nodes, [value("x", ["n", 8])], [value("y", ["n", 8])], constants
    )
    rows = numbers(16, 8)
    assert np.abs(Session(path).run(rows)).max() > 1e4
    assert difference(path, converted(path, rows), rows) < 2e-3


def test_a_model_without_fp32(tmp_path: Path):
    nodes = [node("Add", ["x", "x"], ["y"], "sum")]
    path = save(tmp_path / "m.onnx", nodes, [value("x", ["n"], INT64)], [value("y", ["n"], INT64)])
    with pytest.raises(NoEffect, match=r"computes nothing in fp32; expected a model in fp32\.$"):
        convert_fp16(path, tmp_path / "h.onnx", [(np.arange(3),)])


def judged(path: Path, rows: np.ndarray) -> Agreement:
    return Agreement(from_calls("mine", [(rows,)], Session(path).declared()), path, "error")


def test_on_cuda_fp16_takes_the_place_of_int8_and_the_account_says_why(tmp_path: Path):
    nodes = [
        node("MatMul", ["x", "w"], ["a"], "first"),
        node("Add", ["a", "three"], ["b"], "shift"),
        node("Clip", ["b", "zero", "six"], ["c"], "clip"),
        node("Mul", ["a", "c"], ["d"], "gate"),
        node("Div", ["d", "six"], ["y"], "down"),
    ]
    constants = {
        "w": whole(8, 8),
        "zero": np.float32(0),
        "three": np.float32(3),
        "six": np.float32(6),
    }
    path = save(tmp_path / "m.onnx", nodes, [value("x", ["n", 8])], [value("y", ["n", 8])],
                {name: np.asarray(values) for name, values in constants.items()})  # fmt: skip
    judge = judged(path, numbers(40, 8))
    made = build(path, tmp_path, judge, QuantizeConfig(), device="cuda")
    assert list(made.files) == ["fp16", REWRITTEN]
    assert made.failures == {"int8": NO_INT8}
    assert NO_INT8.startswith("left out: on CUDA onnxruntime has no int8 kernels for convolutions")
    asked = build(path, tmp_path, judge, QuantizeConfig(method="fp16"))
    assert (list(asked.files), asked.failures) == (["fp16"], {})
    assert "fp16" not in build(path, tmp_path, judge, QuantizeConfig()).files


def test_attention_as_one_operator_is_fp16_too(exported: Callable[[str], Path], tmp_path: Path):
    source = exported("transformer")
    feeds = tuple(np.concatenate([sample.numpy()] * 10) for sample in FAMILIES["transformer"][2])
    data = from_calls("mine", [feeds], Session(source).declared())
    judge = Agreement(data, source, "error")
    made = build(source, tmp_path, judge, QuantizeConfig(), device="cuda")
    assert {"fp16", "fp16, fused", FUSED} <= made.files.keys()
    assert operators(load_onnx(made.files["fp16, fused"]))["Attention"] == {"fp16": 2}
    assert difference(source, made.files["fp16, fused"], *feeds) < 5e-3

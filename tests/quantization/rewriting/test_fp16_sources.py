"""What rewriting and its candidates make of models in fp16, and which differences that excuses."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from half_graphs import FP16, half_convolutions, halves, perceptron
from onnx import numpy_helper
from sketch import Sketch, by_name, kinds
from small_graphs import FLOAT

from compress.data.samples import from_calls
from compress.export.graph import operators
from compress.measure.agreement import Agreement
from compress.quantization.building import REWRITTEN, build, make_all
from compress.quantization.config import QuantizeConfig
from compress.quantization.rewriting import simplify as module
from compress.quantization.rewriting.agreement import FP16_ROUNDINGS, Disagreement, reference
from compress.quantization.rewriting.simplify import simplify
from compress.quantization.rewriting.widening import widen
from compress.runtime.onnxruntime import Session


def test_a_wrong_weight_is_found_and_the_roundings_of_fp16_are_none(tmp_path: Path):
    path, rows = perceptron(tmp_path / "m.onnx"), halves(9, 64)
    expected = reference(path, (rows,))
    assert expected.sensitivity == FP16_ROUNDINGS
    model = onnx.load(path)
    widen(model)
    onnx.save(model, tmp_path / "wide.onnx")
    assert expected.difference(tmp_path / "wide.onnx") <= FP16_ROUNDINGS
    # In fp32 only the output is rounded to fp16, which is one step of it.
    strict = reference(tmp_path / "wide.onnx", (rows,))
    assert strict.sensitivity < 1.001 * 2**-10
    tensor = next(entry for entry in model.graph.initializer if entry.name == "w1")
    weight = numpy_helper.to_array(tensor).copy()
    weight[3, 5] += 0.1
    tensor.CopyFrom(numpy_helper.from_array(weight, "w1"))
    onnx.save(model, tmp_path / "wrong.onnx")
    for known in (expected, strict):
        with pytest.raises(Disagreement, match=r"output 'y' differs by .* allowed is 0\.00"):
            known.difference(tmp_path / "wrong.onnx")


def test_what_comes_behind_is_compared_with_fp32(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A mistake as small as the roundings of fp16 is one as soon as nothing rounds to fp16."""

    def a_little_more(model: onnx.ModelProto) -> int:
        for tensor in model.graph.initializer:
            values = numpy_helper.to_array(tensor)
            if values.dtype.kind == "f":
                tensor.CopyFrom(numpy_helper.from_array(values * np.float32(1.001), tensor.name))
        return 1

    usual = module._steps
    monkeypatch.setattr(module, "_steps", lambda call: usual(call) | {"more": (a_little_more,)})
    g = Sketch(18)
    x = g.Cast(g.input("x", ("n", 8)), to=FP16)
    weight = g.constant(halves(8, 8), np.float16)
    path = tmp_path / "m.onnx"
    onnx.save(g.output(g.Cast(g.MatMul(x, weight), to=FLOAT)).model(), path)
    rows = halves(3, 8, seed=1).astype(np.float32)
    done = by_name(simplify(path, tmp_path / "out.onnx", (rows,)))
    assert not done["half precision to fp32"].undone
    assert done["more"].undone.startswith("output 'v2_0' differs by 0.001")
    assert kinds(onnx.load(tmp_path / "out.onnx")) == {"MatMul": 1, "Cast": 1}  # an output stays


@pytest.mark.parametrize(
    ("make", "shape", "kinds_of_int8"),
    [(perceptron, (64,), {"dynamic", "weight-only"}), (half_convolutions, (2, 8, 8), {"static"})],
)
def test_candidates_of_a_model_in_fp16(
    make: Callable[[Path], Path], shape: tuple[int, ...], kinds_of_int8: set[str], tmp_path: Path
):
    path, rows = make(tmp_path / "m.onnx"), halves(60, *shape)
    judge = Agreement(from_calls("mine", [(rows,)], Session(path).declared()), path, "error")
    made = build(path, tmp_path, judge, QuantizeConfig())
    assert kinds_of_int8 | {REWRITTEN} <= made.files.keys()
    want = Session(path).run(rows)
    for name, file in made.files.items():
        counts = {kind for entry in operators(onnx.load(file)).values() for kind in entry}
        assert "fp16" not in counts
        assert name == REWRITTEN or any("int8" in kind for kind in counts)
        got = Session(file).run(rows)
        assert got.dtype == np.float16
        assert np.linalg.norm(got.astype(float) - want) < 0.03 * np.linalg.norm(want.astype(float))


def test_an_fp16_operator_is_no_int8_candidate(tmp_path: Path):
    path = perceptron(tmp_path / "m.onnx")
    same = {"same": lambda target: target.write_bytes(path.read_bytes())}
    assert make_all(same, tmp_path) == (
        {},
        {"same": "could not be built: no operator became int8"},
    )
    assert list(make_all(same, tmp_path, half=True)[0]) == ["same"]

"""BatchNormalization as a convolution of each channel, and what int8 gains from that."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from sketch import Sketch, kinds, run

from compress.quantization.candidates import Candidates
from compress.quantization.config import QuantizeConfig
from compress.quantization.prepared import Prepared
from compress.quantization.rewriting.checked import write_changed
from compress.quantization.rewriting.depthwise import as_convolutions
from compress.quantization.rewriting.folding import infer_shapes

RANDOM = np.random.default_rng(0)


def numbers(*shape):
    return RANDOM.standard_normal(shape).astype(np.float32)


def normalized(g: Sketch, x: str, channels: int, **settings) -> str:
    parts = [numbers(channels) for _ in range(3)] + [np.abs(numbers(channels)) + 0.1]
    return g.BatchNormalization(x, *map(g.constant, parts), epsilon=1e-3, **settings)


def behind_relu(size: tuple[int, ...] = (9, 9)):
    """Convolution, ReLU, normalization, pooling, and once more: as pitch trackers have it."""
    g, kernel = Sketch(), [3] * len(size)
    x, channels = g.input(shape=("batch", 3, *size)), 3
    for width in (8, 6):
        made = g.Conv(x, g.constant(numbers(width, channels, *kernel)), pads=[1, 1] * len(size))
        x = g.MaxPool(normalized(g, g.Relu(made), width), kernel_shape=[2] * len(size))
        channels = width
    return g.output(x).model()


def written(model, folder: Path) -> Path:
    infer_shapes(model)
    onnx.save(model, folder / "model.onnx")
    return folder / "model.onnx"


@pytest.mark.parametrize("size", [(9, 9), (16,), (6, 6, 6)])
def test_it_computes_the_same_for_any_number_of_dimensions(size: tuple[int, ...], tmp_path: Path):
    source, target = written(behind_relu(size), tmp_path), tmp_path / "spread.onnx"
    x = numbers(4, 3, *size)
    assert write_changed(source, target, (x,), as_convolutions)
    before, after = onnx.load(source), onnx.load(target)
    assert (kinds(before)["BatchNormalization"], kinds(after)["BatchNormalization"]) == (2, 0)
    assert kinds(after)["Conv"] == 4
    np.testing.assert_allclose(
        *(run(model, x)[0] for model in (after, before)), rtol=1e-5, atol=1e-4
    )


def test_what_is_no_image_or_learns_while_it_runs_stays(tmp_path: Path):
    g = Sketch()
    flat = normalized(g, g.Relu(g.input(shape=("batch", 6))), 6)
    assert not write_changed(
        written(g.output(flat).model(), tmp_path),
        tmp_path / "spread.onnx",
        (numbers(2, 6),),
        as_convolutions,
    )
    g = Sketch()
    first, *_ = normalized(g, g.input(shape=("batch", 3, 4, 4)), 3, training_mode=1, outputs=3)
    source = written(g.output(first).model(), tmp_path)
    assert not write_changed(
        source, tmp_path / "spread.onnx", (numbers(2, 3, 4, 4),), as_convolutions
    )
    assert not (tmp_path / "spread.onnx").exists()


def test_int8_convolutions_then_have_no_fp32_between_them(tmp_path: Path):
    source, x = written(behind_relu(), tmp_path), numbers(16, 3, 9, 9)
    makers = Candidates(Prepared(source, tmp_path, [(x,)], QuantizeConfig())).makers()
    for name in ("static", "static, normalizations as convolutions"):
        makers[name](tmp_path / f"{name}.onnx")
        left = kinds(onnx.load(tmp_path / f"{name}.onnx"))["BatchNormalization"]
        assert left == (2 if name == "static" else 0)
    expected = run(onnx.load(source), x)[0]
    found = run(onnx.load(tmp_path / "static, normalizations as convolutions.onnx"), x)[0]
    assert np.abs(found - expected).max() < 0.05 * np.abs(expected).max()


def test_without_any_there_is_no_such_candidate(tmp_path: Path):
    g = Sketch()
    x = g.input(shape=("batch", 3, 9, 9))
    source = written(g.output(g.Conv(x, g.constant(numbers(4, 3, 3, 3)))).model(), tmp_path)
    makers = Candidates(
        Prepared(source, tmp_path, [(numbers(2, 3, 9, 9),)], QuantizeConfig())
    ).makers()
    assert "static, normalizations as convolutions" not in makers

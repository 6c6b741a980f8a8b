"""Layers tried one by one: the switched graph against files built for each layer."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from chains import StaticMaker, batches, convolutions, products, saved
from onnx import TensorProto, helper

from compress.errors import InputError
from compress.quantization.divergence import relative_error, score_divergence
from compress.quantization.editing import rewrite
from compress.quantization.integer_product import product_converters
from compress.quantization.layers import by_operator, layers
from compress.quantization.sensitivity import sensitivities
from compress.quantization.switches import with_switches

IMAGES, ROWS = (2, 8, 8), (8,)


def outputs(path: Path | bytes, samples: list, *more: np.ndarray) -> list[list[np.ndarray]]:
    """Every output, by onnxruntime alone."""
    options = ort.SessionOptions()
    options.log_severity_level = 3
    session = ort.InferenceSession(path, options)
    names = [value.name for value in session.get_inputs()]
    return [session.run(None, dict(zip(names, (*batch, *more), strict=True))) for batch in samples]


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, StaticMaker, list]:
    source = saved(convolutions(hard=1), tmp_path_factory.mktemp("images"))
    samples = batches(IMAGES)
    return source, StaticMaker(source, samples), samples


def test_switches_give_what_a_file_for_each_layer_gives(images, tmp_path: Path):
    source, make, samples = images
    make(frozenset(), tmp_path / "int8.onnx")
    every = layers(onnx.load(source))
    found = with_switches(onnx.load(source), onnx.load(tmp_path / "int8.onnx"), every)
    assert found is not None
    model, order = found
    onnx.checker.check_model(model, full_check=True)
    assert order == ["conv0", "conv1", "conv2", "head"]
    switched = model.SerializeToString()
    fp32 = outputs(source, samples)
    for names in ([], ["conv0"], ["conv1"], ["head"], ["conv0", "conv2"], order):
        make(frozenset(order) - frozenset(names), tmp_path / "built.onnx")
        built = outputs(tmp_path / "built.onnx", samples) if names else fp32
        on = np.array([name in names for name in order])
        apart = relative_error(built, outputs(switched, samples, on))
        error = relative_error(fp32, built)
        assert apart <= 0.02 * error + 1e-6, names


def test_the_hard_layer_comes_first_and_every_figure_is_that_of_its_own_file(
    images, tmp_path: Path
):
    source, make, samples = images
    groups, seen = layers(onnx.load(source)), []
    found = sensitivities(source, make, groups, samples, tmp_path, lambda *step: seen.append(step))
    assert found[0].name == "conv1"
    assert [entry.divergence for entry in found] == sorted(
        (entry.divergence for entry in found), reverse=True
    )
    fp32 = outputs(source, samples)
    for entry in found:
        make(frozenset(groups) - {entry.name}, tmp_path / "built.onnx")
        expected = relative_error(fp32, outputs(tmp_path / "built.onnx", samples))
        assert entry.divergence == pytest.approx(expected, rel=0.02)
        assert (entry.nodes, entry.measure, entry.fp32) == (1, "relative error", False)
    assert found[0].divergence > 10 * found[1].divergence
    assert seen == [("sensitivity", at, 4) for at in (1, 2, 3, 4)]
    assert [path.name for path in tmp_path.iterdir()] == ["built.onnx"]


def test_kinds_of_operators_as_groups_and_one_batch_alone(images, tmp_path: Path):
    source, make, samples = images
    groups = by_operator(onnx.load(source))
    found = sensitivities(source, make, groups, samples[0], tmp_path, scores=True)
    assert [(entry.name, entry.operator, entry.nodes) for entry in found] == [
        ("convolutions", "Conv", 3),
        ("products", "MatMul", 1),
    ]
    make(frozenset({"head"}), tmp_path / "built.onnx")
    one = samples[:1]
    expected = score_divergence(outputs(source, one), outputs(tmp_path / "built.onnx", one))
    assert found[0].divergence == pytest.approx(expected, rel=0.05)
    assert found[0].measure == "KL divergence"


def test_what_the_maker_leaves_alone_is_left_out(images, tmp_path: Path):
    source, _, samples = images
    make = StaticMaker(source, samples, kinds=("Conv",))
    groups = {"all": frozenset({"conv0", "head"}), "head": frozenset({"head"})}
    (found,) = sensitivities(source, make, groups, samples, tmp_path)
    assert (found.name, found.nodes) == ("all", 1)


class DynamicMaker:
    """`Make` by dynamic products, one scale for a matrix; `spoilt` gets one that is no number."""

    def __init__(self, source: Path, spoilt: str = "") -> None:
        self.source, self.spoilt = source, spoilt
        self.kept: list[frozenset[str]] = []

    def __call__(self, keep: frozenset[str], path: Path) -> None:
        self.kept.append(keep)
        convert = product_converters(1, per_channel=False)["Gemm"]
        model = onnx.load(self.source)
        rewrite(model, {"Gemm": lambda edit, node: node.name not in keep and convert(edit, node)})
        for tensor in model.graph.initializer:
            if tensor.name == f"{self.spoilt}_scale":
                tensor.CopyFrom(onnx.numpy_helper.from_array(np.float32([np.nan])[0], tensor.name))
        onnx.save(model, path)


def test_dynamic_int8_is_built_layer_by_layer(tmp_path: Path):
    source, samples = saved(products(3, hard=(1,)), tmp_path), batches(ROWS)
    make, groups = DynamicMaker(source), layers(onnx.load(source))
    found = sensitivities(source, make, groups, samples, tmp_path)
    every = frozenset(groups)
    assert make.kept == [frozenset(), *(every - {name} for name in groups)]
    assert found[0].name == "layer1"
    fp32 = outputs(source, samples)
    for entry in found:
        make(every - {entry.name}, tmp_path / "built.onnx")
        expected = relative_error(fp32, outputs(tmp_path / "built.onnx", samples))
        assert entry.divergence == pytest.approx(expected)


def test_a_layer_without_numbers_comes_first(tmp_path: Path):
    source = saved(products(3), tmp_path)
    make, groups = DynamicMaker(source, spoilt="w2"), layers(onnx.load(source))
    found = sensitivities(source, make, groups, batches(ROWS), tmp_path)
    assert (found[0].name, found[0].divergence) == ("layer2", None)
    assert found[1].divergence is not None


def test_a_fixed_batch_size_is_kept_to(tmp_path: Path):
    model = products(2)
    for value in (model.graph.input[0], model.graph.output[0]):
        value.type.tensor_type.shape.dim[0].dim_value = 16
    source = saved(model, tmp_path)
    make, groups = StaticMaker(source, batches(ROWS)), layers(model)
    found = sensitivities(source, make, groups, batches(ROWS, count=1, rows=24), tmp_path)
    assert len(found) == 2


@pytest.mark.parametrize("samples", [[], [(np.zeros((0, 8), np.float32),)]])
def test_no_samples(samples: list, tmp_path: Path):
    source = saved(products(2), tmp_path)
    make = StaticMaker(source, batches(ROWS))
    with pytest.raises(InputError, match="sensitivity: no samples; expected at least one batch"):
        sensitivities(source, make, layers(onnx.load(source)), samples, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["fp32.onnx"]


def test_inputs_without_rows_go_in_as_they_are(tmp_path: Path):
    model = products(2)
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 16
    model.graph.input.append(helper.make_tensor_value_info("scale", TensorProto.FLOAT, []))
    model.graph.node[0].input[0] = "scaled"
    first = model.graph.input[0].name
    model.graph.node.insert(0, helper.make_node("Mul", [first, "scale"], ["scaled"], "scaling"))
    source = saved(model, tmp_path)
    given = [(*rows, np.array(1, np.float32)) for rows in batches(ROWS, count=1, rows=16)]
    found = sensitivities(source, StaticMaker(source, given), layers(model), given, tmp_path)
    assert len(found) == 2

"""LSTM inputs of which most are small: the same in fp32, and nearer to it in int8."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from compress.quantization.calibration import collect
from compress.quantization.candidates import Candidates
from compress.quantization.config import QuantizeConfig
from compress.quantization.dynamic import quantize_dynamic_int8
from compress.quantization.magnified_inputs import magnify_inputs, weights_in_parts
from compress.quantization.prepared import Prepared
from compress.runtime.onnxruntime import Session

FEATURES, HIDDEN = 6, 8


def energies(seed: int) -> np.ndarray:
    """(steps, batch, features), over five orders of magnitude, as of mel bands."""
    random = np.random.default_rng(seed)
    return np.exp(random.normal(-6, 2.5, size=(9, 16, FEATURES))).astype(np.float32)


def model(path: Path) -> Path:
    """Two LSTM nodes that read one input, a bidirectional one and one that reads the first."""
    random = np.random.default_rng(0)

    def weights(name: str, directions: int, features: int) -> dict[str, np.ndarray]:
        shapes = {"w": (directions, 4 * HIDDEN, features), "r": (directions, 4 * HIDDEN, HIDDEN)}
        return {part + name: random.normal(size=shape) for part, shape in shapes.items()}

    tensors = weights("1", 1, FEATURES) | weights("2", 2, FEATURES) | weights("3", 1, HIDDEN)
    tensors["w1"] *= 40  # energies are small, so that what reads them is not
    tensors["w2"] *= 40
    nodes = [
        helper.make_node("LSTM", ["x", "w1", "r1"], ["a"], "first", hidden_size=HIDDEN),
        helper.make_node(
            "LSTM",
            ["x", "w2", "r2"],
            ["b"],
            "second",
            hidden_size=HIDDEN,
            direction="bidirectional",
        ),
        helper.make_node("Squeeze", ["a", "axis"], ["squeezed"]),
        helper.make_node("LSTM", ["squeezed", "w3", "r3"], ["c"], "third", hidden_size=HIDDEN),
    ]
    kind = TensorProto.FLOAT
    given = helper.make_tensor_value_info("x", kind, ["steps", "batch", FEATURES])
    made = [helper.make_tensor_value_info(node.output[0], kind, [None] * 4) for node in nodes]
    made = [value for value in made if value.name != "squeezed"]
    constants = [numpy_helper.from_array(v.astype(np.float32), name) for name, v in tensors.items()]
    constants.append(numpy_helper.from_array(np.array([1]), "axis"))
    graph = helper.make_graph(nodes, "g", [given], made, constants)
    opset = [helper.make_opsetid("", 18)]
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=8), path)
    return path


def magnified(source: Path, samples: np.ndarray) -> tuple[Path, frozenset[str]]:
    target = source.with_name("magnified.onnx")
    return target, magnify_inputs(source, target, collect(source, [(samples,)], kinds=("LSTM",)))


def error(path: Path, expected: list[np.ndarray], feed: np.ndarray) -> float:
    """Of the two nodes that read the energies."""
    found = Session(path).outputs_of((feed,))
    pairs = zip(expected[:2], found[:2], strict=True)
    return max(float(np.sqrt(np.mean((y - x) ** 2))) for x, y in pairs)


def test_it_computes_the_same_and_int8_comes_nearer(tmp_path: Path):
    source = model(tmp_path / "model.onnx")
    target, done = magnified(source, energies(0))
    assert done == {"first", "second"}  # what the first one gives is no energy
    feed = energies(1)
    expected = Session(source).outputs_of((feed,))
    assert error(target, expected, feed) < 1e-5
    for path in (source, target):
        quantize_dynamic_int8(path, path.with_stem(f"{path.stem}-int8"))
    before = error(source.with_stem("model-int8"), expected, feed)
    after = error(target.with_stem("magnified-int8"), expected, feed)
    assert after < before / 3  # what is left is of the hidden state
    kinds = [node.op_type for node in onnx.load(target.with_stem("magnified-int8")).graph.node]
    assert kinds.count("DynamicQuantizeLSTM") == 3
    assert kinds.count("Clip") == 1, "both nodes read the same parts"


def test_weights_in_parts_sum_up_and_stand_on_the_steps_of_int8():
    weight = np.random.default_rng(0).normal(size=(2, 32, FEATURES)).astype(np.float32)
    weight[0, 3] = 0
    found = weights_in_parts(weight)
    *parts, beyond = np.split(found, 5, axis=2)
    np.testing.assert_array_equal(beyond, weight)
    total = sum(factor * part for factor, part in zip((64, 16, 4, 1), parts, strict=True))
    np.testing.assert_allclose(total, weight, atol=1e-5)
    np.testing.assert_array_equal(np.abs(found).max(axis=2), np.abs(weight).max(axis=2))
    step = np.abs(weight).max(axis=2, keepdims=True) / 127
    for part in parts[:3]:
        in_steps = part / np.where(step == 0, 1, step)
        np.testing.assert_allclose(in_steps, np.round(in_steps), atol=1e-3)
    assert np.abs(parts[3]).max() <= 2.01 * step.max()


NORMAL = np.random.default_rng(0).normal(0, 0.01, size=(9, 4, FEATURES)).astype(np.float32)


@pytest.mark.parametrize("samples", [NORMAL, np.zeros_like(NORMAL)], ids=["normal", "zeros"])
def test_what_is_left_alone(tmp_path: Path, samples: np.ndarray):
    source = model(tmp_path / "model.onnx")
    target, done = magnified(source, samples)
    assert not done
    assert not target.exists()


def test_it_is_a_candidate_where_inputs_are_small_alone(tmp_path: Path):
    source = model(tmp_path / "model.onnx")
    names = {}
    for name, samples in (("energies", energies(0)), ("normal", NORMAL)):
        made = Candidates(Prepared(source, tmp_path, [(samples,)], QuantizeConfig())).makers()
        names[name] = {one for one in made if "magnified" in one}
        (tmp_path / "magnified.onnx").unlink(missing_ok=True)
    assert names == {"energies": {"dynamic, LSTM inputs magnified"}, "normal": set()}

"""Which layers are slower in int8: by profiles that are given, and by real ones."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from compress.errors import CompressError
from compress.measure.profile import ProfileConfig, profile
from compress.quantization import slower_layers as module
from compress.quantization.candidates import SLOWER, Candidates
from compress.quantization.config import QuantizeConfig
from compress.quantization.prepared import LAYERS, Prepared
from compress.quantization.slower_layers import slower_layers
from compress.report.profile_schema import Profile, ProfiledNode


@pytest.fixture
def fp32(tmp_path: Path) -> Path:
    """Convolutions with what onnxruntime fuses behind them, one depthwise, and a product."""
    random, shapes = np.random.default_rng(0), [(8, 3, 3, 3), (8, 8, 1, 1), (8, 1, 3, 3), (8, 4)]
    weights = [
        numpy_helper.from_array(random.normal(0, 0.3, shape).astype(np.float32), f"w{at}")
        for at, shape in enumerate(shapes)
    ]
    nodes = [
        helper.make_node("Conv", ["x", "w0"], ["a"], "stem", pads=[1] * 4),
        helper.make_node("Relu", ["a"], ["b"], "relu"),
        helper.make_node("Conv", ["b", "w1"], ["c"], "point"),
        helper.make_node("Add", ["c", "b"], ["d"], "sum"),
        helper.make_node("Relu", ["d"], ["e"], "relu2"),
        helper.make_node("Conv", ["e", "w2"], ["f"], "depth", pads=[1] * 4, group=8),
        helper.make_node("HardSwish", ["f"], ["g"], "swish"),
        helper.make_node("GlobalAveragePool", ["g"], ["h"], "pool"),
        helper.make_node("Flatten", ["h"], ["i"], "flat"),
        helper.make_node("MatMul", ["i", "w3"], ["y"], "head"),
    ]
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes,
        "g",
        [value("x", TensorProto.FLOAT, ["n", 3, 16, 16])],
        [value("y", TensorProto.FLOAT, ["n", 4])],
        weights,
    )
    opset = [helper.make_opsetid("", 18)]
    path = tmp_path / "prepared.onnx"
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=9), path)
    return path


def images(batch: int) -> tuple[np.ndarray, ...]:
    return (np.random.default_rng(1).normal(size=(batch, 3, 16, 16)).astype(np.float32),)


def prepared(fp32: Path) -> Prepared:
    return Prepared(fp32, fp32.parent, [images(8)], QuantizeConfig(), calls=(2, images))


NAMES = {"stem", "point", "depth", "head"}


def test_every_layer_is_found_again_in_real_profiles_of_both_files(fp32: Path):
    for kinds in ((), LAYERS):
        prepared(fp32).static(fp32.parent / "int8.onnx", kinds=kinds)
        arms = {"fp32": fp32, "int8": fp32.parent / "int8.onnx"}
        found = profile(arms, ProfileConfig(batch=2, workers=1), inputs=images)
        layers = module._Layers(onnx.load(fp32).graph.node, NAMES)
        assert {arm: set(layers.times(one.nodes)) for arm, one in found.items()} == {
            "fp32": NAMES,
            "int8": NAMES,
        }
        told = [node for node in found["int8"].nodes if node.operator == "QuantizeLinear"]
        assert any(set(layers._beside(node)) & NAMES for node in told)


def profiles(times: dict[str, dict[str, float]]) -> dict[str, Profile]:
    """Of each arm, nodes by "name operator" and their microseconds."""
    facts = {"precision": "fp32", "provider": "CPUExecutionProvider", "shapes": [], "runs": 1}
    return {
        arm: Profile.model_construct(
            nodes=[
                ProfiledNode(name=key.split()[0], operator=key.split()[1], us=us, share=0, **facts)
                for key, us in nodes.items()
            ]
        )
        for arm, nodes in times.items()
    }


def test_a_layer_is_slower_with_the_conversions_around_it(
    fp32: Path, monkeypatch: pytest.MonkeyPatch
):
    before = {"b_nchwc Conv": 10, "e_nchwc Conv": 10, "f_nchwc Conv": 10, "head MatMul": 10}
    after = {
        "stem_token_3 QLinearConv": 6,
        "x_QuantizeLinear QuantizeLinear": 5,
        "point QLinearConv": 6,
        "depth_token_4_token_5 QLinearConv": 8,
        "f_DequantizeLinear_1 DequantizeLinear": 1,
        "head_1 QGemm": 4,
        "swish HardSwish": 100,
    }
    found = profiles({"fp32": before, "int8": after})
    monkeypatch.setattr(module, "profile", lambda *_, **__: found)
    assert slower_layers(fp32, fp32, NAMES) == {"stem"}
    found["int8"].nodes.extend(profiles({"": {"f_DequantizeLinear DequantizeLinear": 2}})[""].nodes)
    assert slower_layers(fp32, fp32, NAMES) == {"stem", "depth"}
    found["fp32"].nodes.clear()
    assert slower_layers(fp32, fp32, NAMES) == set()


def test_a_file_that_cannot_be_profiled_is_told(fp32: Path):
    broken = fp32.parent / "broken.onnx"
    broken.write_bytes(b"no model")
    with pytest.raises(CompressError, match="the int8 model cannot be profiled: "):
        slower_layers(fp32, broken, NAMES, inputs=images)


def test_what_is_slower_stays_fp32_in_a_candidate(fp32: Path, monkeypatch: pytest.MonkeyPatch):
    made = prepared(fp32)
    asked = {}

    def slower(fp32: Path, int8: Path, names: list[str], **given: object) -> frozenset[str]:
        asked.update(given, names=set(names), int8=onnx.load(int8))
        return frozenset({"depth"})

    monkeypatch.setattr("compress.quantization.candidates.slower_layers", slower)
    Candidates(made).makers()[SLOWER](fp32.parent / "made.onnx")
    assert asked["names"] == NAMES
    assert (asked["batch"], asked["inputs"]) == (2, images)
    assert made.slower == {"depth"}
    graph = onnx.load(fp32.parent / "made.onnx").graph
    restored = {node.output[0] for node in graph.node if node.op_type == "DequantizeLinear"}
    int8 = {node.name for node in graph.node if node.name in NAMES and node.input[1] in restored}
    assert int8 == NAMES - {"depth"}


@pytest.mark.parametrize(("found", "told"), [(set(), "no layer is"), (NAMES, "every layer is")])
def test_it_is_left_out_for_size_and_where_nothing_or_all_is_slower(
    fp32: Path, monkeypatch: pytest.MonkeyPatch, found: set[str], told: str
):
    assert SLOWER not in Candidates(prepared(fp32), "size").makers()
    slower = frozenset(found)
    monkeypatch.setattr("compress.quantization.candidates.slower_layers", lambda *_, **__: slower)
    with pytest.raises(CompressError, match=f"{told} slower in int8 than in fp32"):
        Candidates(prepared(fp32)).makers()[SLOWER](fp32.parent / "made.onnx")

"""Which layers lose time in int8: the arithmetic on times that are given, and real profiles."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest
from chains import StaticMaker, batches, convolutions, products, saved

from compress.errors import ModelFileError
from compress.measure.trace import Node, read_trace
from compress.quantization import int8_speed
from compress.quantization.dynamic import quantize_dynamic_int8
from compress.quantization.int8_speed import Conversion, conversions, slower, slower_in_int8
from compress.quantization.layers import int8_layers, layers
from compress.quantization.marked import layer_of_tensors, marked, owner_of, times
from compress.report.profile_schema import Profile, ProfiledNode
from compress.runtime.onnxruntime import Feeds, Session

AB = frozenset({"a", "b"})
#: Quantize, a, b, and make it fp32 again: 100 values everywhere.
CHAIN = [
    Conversion("", ("a",), "node 0", ("node 1",)),
    Conversion("a", ("b",), "node 2", ("node 3",)),
    Conversion("b", ("node 9",), "node 4", ("node 5",)),
]
SIZES = dict.fromkeys(("a", "b", "node 0", "node 5", "node 9"), 100)


@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [
        # a: 11 to quantize its input; in fp32 as much to quantize its output for b, 133.2 in all.
        (122.0, 100.0, set()),
        (123.0, 100.0, {"a"}),
        # b: 5 to restore its output; in fp32 as much to restore its input, which a made: 126.
        (100.0, 120.0, set()),
        (100.0, 122.0, {"b"}),
    ],
)
def test_conversions_count_on_both_sides(a: float, b: float, expected: set[str]):
    int8 = {"a": a, "b": b, "node 0": 11.0, "node 5": 5.0}
    fp32 = {"a": 100.0, "b": 100.0}
    assert slower(fp32, int8, SIZES, CHAIN, AB, margin=0.2) == expected


def test_a_conversion_that_two_layers_need_is_shared():
    shared = [Conversion("", ("a", "b"), "node 0", ("node 1",))]
    int8 = {"a": 100.0, "b": 100.0, "node 0": 60.0}
    assert slower({"a": 110.0, "b": 100.0}, int8, SIZES, shared, AB, margin=0.2) == {"b"}
    alone = [Conversion("", ("a",), "node 0", ("node 1",))]
    assert slower({"a": 110.0, "b": 100.0}, int8, SIZES, alone, AB, margin=0.2) == {"a"}


def test_what_is_in_one_profile_only_is_not_named():
    assert slower({"a": 1.0}, {"a": 1.0, "b": 100.0}, {}, [], AB, margin=0.2) == frozenset()


def test_conversions_of_a_graph(tmp_path: Path):
    source = saved(convolutions(), tmp_path)
    make = StaticMaker(source, batches((2, 8, 8)))
    make(frozenset({"conv1"}), tmp_path / "int8.onnx")
    graph = onnx.load(tmp_path / "int8.onnx").graph
    names = int8_layers(onnx.load(source), onnx.load(tmp_path / "int8.onnx"))
    found = {(edge.maker, edge.users) for edge in conversions(graph, names)}
    places = {node.name: f"node {at}" for at, node in enumerate(graph.node)}
    assert found == {
        ("", ("conv0",)),
        ("conv0", (places["relu0"],)),
        ("", ("conv2",)),
        ("conv2", (places["relu2"],)),
        ("", ("head",)),
        ("head", ()),
    }


def ran(path: Path, folder: Path, samples: Feeds) -> list[Node]:
    """The nodes that onnxruntime made of a file and ran."""
    session = Session(path, trace=folder / "trace")
    session.every_output(samples)
    return list(read_trace(session.end_trace())[0].nodes.values())


def owners_in_profile(source: Path, path: Path, folder: Path, samples: list) -> dict[str, str]:
    """Owner to the types of the operators that onnxruntime ran for it."""
    copy, marks = marked(onnx.load(path), layer_of_tensors(onnx.load(source)))
    onnx.save(copy, folder / "marked.onnx")
    found: dict[str, str] = {}
    for node in ran(folder / "marked.onnx", folder, samples[0]):
        owner = owner_of(node.name, marks)
        if owner is not None:
            found[owner] = " ".join([*found.get(owner, "").split(), node.operator])
    return found


def test_the_runtime_s_nodes_are_told_by_their_names(tmp_path: Path):
    source, samples = saved(convolutions(), tmp_path), batches((2, 8, 8))
    make, layered = StaticMaker(source, samples), {"conv0", "conv1", "conv2", "head"}
    make(frozenset({"conv1"}), tmp_path / "int8.onnx")
    fp32 = owners_in_profile(source, source, tmp_path, samples)
    int8 = owners_in_profile(source, tmp_path / "int8.onnx", tmp_path, samples)
    assert layered <= fp32.keys() & int8.keys()
    assert int8["conv0"].split()[0] == "QLinearConv"
    assert "QLinear" not in int8["conv1"]
    assert int8["head"].split() == ["QLinearMatMul", "DequantizeLinear"]


def test_nodes_without_names_are_told_by_their_tensors(tmp_path: Path):
    source, samples = saved(products(2, width=96), tmp_path), batches((96,))
    quantize_dynamic_int8(source, tmp_path / "int8.onnx")
    found = owners_in_profile(source, tmp_path / "int8.onnx", tmp_path, samples)
    assert "DynamicQuantizeMatMul" in found["layer0"]
    assert "DynamicQuantizeMatMul" in found["layer1"]


def node(name: str, us: float, shape: str = "fp32 2×8") -> ProfiledNode:
    provider = "CPUExecutionProvider"
    fields = {"name": name, "operator": "Conv", "precision": "fp32", "provider": provider}
    return ProfiledNode(**fields, shapes=[shape], runs=1, us=us, share=0.1)


def test_times_of_owners():
    nodes = [node("<0>", 3), node("<0>0_nchwc", 4, "uint8 2×8×3"), node("y_nchwc_2", 5)]
    whole = Profile.model_construct(nodes=[*nodes, node("z", 9)])
    us, sizes = times(whole, {"0": "conv0", "y": "conv1"})
    assert us == {"conv0": 7, "conv1": 5}
    assert sizes == {"conv0": 48, "conv1": 16}


def test_slow_layers_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    source, samples = saved(convolutions(), tmp_path), batches((2, 8, 8))
    make, seen = StaticMaker(source, samples), []
    make(frozenset(), tmp_path / "int8.onnx")

    def profile(arms, config, *, inputs, progress):
        """The nodes that really run, with times that are given: none is slow at will."""
        seen.append((config.batch, config.threads, inputs(config.batch)))
        found = {}
        for arm, path in arms.items():
            us = {"Conv": 10.0, "MatMul": 10.0, "QLinearConv": 5.0, "QLinearMatMul": 50.0}
            nodes = [
                node(entry.name, us.get(entry.operator, 0.0))
                for entry in ran(path, tmp_path, samples[0])
            ]
            found[arm] = Profile.model_construct(nodes=nodes)
        return found

    monkeypatch.setattr(int8_speed, "profile", profile)
    assert slower_in_int8(source, tmp_path / "int8.onnx", samples[0]) == {"head"}
    assert seen == [(16, 1, samples[0])]


def test_layers_without_names_are_refused(tmp_path: Path):
    model = products(2)
    for node in model.graph.node:
        node.name = ""
    source = saved(model, tmp_path)
    assert list(layers(model)) == [""]
    with pytest.raises(ModelFileError, match="a layer has no name"):
        slower_in_int8(source, source, batches((8,))[0])

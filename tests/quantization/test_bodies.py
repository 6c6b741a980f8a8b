"""Int8 in the bodies of If, Loop and Scan: against the same weights in fp32, and what is told."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from nested import RANDOM, body, branches, model, normal, run, saved, tensors, value
from onnx import TensorProto, helper

from compress.export.bodies import graphs
from compress.export.graph import operators, shorten_names
from compress.export.loading import load_onnx
from compress.quantization.account import account_of_nodes
from compress.quantization.config import QuantizeConfig
from compress.quantization.dynamic import quantize_dynamic_int8
from compress.quantization.equalization import equalize
from compress.quantization.static import quantize_static_int8
from compress.quantization.weight_only import quantize_symmetric, quantize_weights

X = value("x", ["n", 128])
CONDITION = value("c", [], bool)


@pytest.fixture(autouse=True)
def same_numbers():
    """Each test draws the same, whichever tests ran before it in its process."""
    RANDOM.bit_generator.state = np.random.default_rng(0).bit_generator.state


def node(kind, inputs, output, **settings):
    outputs = [output] if isinstance(output, str) else output
    return helper.make_node(kind, inputs, outputs, name=f"{kind} of {outputs[-1]}", **settings)


def rows(count=5, width=128):
    """Exact as uint8, so that all that is lost is in the weight."""
    found = np.rint(np.random.default_rng(1).uniform(-0.5, 254.5, (count, width)))
    found[0, :2] = (0, 255)
    return found.astype(np.float32)


def in_int8(weight, axis=1):
    values, scale = quantize_symmetric(weight, axis)
    return values * scale


def close(found, expected, share=1e-4):
    np.testing.assert_allclose(found, expected, atol=share * np.abs(expected).max())


def kinds(path):
    return [[n.op_type for n in graph.node] for graph in graphs(onnx.load(path).graph)]


@pytest.fixture(params=["dynamic", "weight-only"])
def quantize(request):
    return {"dynamic": quantize_dynamic_int8, "weight-only": quantize_weights}[request.param]


def product(weight="w", output="p", constants=None):
    return body([node("MatMul", ["x", weight], output)], [output], constants)


def test_both_branches_with_weights_of_the_same_name(quantize, tmp_path):
    """Each branch has another `w`, and outside there is a third."""
    here, there, outside = normal(128, 96), normal(128, 96), normal(96, 128)
    chosen = branches(
        "c", ["a"], product("w", "p", {"w": here}), product("w", "q", {"w": there}), "either"
    )
    source = model(
        [chosen, node("MatMul", ["a", "w"], "y")], [X, CONDITION], [value("y")], {"w": outside}
    )
    target = tmp_path / "b.onnx"
    quantize(saved(source, tmp_path / "a.onnx"), target)
    onnx.checker.check_model(onnx.load(target))
    entries = account_of_nodes(onnx.load(target))
    assert len(entries) == 3
    assert all("int8" in entry["precision"] for entry in entries)
    for condition, weight in ((True, here), (False, there)):
        (found,) = run(target, rows(), np.array(condition))
        share = 1e-4 if quantize is quantize_weights else 0.02  # the second product's activations
        close(found, rows() @ in_int8(weight) @ in_int8(outside), share)


def test_an_outer_weight_that_bodies_and_the_outer_graph_use_is_stored_once(quantize, tmp_path):
    weight = normal(128, 128)
    source = model(
        [branches("c", ["a"], product(), product(output="q")), node("MatMul", ["a", "w"], "y")],
        [X, CONDITION],
        [value("y")],
        {"w": weight},
    )
    target = tmp_path / "b.onnx"
    quantize(saved(source, tmp_path / "a.onnx"), target)
    stored = [t for g in graphs(onnx.load(target).graph) for t in g.initializer]
    assert [t.data_type for t in stored if len(t.dims) == 2].count(TensorProto.INT8) == 1
    assert not any(t.data_type == TensorProto.FLOAT and t.dims == [128, 128] for t in stored)
    (found,) = run(target, rows(), np.array(True))
    close(found, rows() @ in_int8(weight) @ in_int8(weight), 0.02)


def test_if_in_if(quantize, tmp_path):
    inner = branches("d", ["z"], product("v", "p", {"v": normal(128, 96)}), product("w", "q"))
    outer = branches("c", ["y"], body([inner], ["z"]), product("w", "r"), "outer")
    source = model(
        [outer], [X, CONDITION, value("d", [], bool)], [value("y")], {"w": normal(128, 96)}
    )
    target = tmp_path / "b.onnx"
    quantize(saved(source, tmp_path / "a.onnx"), target)
    precision = "int8 (dynamic)" if quantize is quantize_dynamic_int8 else "fp32, int8 weights"
    assert operators(onnx.load(target)) == {"MatMul": {precision: 3}}
    for c, d in ((True, True), (True, False), (False, True)):
        given = (normal(5, 128), np.array(c), np.array(d))
        close(run(target, *given)[0], run(tmp_path / "a.onnx", *given)[0], 0.03)


def loop(nodes, state="h", constants=None, result="y"):
    """Three times; the body makes `next`."""
    step = body(
        [*nodes, node("Identity", ["more"], "go")],
        [value("go", [], bool), "next"],
        constants,
        [value("i", [], np.int64), value("more", [], bool), value(state)],
    )
    return helper.make_node("Loop", ["times", "", "x"], [result], name="loop", body=step)


def test_products_in_a_loop(quantize, tmp_path):
    nodes = [node("Gemm", ["h", "w", "b"], "p", transB=1), node("Tanh", ["p"], "next")]
    constants = {"w": normal(128, 128) / 8, "times": np.array(3)}
    source = model([loop(nodes, constants={"b": normal(128)})], [X], [value("y")], constants)
    target = tmp_path / "b.onnx"
    quantize(saved(source, tmp_path / "a.onnx"), target)
    x = normal(5, 128)
    close(run(target, x)[0], run(tmp_path / "a.onnx", x)[0], 0.06)
    (entry,) = account_of_nodes(onnx.load(target))
    assert entry["name"].startswith("loop/body/")
    assert "int8" in entry["precision"]


def test_a_sum_in_a_loop_is_not_taken_into_the_product_before_it(tmp_path):
    nodes = [node("Add", ["p", "bias"], "s"), node("Add", ["s", "h"], "next")]
    source = model(
        [node("MatMul", ["x", "w"], "p"), loop(nodes)],
        [X],
        [value("y")],
        {"w": normal(128, 128), "bias": normal(128), "times": np.array(3)},
    )
    target = tmp_path / "b.onnx"
    quantize_dynamic_int8(saved(source, tmp_path / "a.onnx"), target)
    assert kinds(target) == [["DynamicQuantizeMatMul", "Loop"], ["Add", "Add", "Identity"]]
    x = normal(5, 128)
    close(run(target, x)[0], run(tmp_path / "a.onnx", x)[0], 0.03)


def test_a_weight_that_a_loop_starts_from_stays_fp32(tmp_path):
    """What changes from step to step is no constant in the body, though it is one outside."""
    step = [node("MatMul", ["h", "h"], "t"), node("Mul", ["t", "small"], "next")]
    start = loop(step, result="z")
    start.input[2] = "w"
    source = model(
        [start, node("MatMul", ["x", "w"], "a"), node("MatMul", ["a", "z"], "y")],
        [X],
        [value("y")],
        {"w": normal(128, 128), "small": np.float32(0.01), "times": np.array(3)},
    )
    assert quantize_weights(saved(source, tmp_path / "a.onnx"), tmp_path / "b.onnx") == 0
    quantize_dynamic_int8(tmp_path / "a.onnx", tmp_path / "c.onnx")
    assert operators(onnx.load(tmp_path / "c.onnx")) == {"MatMul": {"fp32": 2, "int8 (dynamic)": 1}}
    whys = {e["name"]: e.get("why") for e in account_of_nodes(onnx.load(tmp_path / "c.onnx"))}
    assert whys["loop/body/MatMul of t"] == (
        "both sides are computed: there are no weights to quantize"
    )


def test_a_product_in_a_scan(quantize, tmp_path):
    nodes = [
        node("MatMul", ["h", "w"], "p"),
        node("Add", ["p", "row"], "s"),
        node("Tanh", ["s"], "next"),
        node("Identity", ["next"], "each"),
    ]
    step = body(nodes, ["next", "each"], {}, [value("h", [1, 128]), value("row", [1, 128])])
    scan = helper.make_node(
        "Scan", ["start", "x"], ["last", "y"], name="scan", body=step, num_scan_inputs=1
    )
    constants = {"w": normal(128, 128) / 8, "start": np.zeros((1, 128), np.float32)}
    three = ["n", 1, 128]
    source = model([scan], [value("x", three)], [value("y", three)], constants)
    target = tmp_path / "b.onnx"
    quantize(saved(source, tmp_path / "a.onnx"), target)
    x = normal(6, 1, 128)
    close(run(target, x)[0], run(tmp_path / "a.onnx", x)[0], 0.06)
    assert account_of_nodes(onnx.load(target))[0]["precision"] != "fp32"


def recurrent(kind, gates, constants):
    """A layer over (time, batch, 128) in the then branch, its weights in the branch."""
    constants |= {"w": normal(1, gates * 64, 128) / 8, "r": normal(1, gates * 64, 64) / 8}
    settings = {"hidden_size": 64} | ({"linear_before_reset": 1} if kind == "GRU" else {})
    nodes = [
        node(kind, ["x", "w", "r"], ["each", "last"], **settings),
        node("Squeeze", ["last", "zero"], "z"),
    ]
    otherwise = body(
        [node("ReduceMean", ["x", "zero"], "m", keepdims=0), node("MatMul", ["m", "v"], "n")],
        ["n"],
        {"v": normal(128, 64)},
    )
    return model(
        [branches("c", ["y"], body(nodes, ["z"], constants), otherwise, "either")],
        [value("x", ["t", "n", 128]), CONDITION],
        [value("y")],
        {"zero": np.array([0])},
    )


def test_an_lstm_in_a_branch(quantize, tmp_path):
    target = tmp_path / "b.onnx"
    quantize(saved(recurrent("LSTM", 4, {}), tmp_path / "a.onnx"), target)
    found = {entry["name"]: entry["precision"] for entry in account_of_nodes(onnx.load(target))}
    precision = "int8 (dynamic)" if quantize is quantize_dynamic_int8 else "fp32, int8 weights"
    assert sorted(found.values()) == [precision, precision]
    assert any(name.startswith("either/then_branch/") for name in found)
    for condition in (True, False):
        given = (normal(7, 3, 128), np.array(condition))
        close(run(target, *given)[0], run(tmp_path / "a.onnx", *given)[0], 0.03)


def test_a_gru_in_a_branch_step_by_step(tmp_path):
    target = tmp_path / "b.onnx"
    quantize_dynamic_int8(saved(recurrent("GRU", 3, {}), tmp_path / "a.onnx"), target, by_step=True)
    counts = operators(onnx.load(target))
    assert counts == {"MatMul": {"int8 (dynamic)": 3}}
    given = (normal(7, 3, 128), np.array(True))
    close(run(target, *given)[0], run(tmp_path / "a.onnx", *given)[0], 0.05)


def test_an_embedding_in_a_branch(quantize, tmp_path):
    table = normal(100, 64)
    then = body([node("Gather", ["table", "i"], "g")], ["g"], {"table": table})
    otherwise = body([node("Cast", ["i"], "f", to=1), node("Unsqueeze", ["f", "one"], "u")], ["u"])
    source = model(
        [branches("c", ["y"], then, otherwise)],
        [value("i", ["n"], np.int64), CONDITION],
        [value("y")],
        {"one": np.array([1])},
    )
    target = tmp_path / "b.onnx"
    quantize(saved(source, tmp_path / "a.onnx"), target)
    assert operators(onnx.load(target)) == {"Gather": {"fp32, int8 weights": 1}}
    (found,) = run(target, np.array([3, 99, 0]), np.array(True))
    close(found, in_int8(table, 0)[[3, 99, 0]])


def convolution(name):
    constants = {"k": normal(8, 3, 3, 3)}
    return body([node("Conv", ["x", "k"], name, pads=[1, 1, 1, 1])], [name], constants)


def test_why_convolutions_in_bodies_stay_fp32_beside_dynamic_int8(tmp_path):
    source = model(
        [
            branches("c", ["y"], convolution("p"), convolution("q"), "either"),
            node("MatMul", ["r", "v"], "z"),
        ],
        [value("x", ["n", 3, 8, 8]), value("r", ["n", 128]), CONDITION],
        [value("y", ["n", 8, 8, 8]), value("z")],
        {"v": normal(128, 96)},
    )
    target = tmp_path / "b.onnx"
    quantize_dynamic_int8(saved(source, tmp_path / "a.onnx"), target)
    found = {e["name"]: e.get("why", "") for e in account_of_nodes(load_onnx(target))}
    why = "convolutions are faster in fp32 than with ranges taken in each call"
    assert found == {
        "either/else_branch/Conv of q": why,
        "either/then_branch/Conv of p": why,
        "MatMul of z": "",
    }


def test_integers_inside_of_a_branch_are_seen(tmp_path):
    """In `Constant` nodes as well, and though the other branch has fp32 under the same names."""
    (stored,) = tensors({"w": np.ones((128, 96), np.int8)})
    nodes = [
        helper.make_node("Constant", [], ["w"], value=stored),
        node("Cast", ["w"], "wf", to=1),
        node("Mul", ["wf", "scale"], "ws"),
        node("MatMul", ["x", "ws"], "p"),
    ]
    plain = {"ws": normal(128, 96)}
    source = model(
        [branches("c", ["y"], body(nodes, ["p"]), product("ws", "q", plain))],
        [X, CONDITION],
        [value("y")],
        {"scale": np.float32(0.1)},
    )
    counts = operators(load_onnx(saved(source, tmp_path / "a.onnx")))
    assert counts == {"MatMul": {"fp32, int8 weights": 1, "fp32": 1}}


def test_static_int8_beside_an_if_that_reads_what_is_quantized(tmp_path):
    """onnxruntime's quantizer puts the If before the product that only its branches read."""
    then = body([node("Relu", ["a"], "t")], ["t"])
    otherwise = body([node("MatMul", ["a", "w"], "o")], ["o"])
    source = model(
        [
            node("MatMul", ["x", "w"], "a"),
            branches("c", ["b"], then, otherwise),
            node("MatMul", ["b", "w"], "y"),
        ],
        [X, CONDITION],
        [value("y", ["n", 128])],
        {"w": normal(128, 128) / 8},
    )
    ranges = {"x": (-4.0, 4.0), "a": (-8.0, 8.0), "b": (-8.0, 8.0), "y": (-12.0, 12.0)}
    path, target = saved(source, tmp_path / "a.onnx"), tmp_path / "b.onnx"
    quantize_static_int8(path, target, ranges, QuantizeConfig(), kinds=("MatMul",))
    counts = operators(load_onnx(target))["MatMul"]
    assert counts["int8 (static)"] >= 1
    for condition in (True, False):
        given = (normal(5, 128).clip(-4, 4), np.array(condition))
        close(run(target, *given)[0], run(path, *given)[0], 0.05)


def test_layers_whose_values_bodies_read_are_not_equalized(tmp_path):
    """Two products in a row; a branch reads what is between them, or the second one's weight."""
    product_1, product_2 = node("MatMul", ["x", "v"], "a"), node("MatMul", ["a", "w"], "b")
    weights = {"v": normal(128, 96) * np.geomspace(0.1, 10, 96, dtype=np.float32)}
    weights |= {"w": normal(96, 64)}
    plain = body([node("Relu", ["b"], "r")], ["r"])
    for read, count in (("b", 1), ("a", 0), ("w", 0)):
        kept = {"a": node("Identity", ["a"], "k"), "w": node("MatMul", ["a2", "w"], "k")}
        extra = [node("Neg", ["x96"], "a2")] * (read == "w")
        nodes = [kept[read], node("Identity", ["k"], "z")] if read in kept else []
        nodes = [*extra, *nodes] if nodes else [node("Neg", ["b"], "z")]
        source = model(
            [product_1, product_2, branches("c", ["y"], body(nodes, ["z"]), plain)],
            [X, CONDITION, value("x96", ["n", 96])],
            [value("y")],
            weights,
        )
        path = saved(source, tmp_path / "a.onnx")
        assert equalize(path, tmp_path / "b.onnx") == count
        for condition in (True, False):
            given = (normal(5, 128), np.array(condition), normal(5, 96))
            close(run(tmp_path / "b.onnx", *given)[0], run(path, *given)[0])


def test_short_names_hide_nothing_that_bodies_share(tmp_path):
    """`w` is another constant in each branch and outside, and `x` an input of the loop as well."""
    step = [node("MatMul", ["x", "w"], "p"), node("Tanh", ["p"], "next")]
    inner = loop(step, "x", {"w": normal(128, 128) / 8}, "z")
    then = body([inner], ["z"], {"times": np.array(2)})
    source = model(
        [
            branches("c", ["a"], then, product("w", "q", {"w": normal(128, 128)})),
            node("MatMul", ["a", "w"], "y"),
        ],
        [X, CONDITION],
        [value("y")],
        {"w": normal(128, 64)},
    )
    path = saved(source, tmp_path / "a.onnx")
    short = shorten_names(onnx.load(path))
    onnx.save(short, tmp_path / "b.onnx")
    for condition in (True, False):
        given = (normal(5, 128), np.array(condition))
        np.testing.assert_array_equal(run(tmp_path / "b.onnx", *given)[0], run(path, *given)[0])
    assert all(len(n.output[0]) <= 2 for g in graphs(short.graph) for n in g.node)

"""Constants, names and nodes that pass values on, in graphs with bodies, too."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from sketch import Sketch, kinds, run

from compress.quantization.rewriting.constants import (
    drop_passing,
    flush_tiny_weights,
    inline_functions,
    lift_constants,
    name_nodes,
    take_weights_off_inputs,
)


def constant(name, **value):
    return helper.make_node("Constant", [], [name], **value)


def branches(g, condition):
    """An If whose branches add a constant of the outer graph, and multiply by one of their own."""
    own = constant("own", value=numpy_helper.from_array(np.float32(3), "own"))
    outer = constant("outer", value_float=2.0)
    g.nodes.append(outer)

    def branch(kind, nodes, other):
        result = helper.make_tensor_value_info(f"{kind}_result", TensorProto.FLOAT, None)
        nodes = [*nodes, helper.make_node(kind, ["x", other], [result.name])]
        return helper.make_graph(nodes, kind, [], [result])

    parts = {"then_branch": branch("Add", [], "outer"), "else_branch": branch("Mul", [own], "own")}
    return g.If(condition, **parts)


def both_branches(model):
    x = np.arange(4, dtype=np.float32)
    return [run(model, x, np.array(value))[0].tolist() for value in (True, False)]


def nested():
    g = Sketch(13)
    g.input("x", (4,))
    condition = g.input("condition", (), bool)
    return g.output(g.Identity(branches(g, g.Identity(condition)))).model()


def test_constants_of_bodies_and_for_bodies():
    model = nested()
    expected = [[2, 3, 4, 5], [0, 3, 6, 9]]
    assert both_branches(model) == expected
    assert lift_constants(model) == 2
    assert "Constant" not in kinds(model)
    assert [tensor.name for tensor in model.graph.initializer] == ["outer"]
    assert both_branches(model) == expected


def test_every_kind_of_constant():
    g = Sketch(13)
    tensor = numpy_helper.from_array(np.array([[1, 2]], np.float32), "")
    given = {
        "value": (tensor, np.array([[1, 2]], np.float32)),
        "value_float": (0.5, np.float32(0.5)),
        "value_floats": ([0.5, 1], np.array([0.5, 1], np.float32)),
        "value_int": (3, np.int64(3)),
        "value_ints": ([3, 4], np.array([3, 4])),
    }
    g.nodes = [constant(name, **{name: value}) for name, (value, _) in given.items()]
    g.nodes += [helper.make_node("Identity", [name], [f"{name}_"]) for name in given]
    g.outputs = [helper.make_tensor_value_info(f"{name}_", 1, None) for name in given]
    g.nodes.append(constant("result", value_int=1))
    g.nodes.append(constant("text", value_string="a"))
    g.outputs.append(helper.make_tensor_value_info("result", TensorProto.INT64, []))
    model = g.model()
    assert lift_constants(model) == 5
    assert kinds(model)["Constant"] == 2  # what is an output, and what is text
    for tensor in model.graph.initializer:
        values = numpy_helper.to_array(tensor)
        np.testing.assert_array_equal(values, given[tensor.name][1])
        assert values.dtype == given[tensor.name][1].dtype
        assert values.shape == given[tensor.name][1].shape


def test_names():
    g = Sketch(13)
    x = g.input("x", (4,))
    g.output(g.Relu(g.Relu(g.Relu(g.Relu(x), name="Relu_1"), name="a"), name="a"))
    model = g.model()
    assert name_nodes(model) == 2
    assert [node.name for node in model.graph.node] == ["Relu_0", "Relu_1", "a", "Relu_2"]
    assert name_nodes(model) == 0


def test_names_in_bodies_differ_from_those_outside():
    model = nested()
    name_nodes(model)
    names = [node.name for node in model.graph.node]
    for attribute in next(n for n in model.graph.node if n.op_type == "If").attribute:
        names += [node.name for node in attribute.g.node]
    assert len(names) == len(set(names)) == 7


def test_identity_also_where_a_body_reads_it():
    model = nested()
    lift_constants(model)
    expected = both_branches(model)
    assert drop_passing(model) == 1  # the other one gives an output
    assert kinds(model) == {"If": 1, "Identity": 1}
    assert both_branches(model) == expected


def test_dropout():
    g = Sketch(13)
    x = g.input("x", (4,))
    kept, _ = g.Dropout(x, outputs=2)
    in_training = g.Dropout(g.Neg(kept), 0.5, g.constant(True, bool))
    outside, mask = g.Dropout(g.Neg(in_training), 0.5, g.constant(False, bool), outputs=2)
    g.output(g.Neg(g.Dropout(outside))).output(g.Dropout(x)).output(mask, kind=bool)
    model = g.model()
    assert drop_passing(model) == 2  # not the one for training, nor those that give outputs
    assert kinds(model) == {"Neg": 3, "Dropout": 3}
    x = np.ones(4, np.float32)
    np.testing.assert_array_equal(run(model, x)[1], x)


def test_casts_to_what_a_value_is():
    g = Sketch(13)
    same = g.Cast(g.input("x", (4,)), to=TensorProto.FLOAT)
    whole = g.Cast(g.Neg(same), to=TensorProto.INT64)
    unknown = g.Cast(g.Neg(g.Cast(whole, to=TensorProto.FLOAT)), to=TensorProto.FLOAT)
    g.output(g.Neg(unknown)).output(g.Cast("x", to=TensorProto.FLOAT))
    model = g.model()
    x = np.array([1, 2.5, -3.5, 0], np.float32)
    expected = run(model, x)
    assert drop_passing(model) == 1  # what a Neg makes has no declared type
    model = onnx.shape_inference.infer_shapes(model)
    assert drop_passing(model) == 1
    assert kinds(model) == {"Cast": 3, "Neg": 3}
    for want, got in zip(expected, run(model, x), strict=True):
        np.testing.assert_array_equal(got, want)


def as_inputs(version, *, all_of_them):
    g = Sketch(11)
    result = g.Add(g.Mul(g.input("x", (2,)), 2), 3)
    model = g.output(result).model()
    for tensor in model.graph.initializer[: 2 if all_of_them else 1]:
        value = helper.make_tensor_value_info(tensor.name, TensorProto.FLOAT, tensor.dims)
        model.graph.input.append(value)
    model.ir_version = version
    return model


def test_weights_that_are_listed_as_inputs():
    for version in (3, 6):
        model = as_inputs(version, all_of_them=True)
        assert take_weights_off_inputs(model) == 2
        assert [value.name for value in model.graph.input] == ["x"]
        assert model.ir_version >= 4
        assert run(model, np.array([1, 2], np.float32))[0].tolist() == [5, 7]


def test_a_default_that_callers_may_replace_stays():
    model = as_inputs(6, all_of_them=False)
    assert take_weights_off_inputs(model) == 0
    assert len(model.graph.input) == 2


def test_functions():
    body = [helper.make_node("Mul", ["a", "a"], ["s"]), helper.make_node("Add", ["s", "a"], ["r"])]
    opset = [helper.make_opsetid("", 13)]
    function = helper.make_function("mine", "Square", ["a"], ["r"], body, opset)
    g = Sketch(13)
    g.output(g.Square(g.input("x", (2,)), domain="mine"))
    model = g.model()
    model.functions.append(function)
    model.opset_import.append(helper.make_opsetid("mine", 1))
    assert inline_functions(model) == 1
    assert kinds(model) == {"Mul": 1, "Add": 1}
    assert not model.functions
    assert run(model, np.array([2, 3], np.float32))[0].tolist() == [6, 12]


def test_weights_next_to_nothing_become_zero():
    g = Sketch()
    weights = np.float32([[1, -1e-40, 1e-31], [2, 0, -3e-25]])
    alone = np.float32([1e-40, 1e-39, 0])  # of these not all are nothing to each other
    y = g.Add(g.MatMul(g.input(shape=("n", 2)), g.constant(weights)), g.constant(alone))
    model = g.output(y, ("n", 3)).model()
    assert flush_tiny_weights(model) == 1
    first, second = map(numpy_helper.to_array, model.graph.initializer)
    np.testing.assert_array_equal(first, np.float32([[1, 0, 0], [2, 0, -3e-25]]))
    np.testing.assert_array_equal(second, alone)
    assert flush_tiny_weights(model) == 0

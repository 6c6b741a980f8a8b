"""A Loop without what is the same in each of its steps, and without products that need not wait.

A recurrent layer of Keras with a mask, exported by tf2onnx, is a Loop: its weights are states that
no step changes, so that no quantizer finds them, and each step multiplies its own input alone by
them, one row at a time. All steps at once are one product, which takes a fraction of the time.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper

from compress.export.bodies import bodies
from compress.quantization.editing import attributes
from compress.quantization.rewriting.files import keep_only
from compress.quantization.scopes import all_names, defined_names, fresh_name, rename, unique_names

_ONNX = ("", "ai.onnx")
#: Inputs of a body of Loop before its states: the number of the step, and whether there is one.
_BEFORE = 2

_Constants = dict[str, TensorProto]
_WHOLE = (TensorProto.INT32, TensorProto.INT64)
#: Changes a Loop and its body; gives in how many places, and the nodes that go in front of it.
_Change = Callable[[NodeProto, GraphProto, _Constants], tuple[int, list[NodeProto]]]


def free_states(model: ModelProto) -> int:
    """States that no step of a Loop changes are read from outside; returns how many there were."""
    unique_names(model)
    return _in_loops(model.graph, {}, lambda loop, body, _: _free(loop, body))


def multiply_at_once(model: ModelProto) -> int:
    """Products of a constant and what each step reads of a value from outside, for all steps.

    Only where it is read by the number of the step: of any other index it is not known how many
    rows are ever needed.

    Returns:
        How many products went in front of their Loop.
    """
    unique_names(model)
    names = all_names(model)
    return _in_loops(model.graph, {}, partial(_multiply, names))


def _in_loops(graph: GraphProto, outer: _Constants, change: _Change) -> int:
    """Inner ones first; the change is given the constants that a body can read from outside."""
    constants, count = outer | _constants(graph), 0
    for place in reversed(range(len(graph.node))):
        node, before = graph.node[place], list[NodeProto]()
        for _, body in bodies(node):
            count += _in_loops(body, constants, change)
            if node.op_type == "Loop" and node.domain in _ONNX:
                places, before = change(node, body, constants)
                count += places
        for new in reversed(before):
            graph.node.insert(place, new)
    return count


def _constants(graph: GraphProto) -> _Constants:
    inputs = {value.name for value in graph.input}
    return {tensor.name: tensor for tensor in graph.initializer if tensor.name not in inputs}


def _free(loop: NodeProto, body: GraphProto) -> tuple[int, list[NodeProto]]:
    made = {name: node for node in body.node for name in node.output}
    results = [_passed_on(value.name, made) for value in body.output]
    before, count = list[NodeProto](), 0
    for place in reversed(range(len(loop.input) - _BEFORE)):
        initial, state = loop.input[_BEFORE + place], body.input[_BEFORE + place].name
        if not initial or results[1 + place] != state or results.count(state) > 1:
            continue
        result = loop.output[place] if place < len(loop.output) else ""
        del loop.input[_BEFORE + place], body.input[_BEFORE + place], body.output[1 + place]
        del loop.output[place : place + 1]
        same = [name for name in made if _passed_on(name, made) == state]
        _remove(body, same)
        rename(body, dict.fromkeys([state, *same], initial))
        before += [helper.make_node("Identity", [initial], [result])] if result else []
        count += 1
    return count, before


def _remove(body: GraphProto, results: list[str]) -> None:
    keep_only(body.node, lambda node: not set(node.output) <= set(results))


def _passed_on(name: str, made: dict[str, NodeProto]) -> str:
    """The value that comes out under this name, before any Identity."""
    while name in made and made[name].op_type == "Identity" and made[name].domain in _ONNX:
        name = made[name].input[0]
    return name


def _multiply(
    names: set[str], loop: NodeProto, body: GraphProto, constants: _Constants
) -> tuple[int, list[NodeProto]]:
    made = {name: node for node in body.node for name in node.output}
    inside, before = defined_names(body), list[NodeProto]()
    steps = [name for name in _inputs(body) if _counts_steps(name, loop, body, made, constants)]
    for node in body.node:
        weight = constants.get(node.input[1]) if node.op_type == "MatMul" else None
        read = made.get(node.input[0]) if weight is not None else None
        if weight is None or read is None or node.input[1] in inside or len(weight.dims) != 2:
            continue
        if read.op_type != "Gather" or attributes(read).get("axis", 0) != 0:
            continue
        source, index = read.input
        if index not in steps or source in inside or source in constants:
            continue
        product = fresh_name(f"{node.output[0]}_of_all_steps", names)
        before.append(helper.make_node("MatMul", [source, node.input[1]], [product], product))
        node.op_type, node.input[:] = "Gather", [product, index]
        node.attribute.append(helper.make_attribute("axis", 0))
    return len(before), before


def _inputs(body: GraphProto) -> list[str]:
    return [value.name for value in body.input]


def _counts_steps(
    name: str, loop: NodeProto, body: GraphProto, made: dict[str, NodeProto], outer: _Constants
) -> bool:
    """Whether an input of a body is the number of the step: its own, or a state from 0 by 1."""
    place = _inputs(body).index(name)
    if place < _BEFORE:
        return place == 0
    after = made.get(_passed_on(body.output[place - 1].name, made))
    if after is None or after.op_type != "Add" or name not in after.input:
        return False
    known = outer | _constants(body)
    numbers = [
        known.get(loop.input[place]),
        *(known.get(one) for one in after.input if one != name),
    ]
    return [_number(tensor) for tensor in numbers] == [0, 1]


def _number(tensor: TensorProto | None) -> int | None:
    """What a constant holds that is one whole number."""
    if tensor is None or tensor.dims or tensor.data_type not in _WHOLE:
        return None
    return int(np.asarray(numpy_helper.to_array(tensor)).item())

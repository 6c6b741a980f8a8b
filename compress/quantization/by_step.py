"""GRU and RNN in int8, which onnxruntime has no operator for: one step as a small graph, in a Scan.

The product with the input is one product over all steps; what is left in each step is the product
with the state, in int8, and the gates. onnxruntime's Scan has a cost for each operator and step,
so that this pays for batches and for wide layers (`benchmarks/recurrent_int8.py` has the figures).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from onnx import NodeProto, TensorProto, ValueInfoProto, helper

from compress.quantization.editing import Edit, attributes
from compress.quantization.integer_product import LEAST_PRODUCT, add_product

Weight = npt.NDArray[np.float32]

#: Narrower layers gain nothing at any batch size.
LEAST_UNITS = 64
#: The first one in which Shape gives a part of a shape.
_OPSET = 15
#: Added to a gate, it opens it whatever else it gets.
_OPEN = 1e4


@dataclass(frozen=True)
class _Layer:
    """A GRU or RNN node that can be taken apart.

    Attributes:
        ways: "f" for a direction that reads forward, "r" for one that reads backward.
        input_weights: (directions, gates · hidden, features), and so on, as ONNX has them.
        lengths, state: names of each sequence's length and of the first states (directions, batch,
            hidden); empty where they are not given.
        outputs: names of all states and of the last ones; empty where nothing uses them.
    """

    kind: str
    hidden: int
    ways: str
    activation: str
    x: str
    input_weights: Weight
    state_weights: Weight
    biases: Weight
    lengths: str
    state: str
    per_channel: bool
    outputs: tuple[str, str]


@dataclass(frozen=True)
class _Marks:
    """Names of what the directions of a layer share; the last two only where lengths are given.

    Attributes:
        start: zeros, (batch, hidden); empty where the first states are given.
        lengths: (batch,), int64.
        valid: (time, batch, 1), whether a step belongs to its sequence.
    """

    start: str
    lengths: str = ""
    valid: str = ""


def is_wide(node: NodeProto) -> bool:
    """Whether a GRU or RNN has the units to gain from int8."""
    units: int = attributes(node).get("hidden_size", LEAST_UNITS)
    return units >= LEAST_UNITS


def convert_by_step(edit: Edit, node: NodeProto, *, per_channel: bool = True) -> bool:
    """Replace a GRU or RNN node by a product and a Scan for each direction, see the module."""
    layer = _read(edit, node, per_channel=per_channel)
    if layer is None:
        return False
    marks = _marks(edit, layer)
    parts = [_direction(edit, layer, number, marks) for number in range(len(layer.ways))]
    for output, side, axis in zip(layer.outputs, (0, 1), (1, 0), strict=True):
        if output:
            at = edit.constant(f"axis_{axis}", np.array([axis]))
            each = [edit.add("Unsqueeze", [part[side], at]) for part in parts]
            edit.add("Concat", each, output, axis=axis)
    return True


def _read(edit: Edit, node: NodeProto, *, per_channel: bool) -> _Layer | None:
    """What a node consists of; None where it cannot be taken apart, or is too small to gain."""
    x, w, r, b, lengths, state = [*node.input, *[""] * 3][:6]
    weights, recurrent = edit.weight(w), edit.weight(r)
    if weights is None or recurrent is None or edit.opset < _OPSET:
        return None
    hidden = recurrent.shape[2]
    biases = edit.weight(b) if b else np.zeros((len(recurrent), 2 * recurrent.shape[1]), np.float32)
    activation = _activation(node, len(recurrent))
    if biases is None or hidden < LEAST_UNITS or not activation:
        return None
    way = attributes(node).get("direction", b"forward").decode()
    ways = {"forward": "f", "reverse": "r", "bidirectional": "fr"}[way]
    every, last = (name if edit.is_used(name) else "" for name in [*node.output, ""][:2])
    return _Layer(
        node.op_type,
        hidden,
        ways,
        activation,
        x,
        weights,
        recurrent,
        biases,
        lengths,
        state,
        per_channel,
        (every, last),
    )


def _activation(node: NodeProto, directions: int) -> str:
    """What bends the new state; empty for a node that computes what the steps here do not."""
    found, gates = attributes(node), ["Sigmoid"] * (node.op_type == "GRU")
    named = [name.decode() for name in found.get("activations", [])]
    if found.get("layout", 0) or "clip" in found:
        return ""
    if node.op_type == "GRU" and not found.get("linear_before_reset", 0):
        return ""
    for last in ("Tanh", "Relu"):
        if named == [*gates, last] * directions or (last == "Tanh" and not named):
            return last
    return ""


def _marks(edit: Edit, layer: _Layer) -> _Marks:
    start = ""
    if not layer.state:
        width = edit.constant(f"width_{layer.hidden}", np.array([layer.hidden]))
        shape = edit.add("Concat", [edit.add("Shape", [layer.x], start=1, end=2), width], axis=0)
        start = edit.add("ConstantOfShape", [shape])
    if not layer.lengths:
        return _Marks(start)
    first, one = (edit.constant(f"number_{n}", np.array(n)) for n in (0, 1))
    behind, around = (edit.constant(f"axes_{n}_2", np.array([n, 2])) for n in (1, 0))
    time = edit.add("Squeeze", [edit.add("Shape", [layer.x], start=0, end=1)])
    steps = edit.add("Unsqueeze", [edit.add("Range", [first, time, one]), behind])
    lengths = edit.add("Cast", [layer.lengths], to=TensorProto.INT64)
    valid = edit.add("Less", [steps, edit.add("Unsqueeze", [lengths, around])])
    return _Marks(start, lengths, valid)


def _direction(edit: Edit, layer: _Layer, number: int, marks: _Marks) -> tuple[str, str]:
    """All states (time, batch, hidden), zero behind each length, and the last (batch, hidden).

    A backward layer turns each sequence round by itself, so that padding stays behind it.
    """
    turned, x = layer.ways[number] == "r" and bool(layer.lengths), layer.x
    if turned:
        x = edit.add("ReverseSequence", [x, marks.lengths], time_axis=0, batch_axis=1)
    last, states = _scan(edit, layer, number, _scan_inputs(edit, layer, number, x, marks), marks)
    if marks.valid and layer.outputs[0]:
        states = edit.add("Where", [marks.valid, states, _number(edit, "zero", 0)])
        if turned:
            states = edit.add("ReverseSequence", [states, marks.lengths], time_axis=0, batch_axis=1)
    return states, last


def _number(edit: Edit, name: str, value: float) -> str:
    return edit.constant(name, np.array(value, np.float32))


def _scan_inputs(edit: Edit, layer: _Layer, number: int, x: str, marks: _Marks) -> list[str]:
    """What each step is given: a GRU's two gates, what bends into the new state, what is valid.

    Behind a sequence's length the state stays as it is: a GRU's gates are opened, which costs
    nothing in the loop; an RNN has to choose in every step.
    """
    weight, gates = np.ascontiguousarray(layer.input_weights[number].T), 2 * layer.hidden
    bias, recurrent = np.split(layer.biases[number], 2)
    bias = bias.copy()
    bias[:gates] += recurrent[:gates]  # all of an RNN's
    name = edit.fresh(f"{x}_product")
    added = edit.constant(f"{name}_bias", bias)
    if weight.size >= LEAST_PRODUCT:
        product = add_product(edit, x, name, weight, added, per_channel=layer.per_channel)
    else:
        product = edit.add("MatMul", [x, edit.constant(f"{name}_weight", weight)])
        product = edit.add("Add", [product, added])
    if layer.kind == "RNN":
        return [product, marks.valid] if marks.valid else [product]
    both, new = _split(edit, product, (gates, layer.hidden), axis=2)
    if marks.valid:
        both = edit.add("Where", [marks.valid, both, _number(edit, "open", _OPEN)])
    return [both, new]


def _split(edit: Edit, value: str, sizes: tuple[int, int], axis: int) -> list[str]:
    names = [edit.fresh(f"{value}_{part}") for part in (0, 1)]
    given = edit.constant(f"sizes_{sizes[0]}_{sizes[1]}", np.array(sizes))
    edit.add("Split", [value, given], names, axis=axis)
    return names


def _scan(
    edit: Edit, layer: _Layer, number: int, inputs: list[str], marks: _Marks
) -> tuple[str, str]:
    """The loop over the steps: the state behind the last one, and all, where they are used."""
    name = edit.fresh(f"{inputs[0]}_scan")
    given = [f"{name}_in_{place}" for place in range(1 + len(inputs))]
    with edit.body() as nodes:
        new = (_gru_step if layer.kind == "GRU" else _rnn_step)(edit, layer, number, *given)
        made = [new]
        if layer.outputs[0]:  # a name of its own: onnxruntime mixes up outputs that share one
            made.append(edit.add("Identity", [new]))
    sources = zip(given, ["", *inputs], strict=True)
    taken = [
        _matrix(value, boolean=bool(source) and source == marks.valid) for value, source in sources
    ]
    body = helper.make_graph(nodes, f"{name}_step", taken, [_matrix(value) for value in made])
    backward = {"scan_input_directions": [1] * len(inputs)}
    if layer.outputs[0]:
        backward["scan_output_directions"] = [1]
    outputs = [edit.fresh(f"{name}_last"), edit.fresh(f"{name}_all")]
    start = marks.start
    if layer.state:
        at = edit.constant(f"number_{number}", np.array(number))
        each = edit.add("Gather", [layer.state, at], axis=0)
        start = edit.add("Squeeze", [each, edit.constant("axis_0", np.array([0]))])
    edit.add(
        "Scan",
        [start, *inputs],
        outputs[: len(made)],
        body=body,
        num_scan_inputs=len(inputs),
        **(backward if layer.ways[number] == "r" and not layer.lengths else {}),
    )
    return outputs[0], outputs[1]


def _matrix(name: str, *, boolean: bool = False) -> ValueInfoProto:
    kind = TensorProto.BOOL if boolean else TensorProto.FLOAT
    return helper.make_tensor_value_info(name, kind, [None, None])


def _rnn_step(edit: Edit, layer: _Layer, number: int, h: str, x: str, valid: str = "") -> str:
    """One step: the new state (batch, hidden) from the old one and what the input gives."""
    weight, name = layer.state_weights[number].T, edit.fresh(f"{h}_product")
    product = add_product(edit, h, name, weight, per_channel=layer.per_channel)
    new = edit.add(layer.activation, [edit.add("Add", [x, product])])
    return edit.add("Where", [valid, new, h]) if valid else new


def _gru_step(edit: Edit, layer: _Layer, number: int, h: str, gates: str, x: str) -> str:
    """One step: the new state (batch, hidden); `gates` are (batch, 2 · hidden)."""
    hidden, name = layer.hidden, edit.fresh(f"{h}_product")
    bias = np.zeros(3 * hidden, np.float32)
    bias[2 * hidden :] = layer.biases[number, 5 * hidden :]  # the one that the reset gate acts on
    added, weight = edit.constant(f"{name}_bias", bias), layer.state_weights[number].T
    product = add_product(edit, h, name, weight, added, per_channel=layer.per_channel)
    both, new = _split(edit, product, (2 * hidden, hidden), axis=1)
    both = edit.add("Sigmoid", [edit.add("Add", [gates, both])])
    update, reset = _split(edit, both, (hidden, hidden), axis=1)
    new = edit.add("Add", [x, edit.add("Mul", [reset, new])])
    new = edit.add(layer.activation, [new])
    kept = edit.add("Mul", [update, edit.add("Sub", [h, new])])
    return edit.add("Add", [new, kept])

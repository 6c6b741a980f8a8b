"""onnxruntime's int8 LSTM as its products and gates, so that what their sums lose can be added.

The kernel makes the inputs of all steps uint8 by one range, and the states of each step by another
(onnxruntime, `uni_directional_lstm.cc`). Where threads share the rows of a batch, each has a range
of its own; here the rows of a step have one.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from onnx import NodeProto, TensorProto, helper

from compress.quantization.editing import MICROSOFT, Edit, attributes
from compress.quantization.saturated_sums import Integers

Floats = npt.NDArray[np.float32]

_WAYS = {"forward": "f", "reverse": "r", "bidirectional": "fr"}


@dataclass(frozen=True)
class Lstm:
    """A node that can be taken apart.

    Attributes:
        ways: "f" for a direction that reads forward, "r" for one that reads backward.
        weights: of each direction those of the input and of the state, (4 · hidden, in).
        scales: of the same, (4 · hidden,).
        biases: (directions, 4 · hidden).
        lengths, state, cell: names of inputs; empty where there is none.
        outputs: names of all states, the last states and the last cells; empty where not used.
    """

    ways: str
    hidden: int
    x: str
    weights: list[tuple[Integers, Integers]]
    scales: list[tuple[Floats, Floats]]
    biases: Floats
    lengths: str
    state: str
    cell: str
    outputs: tuple[str, str, str]


def read_lstm(edit: Edit, node: NodeProto) -> Lstm | None:
    """What a DynamicQuantizeLSTM consists of; None for one that computes in other ways."""
    x, w, r, b, lengths, state, cell, peephole, *rest = [*node.input, *[""] * 12][:12]
    found = attributes(node)
    way = _WAYS[found.get("direction", b"forward").decode()]
    usual = [b"Sigmoid", b"Tanh", b"Tanh"] * len(way)
    plain = not peephole and found.get("activations", usual) == usual
    if not plain or any(found.get(name) for name in ("clip", "input_forget", "layout")):
        return None
    parts = [
        _rows(edit, name, scale, zero)
        for name, scale, zero in zip((w, r), rest[::2], rest[1::2], strict=True)
    ]
    biases = edit.weight(b) if b else np.zeros((1, 2), np.float32)
    if parts[0] is None or parts[1] is None or biases is None:
        return None
    weights, scales = zip(*parts, strict=True)
    before, behind = np.split(biases, 2, axis=1)
    outputs = [name if edit.is_used(name) else "" for name in [*node.output, "", ""][:3]]
    return Lstm(
        way,
        weights[1].shape[2],
        x,
        list(zip(*weights, strict=True)),
        list(zip(*scales, strict=True)),
        np.broadcast_to(before + behind, (len(way), weights[1].shape[1])),
        lengths,
        state,
        cell,
        (outputs[0], outputs[1], outputs[2]),
    )


def _rows(edit: Edit, name: str, scale: str, zero: str) -> tuple[Integers, Floats] | None:
    """(directions, 4 · hidden, in) and (directions, 4 · hidden); None for other weights."""
    weights, scales, zeros = (edit.values(one) for one in (name, scale, zero))
    if weights is None or scales is None or zeros is None:
        return None
    if weights.dtype != np.int8 or zeros.any():
        return None
    rows = weights.transpose(0, 2, 1)
    spread = np.broadcast_to(scales.reshape(len(rows), -1), rows.shape[:2])
    return rows, spread.astype(np.float32)


def take_apart(edit: Edit, layer: Lstm) -> None:
    """Add a DynamicQuantizeMatMul for the input and a Scan with one in it for each direction."""
    lengths, valid = _valid(edit, layer)
    parts = [_direction(edit, layer, number, lengths, valid) for number in range(len(layer.ways))]
    for place, (output, axis) in enumerate(zip(layer.outputs, (1, 0, 0), strict=True)):
        if output:
            at = edit.constant(f"lstm_axis_{axis}", np.array([axis]))
            each = [edit.add("Unsqueeze", [part[place], at]) for part in parts]
            edit.add("Concat", each, output, axis=axis)


def _valid(edit: Edit, layer: Lstm) -> tuple[str, str]:
    """Lengths as int64, and (time, batch, 1), whether a step belongs to its sequence."""
    if not layer.lengths:
        return "", ""
    first, one = (edit.constant(f"lstm_number_{n}", np.array([n])) for n in (0, 1))
    behind, around = (edit.constant(f"lstm_axes_{n}", np.array([n, 2])) for n in (1, 0))
    time = edit.add("Squeeze", [edit.add("Shape", [layer.x], start=0, end=1)])
    steps = edit.add("Unsqueeze", [edit.add("Range", [first, time, one]), behind])
    lengths = edit.add("Cast", [layer.lengths], to=TensorProto.INT64)
    return lengths, edit.add("Less", [steps, edit.add("Unsqueeze", [lengths, around])])


def _direction(
    edit: Edit, layer: Lstm, number: int, lengths: str, valid: str
) -> tuple[str, str, str]:
    """All states (time, batch, hidden), zero behind each length; the last state and cell."""
    backward, x = layer.ways[number] == "r", layer.x
    if backward and lengths:
        x = edit.add("ReverseSequence", [x, lengths], time_axis=0, batch_axis=1)
    name = edit.fresh(f"{x}_lstm")
    weight, scale = layer.weights[number][0], layer.scales[number][0]
    gates = _product(edit, x, f"{name}_input", weight, scale, layer.biases[number])
    starts = [_start(edit, layer, given, number) for given in (layer.state, layer.cell)]
    inputs = [gates, valid] if valid else [gates]
    last, cell, states = _scan(edit, layer, number, starts, inputs, name)
    if valid:
        zero = edit.constant("lstm_zero", np.array(0, np.float32))
        states = edit.add("Where", [valid, states, zero])
        if backward:
            states = edit.add("ReverseSequence", [states, lengths], time_axis=0, batch_axis=1)
    return states, last, cell


def _product(
    edit: Edit, x: str, name: str, weight: Integers, scale: Floats, bias: Floats | None = None
) -> str:
    inputs = [
        x,
        edit.constant(f"{name}_int8", weight.T),
        edit.constant(f"{name}_scale", scale.astype(np.float32)),
    ]
    if bias is not None:
        inputs += ["", edit.constant(f"{name}_bias", bias)]
    return edit.add("DynamicQuantizeMatMul", inputs, domain=MICROSOFT)


def _start(edit: Edit, layer: Lstm, given: str, number: int) -> str:
    """(batch, hidden), what a direction begins with."""
    if given:
        at = edit.constant(f"lstm_number_{number}", np.array([number]))
        axis = edit.constant("lstm_axis_0", np.array([0]))
        return edit.add("Squeeze", [edit.add("Gather", [given, at]), axis])
    width = edit.constant(f"lstm_width_{layer.hidden}", np.array([layer.hidden]))
    batch = edit.add("Shape", [layer.x], start=1, end=2)
    return edit.add("ConstantOfShape", [edit.add("Concat", [batch, width], axis=0)])


def _scan(
    edit: Edit, layer: Lstm, number: int, starts: list[str], inputs: list[str], name: str
) -> list[str]:
    """The loop over the steps: the last state and cell, and all states."""
    given = [edit.fresh(f"{name}_given_{place}") for place in range(2 + len(inputs))]
    with edit.body() as nodes:
        made = _step(edit, layer, number, name, *given)
        made.append(edit.add("Identity", [made[0]]))
    kinds = [TensorProto.FLOAT] * 3 + [TensorProto.BOOL] * (len(inputs) - 1)
    taken = [
        helper.make_tensor_value_info(*pair, [None, None])
        for pair in zip(given, kinds, strict=True)
    ]
    results = [helper.make_tensor_value_info(v, TensorProto.FLOAT, [None, None]) for v in made]
    body = helper.make_graph(nodes, f"{name}_step", taken, results)
    turned = layer.ways[number] == "r" and len(inputs) == 1
    outputs = [edit.fresh(f"{name}_{part}") for part in ("last", "cell", "all")]
    edit.add(
        "Scan",
        [*starts, *inputs],
        outputs,
        body=body,
        num_scan_inputs=len(inputs),
        scan_input_directions=[int(turned)] * len(inputs),
        scan_output_directions=[int(turned)],
    )
    return outputs


def _step(
    edit: Edit,
    layer: Lstm,
    number: int,
    name: str,
    h: str,
    c: str,
    gates: str,
    valid: str = "",
) -> list[str]:
    """The new state and cell, (batch, hidden), from the old ones and what the input gives."""
    weight, scale = layer.weights[number][1], layer.scales[number][1]
    whole = edit.add("Add", [gates, _product(edit, h, f"{name}_state", weight, scale)])
    parts = [edit.fresh(f"{name}_{gate}") for gate in "iofc"]
    sizes = edit.constant(f"lstm_sizes_{layer.hidden}", np.full(4, layer.hidden))
    edit.add("Split", [whole, sizes], parts, axis=1)
    let_in, let_out, keep = (edit.add("Sigmoid", [part]) for part in parts[:3])
    fresh = edit.add("Mul", [let_in, edit.add("Tanh", [parts[3]])])
    cell = edit.add("Add", [edit.add("Mul", [keep, c]), fresh])
    state = edit.add("Mul", [let_out, edit.add("Tanh", [cell])])
    if valid:  # behind its end a sequence keeps what it had
        state, cell = (edit.add("Where", [valid, new, old]) for new, old in ((state, h), (cell, c)))
    return [state, cell]

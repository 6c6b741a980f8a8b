"""The nodes of an ONNX graph as calls of torch functions, one after the other."""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Callable, MutableMapping
from functools import partial
from typing import Any

import torch
from onnx import GraphProto, NodeProto, TensorProto, numpy_helper
from torch import Tensor

from compress.errors import InputError
from compress.quantization.editing import attributes
from compress.quantization.qat.fake_quantize import fake_quantize
from compress.quantization.qat.operators import OPERATORS, Operator
from compress.quantization.qat.points import Activation, Points, constant, every_node

#: Values by name.
Scope = MutableMapping[str, Any]
_Step = Callable[[Scope], None]

#: Made of what else a graph says, not of `OPERATORS`.
_SPECIAL = {"Constant", "DequantizeLinear", "QuantizeLinear", "Scan"}


def check_operators(graph: GraphProto) -> None:
    """Refuse a graph that gradients cannot flow through here.

    Raises:
        InputError: with the operators that are not known.
    """
    known = OPERATORS.keys() | _SPECIAL
    missing = sorted({node.op_type for node in every_node(graph)} - known)
    if missing:
        raise InputError(
            f"QAT cannot train through {', '.join(missing)}: no gradient is known for it here. "
            "Quantize such a model by calibration: `quantize`."
        )


class Program:
    """The steps of a graph, or of the body of a loop."""

    def __init__(self, graph: GraphProto, points: Points) -> None:
        self.inputs = [value.name for value in graph.input]
        self.outputs = [value.name for value in graph.output]
        rounded = {name for name, weight in points.weights.items() if not weight.as_levels}
        #: What holds real values already where a DequantizeLinear reads it.
        self._real = rounded | points.biases.keys()
        self._steps: list[_Step] = []
        for node in graph.node:
            if node.op_type == "QuantizeLinear":
                self._real.add(node.output[0])
            self._steps.append(self._step(node, points))

    def run(self, scope: Scope) -> None:
        """Add what the nodes give to the values that are there."""
        for step in self._steps:
            step(scope)

    def _step(self, node: NodeProto, points: Points) -> _Step:
        inputs, outputs = list(node.input), list(node.output)
        if node.op_type == "Scan":
            return partial(_scan, _Scan(node, points), inputs, outputs)
        if node.op_type == "Constant":
            value = torch.from_numpy(constant(node).copy())
            return partial(_call, lambda: value, [], outputs)
        if node.op_type == "QuantizeLinear":
            compute: Operator = partial(_quantize, points.activations[node.input[1]])
            inputs = inputs[:2]
        elif node.op_type == "DequantizeLinear" and node.input[0] in self._real:
            compute, inputs = OPERATORS["Identity"], inputs[:1]
        elif node.op_type == "DequantizeLinear":
            compute = _dequantize
        else:
            compute = partial(OPERATORS[node.op_type], **_settings(node))
        return partial(_call, compute, inputs, outputs)


def _call(compute: Operator, inputs: list[str], outputs: list[str], scope: Scope) -> None:
    found = compute(*(scope[name] if name else None for name in inputs))
    scope.update(zip(outputs, found if isinstance(found, tuple) else (found,), strict=False))


def _settings(node: NodeProto) -> dict[str, Any]:
    """A node's attributes as torch functions want them."""
    found = {name: _plain(value) for name, value in attributes(node).items()}
    if node.op_type == "Split":
        found["num_outputs"] = len(node.output)
    return found


def _plain(value: Any) -> Any:
    if isinstance(value, bytes):
        return value.decode()
    if isinstance(value, TensorProto):
        return torch.from_numpy(numpy_helper.to_array(value).copy())
    if isinstance(value, list):
        return [_plain(entry) for entry in value]
    return value


def _quantize(how: Activation, x: Tensor, scale: Tensor) -> Tensor:
    """What QuantizeLinear and the DequantizeLinear behind it give together."""
    values = x.numel() // max(1, len(x)) if x.dim() else 1
    return fake_quantize(x, scale, how.zero_point, how.limits, max(1, values))


def _dequantize(levels: Tensor, scale: Tensor, zero_point: Tensor | None = None) -> Tensor:
    return (levels if zero_point is None else levels - zero_point) * scale


class _Scan:
    """A loop over dimension 0 of some inputs, with states that go from step to step."""

    def __init__(self, node: NodeProto, points: Points) -> None:
        found = attributes(node)
        self.body = Program(found["body"], points)
        self.count: int = found["num_scan_inputs"]
        self.states = len(node.input) - self.count
        self.backward = any(found.get("scan_input_directions", ()))
        self.turned = any(found.get("scan_output_directions", ()))
        axes = [*found.get("scan_input_axes", ()), *found.get("scan_output_axes", ())]
        if any(axes):
            raise InputError("Scan along another dimension than the first cannot be trained.")


def _scan(loop: _Scan, inputs: list[str], outputs: list[str], scope: Scope) -> None:
    states = [scope[name] for name in inputs[: loop.states]]
    rows = [scope[name].unbind(0) for name in inputs[loop.states :]]
    order = range(len(rows[0]))
    made: list[list[Tensor]] = []
    for place in reversed(order) if loop.backward else order:
        given = [*states, *(row[place] for row in rows)]
        inner: Scope = ChainMap(dict(zip(loop.body.inputs, given, strict=True)), scope)
        loop.body.run(inner)
        found = [inner[name] for name in loop.body.outputs]
        states = found[: loop.states]
        made.append(found[loop.states :])
    columns = zip(*(made[::-1] if loop.turned else made), strict=True)
    collected = [torch.stack(column) for column in columns]
    scope.update(zip(outputs, [*states, *collected], strict=False))

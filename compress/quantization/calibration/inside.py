"""Values inside of If, Loop and Scan as outputs of the model, for whoever has to look at them.

What stands in a body is given by nobody outside. A branch of an If gives its values beside its
results, and the other branch none; a Loop carries them along from step to step and adds those of
each; a Scan stacks them. Outside they are one list of numbers, whatever their shape was.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator

import numpy as np
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, helper
from onnx import numpy_helper as arrays

from compress.export.bodies import bodies, graphs
from compress.quantization.scopes import all_names, defined_names, fresh_name, rename

_ONNX = ("", "ai.onnx")
_FLOAT = TensorProto.FLOAT
#: Of a Scan, lists with an entry for each output that it stacks.
_OF_OUTPUTS = ("scan_output_axes", "scan_output_directions")
#: The first version of Scan that has no batches of its own.
_SCAN = 9


def bring_out(model: ModelProto, wanted: Collection[str]) -> None:
    """Make floating-point values in bodies outputs of the model, under their names, in place.

    Each is fp32 with one axis: all its values, of all steps in their order, and none where the
    branch was not taken. Inside they get other names. Left out are values of a body whose node is
    none of ONNX's, or a Scan of before opset 9, and those of bodies in a Scan, of which each step
    may give another number.

    Args:
        model: in which no two values have the same name.
    """
    names = all_names(model)
    inner = {name for graph in list(graphs(model.graph))[1:] for name in defined_names(graph)}
    inside = {name: fresh_name(f"{name}_inside", names) for name in sorted(inner & set(wanted))}
    rename(model.graph, inside)
    opset = next((o.version for o in model.opset_import if o.domain in _ONNX), 0)
    found = _Carrier(names, opset).out_of_bodies(model.graph, set(inside.values()))
    original = {new: old for old, new in inside.items()}
    for value, came_out in found:
        name = original[value]
        model.graph.node.append(helper.make_node("Identity", [came_out], [name]))
        model.graph.output.append(helper.make_tensor_value_info(name, _FLOAT, None))


#: Name of a value in a body, and of the list of its numbers outside of it.
_Pair = tuple[str, str]


class _Carrier:
    def __init__(self, names: set[str], opset: int) -> None:
        self._names, self._opset = names, opset

    def out_of_bodies(self, graph: GraphProto, wanted: set[str]) -> list[_Pair]:
        """Values of all bodies in a graph, each as a list that a node of the graph itself makes."""
        found, place = list[_Pair](), 0
        while place < len(graph.node):
            node, after = graph.node[place], list[NodeProto]()
            for which, body in bodies(node):
                inner = self.out_of_bodies(body, wanted if node.op_type != "Scan" else set())
                inner += list(self._flat(body, wanted))
                if inner and node.domain in _ONNX:
                    found += self._out_of(graph, node, which, body, inner, after)
            for offset, new in enumerate(after, 1):
                graph.node.insert(place + offset, new)
            place += 1 + len(after)
        return found

    def _flat(self, body: GraphProto, wanted: set[str]) -> Iterator[_Pair]:
        """Values of a body, each as a list of fp32 that the body makes."""
        names = sorted(wanted & defined_names(body))
        every = self._constant(body, np.array([-1], np.int64), "every_value") if names else ""
        for name in names:
            number, flat = self._fresh(f"{name}_fp32"), self._fresh(f"{name}_flat")
            body.node.append(helper.make_node("Cast", [name], [number], to=_FLOAT))
            body.node.append(helper.make_node("Reshape", [number, every], [flat]))
            yield name, flat

    def _out_of(
        self,
        graph: GraphProto,
        node: NodeProto,
        which: str,
        body: GraphProto,
        inner: list[_Pair],
        after: list[NodeProto],
    ) -> Iterator[_Pair]:
        """Lists of a body as lists that its node gives, or nodes that go behind it."""
        for name, flat in inner:
            result = self._fresh(f"{name}_outside")
            value = helper.make_tensor_value_info(flat, _FLOAT, [None])
            if node.op_type == "If":
                for other, branch in bodies(node):
                    nothing = np.zeros(0, np.float32)
                    given = flat if other == which else self._constant(branch, nothing, "nothing")
                    branch.output.append(helper.make_tensor_value_info(given, _FLOAT, [None]))
                node.output.append(result)
            elif node.op_type == "Loop":
                self._carry(graph, node, body, flat, result)
            elif node.op_type == "Scan" and self._opset >= _SCAN:
                stacked = self._fresh(f"{name}_stacked")
                body.output.append(value)
                node.output.append(stacked)
                for entry in node.attribute:
                    if entry.name in _OF_OUTPUTS:
                        entry.ints.append(0)
                every = self._constant(graph, np.array([-1], np.int64), "every_value")
                after.append(helper.make_node("Reshape", [stacked, every], [result]))
            else:
                continue
            yield name, result

    def _carry(
        self, graph: GraphProto, loop: NodeProto, body: GraphProto, flat: str, result: str
    ) -> None:
        """A state of a Loop that begins with no number, and to which each step adds."""
        loop.input.extend([""] * (2 - len(loop.input)))
        states, outputs = len(loop.input) - 2, list(loop.output)
        so_far, longer = self._fresh(f"{flat}_so_far"), self._fresh(f"{flat}_longer")
        body.node.append(helper.make_node("Concat", [so_far, flat], [longer], axis=0))
        body.input.append(helper.make_tensor_value_info(so_far, _FLOAT, [None]))
        body.output.insert(1 + states, helper.make_tensor_value_info(longer, _FLOAT, [None]))
        loop.output[:] = [*outputs[:states], result, *outputs[states:]]
        loop.input.append(self._constant(graph, np.zeros(0, np.float32), "nothing"))

    def _constant(self, graph: GraphProto, values: np.ndarray, name: str) -> str:
        found = self._fresh(name)
        graph.initializer.append(arrays.from_array(values, found))
        return found

    def _fresh(self, name: str) -> str:
        return fresh_name(name, self._names)

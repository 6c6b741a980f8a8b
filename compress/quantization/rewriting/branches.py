"""If whose condition is known: the nodes of the branch that is taken stand in its place.

Exporters write `if x.dim() == 2` as an If on a shape that the file fixes, and a rate or a mode
that a caller always gives alike is a constant in the end. onnxruntime inlines such branches as
well, where it finds the condition constant; 1.31 crashes over it on some graphs with If in If.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import numpy as np
import onnx
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper

from compress.export.bodies import bodies, graphs, nodes_everywhere
from compress.quantization.editing import Array, attributes
from compress.quantization.rewriting.files import without_weights
from compress.quantization.rewriting.graph import copied
from compress.quantization.scopes import rename, unique_names

_ONNX = ("", "ai.onnx")
#: Values of a constant from which it is no condition, shape or axis, and not computed here.
_MANY = 4096
#: What gives other values in each call, though all its inputs are constant.
_RANDOM = ("Random", "Bernoulli", "Multinomial", "Dropout")
#: What makes many values of few: left out where it is not known how many.
_GROWING = {"ConstantOfShape", "Expand", "OneHot", "Pad", "Range", "Resize", "Tile", "Upsample"}

#: Sizes of a value, None for those that vary.
_Sizes = tuple[int | None, ...]


def inline_known_branches(model: ModelProto) -> int:
    """Replace each If by the nodes of its branch where the condition is known, in place.

    Known is what follows from constants and from declared and inferred shapes. Names in bodies are
    made unique for it.

    Returns:
        How many If were replaced, those inside of others, too.
    """
    if not any(node.op_type == "If" for node in nodes_everywhere(model.graph)):
        return 0
    unique_names(model)
    count = 0
    while found := inline(model.graph, _Known(model).branch):  # what is inlined tells new shapes
        count += found
    return count


def inline(graph: GraphProto, taken: Callable[[NodeProto], GraphProto | None]) -> int:
    """Replace nodes by those of a branch, in a graph of unique names and its bodies, in place.

    Args:
        taken: of a node the branch that is taken in every call; None where that is not known.

    Returns:
        How many nodes were replaced.
    """
    nodes, count = list[NodeProto](), 0
    for node in graph.node:
        branch = taken(node)
        for body in [branch] if branch is not None else [body for _, body in bodies(node)]:
            count += inline(body, taken)
        count += branch is not None
        nodes += [copied(node)] if branch is None else _taken_apart(graph, node, branch)
    if count:
        del graph.node[:]
        graph.node.extend(nodes)
    return count


def branch_of(node: NodeProto, name: str) -> GraphProto | None:
    """`then_branch` or `else_branch` of an If."""
    return next((body for found, body in bodies(node) if found == name), None)


def _taken_apart(graph: GraphProto, node: NodeProto, branch: GraphProto) -> list[NodeProto]:
    """The nodes of a branch, which give what its If gave; its constants go to the graph."""
    made = {name for inner in branch.node for name in inner.output}
    names, passed = dict[str, str](), list[tuple[str, str]]()
    for inner, outer in zip(branch.output, node.output, strict=True):
        if inner.name in made and inner.name not in names and outer:
            names[inner.name] = outer
        elif outer:  # a constant, a value from outside, or one that is given twice
            passed.append((inner.name, outer))
    rename(branch, names)
    graph.initializer.extend(branch.initializer)
    graph.sparse_initializer.extend(branch.sparse_initializer)
    return [copied(inner) for inner in branch.node] + [
        helper.make_node("Identity", [names.get(inner, inner)], [outer]) for inner, outer in passed
    ]


class _Known:
    """The values of a model, small ones only, that are the same in every call."""

    def __init__(self, model: ModelProto) -> None:
        self._opsets = list(model.opset_import)
        self._ir_version = model.ir_version
        self._shapes = _shapes(model)
        self._values: dict[str, Array] = {}
        self._sizes: dict[str, _Sizes] = {}  # values of Shape of which not all are known
        inputs = {value.name for graph in graphs(model.graph) for value in graph.input}
        self._learn(model.graph, inputs)

    def branch(self, node: NodeProto) -> GraphProto | None:
        """The branch that an If takes in every call."""
        if node.op_type != "If" or node.domain not in _ONNX:
            return None
        condition = self._values.get(node.input[0])
        if condition is None or condition.size != 1:
            return None
        wanted = "then_branch" if condition.item() else "else_branch"
        return branch_of(node, wanted)

    def _learn(self, graph: GraphProto, inputs: set[str]) -> None:
        for tensor in graph.initializer:
            if tensor.name not in inputs and int(np.prod(tensor.dims)) <= _MANY:
                self._keep(tensor.name, tensor)
        for node in graph.node:
            if node.domain in _ONNX and not node.op_type.startswith(_RANDOM):
                self._compute(node)
            for _, body in bodies(node):
                self._learn(body, inputs)

    def _keep(self, name: str, tensor: TensorProto) -> None:
        with suppress(Exception):  # such as one that lies in a file that is not there
            self._values[name] = numpy_helper.to_array(tensor)

    def _compute(self, node: NodeProto) -> None:
        if node.op_type in ("Shape", "Size"):
            self._measure(node)
        elif node.op_type in ("Gather", "Slice") and node.input[0] in self._sizes:
            with suppress(IndexError, TypeError, KeyError):
                self._note_sizes(node.output[0], self._part(node))
        elif all(not name or name in self._values for name in node.input) and self._is_small(node):
            self._evaluate(node)

    def _is_small(self, node: NodeProto) -> bool:
        if any(True for _ in bodies(node)):
            return False
        shapes = [self._shapes.get(name) for name in node.output if name]
        if any(shape is None or None in shape for shape in shapes):
            return node.op_type not in _GROWING
        return all(math.prod(filter(None, shape or ())) <= _MANY for shape in shapes)

    def _measure(self, node: NodeProto) -> None:
        shape = self._shapes.get(node.input[0])
        if shape is None:
            return
        if node.op_type == "Shape":
            found = attributes(node)
            self._note_sizes(node.output[0], shape[found.get("start", 0) : found.get("end")])
        elif None not in shape:
            self._values[node.output[0]] = np.array(np.prod(np.array(shape, np.int64)), np.int64)

    def _part(self, node: NodeProto) -> Any:
        """What Gather or Slice takes of sizes that are not all known."""
        sizes = self._sizes[node.input[0]]
        given = [self._values[name] if name else None for name in node.input[1:]]
        if node.op_type == "Gather":
            return np.array(sizes, object)[given[0]]
        step = given[3] if len(given) > 3 else None
        bounds = [None if value is None else int(value.item()) for value in (*given[:2], step)]
        return sizes[slice(*bounds)]

    def _note_sizes(self, name: str, sizes: Any) -> None:
        found = np.array(sizes, object)
        if None not in found.ravel().tolist():
            self._values[name] = found.astype(np.int64)
        elif found.ndim == 1:
            self._sizes[name] = tuple(found.tolist())

    def _evaluate(self, node: NodeProto) -> None:
        """By ONNX's own reference, one node alone."""
        from onnx.reference import ReferenceEvaluator

        names = sorted({*node.input} - {""})
        given = [numpy_helper.from_array(self._values[name], name) for name in names]
        results = [onnx.ValueInfoProto(name=name) for name in node.output if name]
        graph = helper.make_graph([node], "node", [], results, given)
        alone = helper.make_model(graph, opset_imports=self._opsets, ir_version=self._ir_version)
        computed: list[Any] = []
        with suppress(Exception), np.errstate(all="ignore"):  # it lacks operators
            computed = list(ReferenceEvaluator(alone).run(None, {}))
        for result, values in zip(results, computed, strict=False):
            if isinstance(values, np.ndarray | np.generic) and values.size <= _MANY:
                self._values[result.name] = np.asarray(values)


def _shapes(model: ModelProto) -> dict[str, _Sizes]:
    """What follows from the declared inputs."""
    copy = only_inputs_declared(model)
    without_weights(copy, lambda light: onnx.shape_inference.infer_shapes(light, data_prop=True))
    values = [value for graph in graphs(copy.graph) for value in graph.value_info]
    found = {
        tensor.name: tuple(tensor.dims) for g in graphs(copy.graph) for tensor in g.initializer
    }
    for value in (*values, *copy.graph.input):
        kind = value.type.tensor_type
        if kind.HasField("shape"):
            found[value.name] = tuple(
                size.dim_value if size.HasField("dim_value") else None for size in kind.shape.dim
            )
    return found


def only_inputs_declared(model: ModelProto) -> ModelProto:
    """A copy without all else that a file says of the shapes of its values, which may be wrong."""
    copy = ModelProto()
    copy.CopyFrom(model)
    for body in graphs(copy.graph):
        body.ClearField("value_info")
        declared = body.output if body is copy.graph else (*body.input, *body.output)
        for value in declared:
            value.type.tensor_type.ClearField("shape")
    return copy

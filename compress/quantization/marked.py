"""Copies of models in which the names of nodes and tensors tell the layer that they belong to.

A runtime's profiler knows the nodes of the graph that the runtime made, after its fusions. They
bear the name of a node or of a tensor of the file, with something added to it.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping

from onnx import ModelProto, NodeProto

from compress.quantization.layers import layers
from compress.report.profile_schema import Profile

#: What a runtime may do in the same breath as the layer before it.
_FOLLOWERS = {"Relu", "LeakyRelu", "Clip", "Sigmoid", "Tanh", "HardSigmoid", "HardSwish", "Add"}
_MARK = re.compile(r"<(\d+)>")


def layer_of_tensors(model: ModelProto) -> dict[str, str]:
    """Tensor to layer: the output of each, and what followers make of that and nothing else does.

    Args:
        model: whose layers have names of their own.
    """
    users: dict[str, list[NodeProto]] = defaultdict(list)
    for node in model.graph.node:
        for name in node.input:
            users[name].append(node)
    names, found = layers(model), dict[str, str]()
    for node in model.graph.node:
        if node.name not in names:
            continue
        tensor = node.output[0]
        found[tensor] = node.name
        while len(users[tensor]) == 1 and users[tensor][0].op_type in _FOLLOWERS:
            tensor = users[tensor][0].output[0]
            if tensor in found:  # a sum of two layers belongs to the first
                break
            found[tensor] = node.name
    return found


def marked(model: ModelProto, owners: Mapping[str, str]) -> tuple[ModelProto, dict[str, str]]:
    """A copy with marks for names.

    Args:
        owners: tensor to layer, in the fp32 model. A node belongs to the layer whose name it has,
            or whose tensor it makes; every other one to itself.

    Returns:
        The copy, and mark to layer, or to "node 7" for the seventh node of the graph.
    """
    copy = ModelProto()
    copy.CopyFrom(model)
    names, marks, tensors = set(owners.values()), dict[str, str](), dict[str, str]()
    kept = {value.name for value in copy.graph.output}
    nested = any(
        entry.g.node or entry.graphs for node in copy.graph.node for entry in node.attribute
    )
    for place, node in enumerate(copy.graph.node):
        owner = node.name if node.name in names else owners.get(node.output[0], f"node {place}")
        marks[str(place)] = owner
        node.name = f"<{place}>"
        for number, output in enumerate(node.output):
            if output and output not in kept and not nested:  # bodies read outer names
                tensors[output] = f"<{place}>{number}"
            elif output:
                marks[output] = owner
    for node in copy.graph.node:
        node.input[:] = [tensors.get(name, name) for name in node.input]
        node.output[:] = [tensors.get(name, name) for name in node.output]
    del copy.graph.value_info[:]
    return copy, marks


def owner_of(name: str, marks: Mapping[str, str]) -> str | None:
    """What a node of the profile belongs to, by its name; None where that cannot be told."""
    found = _MARK.search(name)
    if found is not None:
        return marks.get(found.group(1))
    return marks.get(name.partition("_nchwc")[0])


def times(profile: Profile, marks: Mapping[str, str]) -> tuple[dict[str, float], dict[str, int]]:
    """Microseconds a call of each owner, and how many values the first input of its nodes has."""
    us, sizes = defaultdict[str, float](float), dict[str, int]()
    for node in profile.nodes:
        owner = owner_of(node.name, marks)
        if owner is not None and node.inside is None:
            us[owner] += node.us
            sizes[owner] = max(sizes.get(owner, 0), _values(node.shapes[:1]))
    return dict(us), sizes


def _values(shapes: list[str]) -> int:
    """How many values a tensor has that is described as `uint8 2×8×16`."""
    product = 1
    for shape in shapes:
        for size in shape.partition(" ")[2].split("×"):
            product *= int(size) if size.isdigit() else 1
    return product

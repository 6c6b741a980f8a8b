"""What the layers of an ONNX graph are, by the names of their nodes, and which of them are int8.

Those in the bodies of If, Loop and Scan are among them; no two values have the same name.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path

from onnx import ModelProto, NodeProto

from compress.errors import ModelFileError
from compress.export.bodies import graphs, nodes_everywhere
from compress.export.graph import COMPUTING, RECURRENT

#: What becomes int8 or stays fp32 together: nodes by name, under the name of the group.
Groups = Mapping[str, frozenset[str]]

_KINDS = {
    "convolutions": {"Conv", "ConvTranspose"},
    "products": {"Gemm", "MatMul"},
    "recurrent layers": RECURRENT,
}


def layers(model: ModelProto) -> dict[str, frozenset[str]]:
    """Each node that computes with constant weights as a group of its own, in the graph's order."""
    return {node.name: frozenset({node.name}) for node in _weighted(model)}


def by_operator(model: ModelProto) -> dict[str, frozenset[str]]:
    """The same nodes by kind: "convolutions", "products", "recurrent layers"; none is empty."""
    found = {
        kind: frozenset(node.name for node in _weighted(model) if node.op_type in types)
        for kind, types in _KINDS.items()
    }
    return {kind: names for kind, names in found.items() if names}


def _weighted(model: ModelProto) -> Iterator[NodeProto]:
    constant = {tensor.name for graph in graphs(model.graph) for tensor in graph.initializer}
    for node in nodes_everywhere(model.graph):
        if node.op_type == "Constant":
            constant.update(node.output)
        elif (
            node.op_type in COMPUTING
            and node.domain in ("", "ai.onnx")
            and set(node.input[:2]) & constant
        ):
            yield node


def check_names(model: ModelProto, groups: Groups, place: Path) -> None:
    """Raise ModelFileError unless every node of the groups is in the graph, once.

    Args:
        place: the model's file, for the message.
    """
    counts = Counter(node.name for node in nodes_everywhere(model.graph))
    for name in sorted({name for names in groups.values() for name in names}):
        if not name:
            raise ModelFileError(
                f"{place}: a layer has no name; expected names of their own, which "
                "`rewriting.constants.name_nodes` gives."
            )
        if counts[name] != 1:
            found = f"{counts[name]} nodes" if counts[name] else "no node"
            raise ModelFileError(f"{place}: {found} named '{name}'; expected one.")


def int8_layers(source: ModelProto, quantized: ModelProto) -> frozenset[str]:
    """Names of the source's nodes that compute and whose weights a quantizer has made int8.

    A node that is gone counts: dynamic quantization puts another in its place. What a node reads
    tells nothing by itself, as an fp32 node may stand behind an int8 one.
    """
    every = nodes_everywhere(quantized.graph)
    left = {node.name: node for node in every}
    made_by = {output: node for node in every for output in node.output}
    kinds = {node.name: node.op_type for node in nodes_everywhere(source.graph)}
    names = [name for name, kind in kinds.items() if kind in COMPUTING]
    return frozenset(
        name
        for name in names
        if name not in left
        or left[name].op_type != kinds[name]
        or any(_restored(made_by.get(weight)) for weight in weights_of(left[name]))
    )


def weights_of(node: NodeProto) -> list[str]:
    """Names of the inputs that a quantizer makes int8; a recurrent node has two."""
    return list(node.input[1:3] if node.op_type in RECURRENT else node.input[1:2])


def _restored(node: NodeProto | None) -> bool:
    """Whether a node makes fp32 of integers; weight-only quantization does it by a product."""
    return node is not None and node.op_type in ("DequantizeLinear", "Mul")

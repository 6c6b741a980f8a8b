"""Weights that several bodies hold, stored once in the graph around them."""

from __future__ import annotations

import hashlib

from onnx import GraphProto, ModelProto, TensorProto

from compress.export.bodies import graphs
from compress.quantization.editing import drop_unused
from compress.quantization.rewriting.files import keep_only
from compress.quantization.scopes import rename

#: Bytes of what is worth a name of its own; scales and zero points stay beside their nodes.
_LEAST = 4096


def share_weights(model: ModelProto) -> int:
    """Keep one of equal weights where a body has one of them, in place; returns how many went.

    A quantizer that sees one graph at a time leaves its own copy in each branch that reads a weight
    from outside. What no node reads any more is dropped as well.

    Args:
        model: in which no two values have the same name.
    """
    for graph in graphs(model.graph):
        drop_unused(graph)
    outer, *inner = graphs(model.graph)
    places = [(graph, tensor) for graph in (outer, *inner) for tensor in graph.initializer]
    alike: dict[str, list[tuple[GraphProto, TensorProto]]] = {}
    for graph, tensor in places:
        if len(tensor.raw_data) >= _LEAST:
            alike.setdefault(_key(tensor), []).append((graph, tensor))
    gone, moved = dict[str, str](), list[TensorProto]()
    for (home, kept), *others in alike.values():
        doubles = [tensor.name for graph, tensor in others if graph is not outer]
        gone |= dict.fromkeys(doubles, kept.name)
        if doubles and home is not outer:
            moved.append(kept)
    outer.initializer.extend(moved)
    left = gone.keys() | {tensor.name for tensor in moved}
    for graph in inner:
        keep_only(graph.initializer, lambda tensor: tensor.name not in left)
    rename(model.graph, gone)
    return len(gone)


def _key(tensor: TensorProto) -> str:
    kind = f"{tensor.data_type} {list(tensor.dims)} "
    return kind + hashlib.sha256(tensor.raw_data).hexdigest()

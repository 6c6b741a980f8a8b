"""If of which one branch alone fits what reads it: the nodes of that branch stand in its place.

`x.squeeze(-1)` of a size that varies is exported as an If that squeezes or passes on. Where an LSTM
or anything else of fixed rank reads what it gives, no call that passes on can succeed; but as long
as the If stands, no rank behind it is known, nothing there is folded, and OpenVINO cannot load it.
"""

from __future__ import annotations

import onnx
from onnx import GraphProto, ModelProto, NodeProto

from compress.export.bodies import graphs
from compress.quantization.rewriting.branches import (
    branch_of,
    inline,
    inline_known_branches,
    only_inputs_declared,
)
from compress.quantization.rewriting.files import without_weights
from compress.quantization.scopes import unique_names

#: Each costs two inferences of all shapes; with more of them it is no longer a matter of ranks.
_MOST = 50


def inline_only_branches(model: ModelProto) -> int:
    """Replace each If by its only branch with which the ranks and types of all values fit.

    They are inferred from the declared inputs, with the branch in the If's place and all others
    whose condition is known then; a branch with which that fails would fail in every call.

    Returns:
        How many If were replaced in place, with those whose condition became known by it.
    """
    if not 0 < len(_conditional(model)) <= _MOST:
        return 0
    unique_names(model)
    before = len(_conditional(model))
    without_weights(model, _decided)
    return before - len(_conditional(model))


def _decided(model: ModelProto) -> ModelProto:
    if not _fits(model):
        return model  # it is told of no branch that it is to blame
    seen = set[str]()
    while waiting := [name for name in _conditional(model) if name not in seen]:
        seen.add(waiting[0])
        tried = [_with(model, waiting[0], name) for name in ("then_branch", "else_branch")]
        fitting = [found for found in tried if _fits(found)]
        if len(fitting) == 1:
            model = fitting[0]
    return model


def _conditional(model: ModelProto) -> list[str]:
    """First results of all If, outer ones first."""
    return [
        node.output[0]
        for graph in graphs(model.graph)
        for node in graph.node
        if node.op_type == "If" and node.domain in ("", "ai.onnx")
    ]


def _with(model: ModelProto, result: str, branch: str) -> ModelProto:
    """A copy that takes this branch in every call."""

    def taken(node: NodeProto) -> GraphProto | None:
        return branch_of(node, branch) if node.output[:1] == [result] else None

    found = ModelProto()
    found.CopyFrom(model)
    inline(found.graph, taken)
    inline_known_branches(found)
    return found


def _fits(model: ModelProto) -> bool:
    alone = only_inputs_declared(model)
    try:
        onnx.shape_inference.infer_shapes(alone, strict_mode=True, data_prop=True)
    except Exception:  # onnx's own classes share no public base
        return False
    return True

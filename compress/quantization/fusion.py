"""Two rewrites that make a Transformer faster on onnxruntime's CPU kernels and change no result.

*Attention as one operator*, ONNX's own of opset 23: it saves the transpositions and reshapes, and a
pass over the scores for the scale. *Sums kept apart from normalizations*: onnxruntime merges both
into SkipLayerNormalization, whose kernel takes twice the time of the two.

What that gives in fp32, static and dynamic int8 is in `benchmarks/transformer_int8.py`. What
onnxruntime's own tools for Transformers offer was tried and was no faster: MultiHeadAttention, one
product for queries, keys and values, and their fusion of sums with normalizations.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from onnx import ModelProto, NodeProto

from compress.quantization.editing import Converter, Edit, attributes, rewrite
from compress.quantization.rewriting.agreement import Disagreement, reference
from compress.quantization.rewriting.files import remove, save
from compress.quantization.rewriting.graph import Graph
from compress.quantization.rewriting.tidy import tidy
from compress.runtime.onnxruntime import Feeds

#: The first opset that has Attention, and the first one that differs in nothing else that matters.
_OPSET, _LEAST_OPSET = 23, 18
_HEADS_FIRST, _KEYS_TURNED = (0, 2, 1, 3), (0, 2, 3, 1)


def fuse(source: Path, target: Path, samples: Feeds) -> bool:
    """Write a faster copy of a preprocessed ONNX file that computes the same.

    Args:
        samples: real inputs, on which both files have to agree.

    Returns:
        Whether there was anything to gain; without, nothing is written.
    """
    model = onnx.load(source)
    attention = _fuse_attention(model)
    if not _keep_sums_apart(model) and not attention:
        return False
    save(model, target)
    del model  # its weights need not be held beside those of two sessions
    try:
        reference(source, samples).difference(target)
    except Disagreement:  # also an onnxruntime that has no such kernel, or one for other shapes
        remove(target)
        return False
    return True


def _keep_sums_apart(model: ModelProto) -> int:
    """Give sums that only a normalization reads a second reader, which stops their merger."""
    sums = {node.output[0] for node in model.graph.node if node.op_type == "Add"}

    def convert(edit: Edit, node: NodeProto) -> bool:
        total = node.input[0]
        if total not in sums or edit.only_user(total) is None or len(node.output) > 1:
            return False
        normalized = edit.add("LayerNormalization", node.input, **attributes(node))
        edit.add("Reshape", [normalized, edit.add("Shape", [total])], node.output[0])
        return True

    return rewrite(model, {"LayerNormalization": convert})


@dataclass(frozen=True)
class _Part:
    """Where queries, keys or values come from.

    Attributes:
        source: name of (batch, time, heads · head width).
        axes: which of (batch, time, heads, head width) each axis of what is multiplied was.
        factor: what it was multiplied by on the way.
    """

    source: str
    heads: int
    axes: tuple[int, ...]
    factor: float


@dataclass(frozen=True)
class _Attention:
    """Attention that is spread over many nodes; `mask` is empty where there is none."""

    query: _Part
    key: _Part
    value: _Part
    mask: str
    scale: float


class _Pieces(Graph):
    """A graph, and attention read out of its nodes."""

    def unscaled(self, name: str) -> tuple[str, float]:
        """The value before it was multiplied by constant numbers, and their product."""
        factor = 1.0
        while (node := self.maker(name, "Mul", "Div")) is not None:
            left, right = (self.constant(part) for part in node.input)
            if right is not None and right.size == 1:
                number, name = right.item(), node.input[0]
            elif left is not None and left.size == 1 and node.op_type == "Mul":
                number, name = left.item(), node.input[1]
            else:
                break
            factor = factor / number if node.op_type == "Div" else factor * number
        return name, factor

    def part(self, name: str) -> _Part | None:
        """Follow a value back to where its features were split into heads."""
        axes: tuple[int, ...] = (0, 1, 2, 3)
        factor = 1.0
        while True:
            name, number = self.unscaled(name)
            factor *= number
            node = self.maker(name, "Transpose", "Reshape")
            if node is None:
                return None
            turned = self._turned(node)
            if turned is None:
                heads = self._heads(node.input[1])
                return _Part(node.input[0], heads, axes, factor) if heads else None
            name, order = turned
            if len(order) != 4:
                return None
            axes = tuple(order[axis] for axis in axes)

    def _turned(self, node: NodeProto) -> tuple[str, tuple[int, ...]] | None:
        """What a transposition turns and how; None for a reshape that is no part of one."""
        if node.op_type == "Transpose":
            return node.input[0], tuple(attributes(node).get("perm", ()))
        # torch turns the keys of all heads and samples as one row of matrices.
        inner = self.maker(node.input[0], "Transpose")
        if inner is None or attributes(inner).get("perm") != [0, 2, 1]:
            return None
        outer = self.maker(inner.input[0], "Reshape")
        return None if outer is None else (outer.input[0], (0, 1, 3, 2))

    def _heads(self, shape: str) -> int:
        """The third number of four; 0 where it is not known."""
        whole, parts = self.constant(shape), self.maker(shape, "Concat")
        sizes: list[int] = [] if whole is None else whole.tolist()
        for name in () if parts is None else parts.input:
            known = self.constant(name)
            sizes += [0] if known is None else known.tolist()
        return max(sizes[2], 0) if len(sizes) == 4 else 0

    def attention(self, node: NodeProto) -> _Attention | None:
        """What a reshape that puts the heads beside each other belongs to."""
        turned = self.maker(node.input[0], "Transpose")
        if turned is None or tuple(attributes(turned).get("perm", ())) != _HEADS_FIRST:
            return None
        mixed = self.maker(turned.input[0], "MatMul")
        softmax = None if mixed is None else self._softmax(mixed.input[0])
        if mixed is None or softmax is None or attributes(softmax).get("axis", -1) not in (-1, 3):
            return None
        for scores, mask in self._masked(softmax.input[0]):
            name, scale = self.unscaled(scores)
            product = self.maker(name, "MatMul")
            if product is None:
                continue
            parts = [self.part(name) for name in (*product.input, mixed.input[1])]
            query, key, value = parts
            if query is None or key is None or value is None:
                return None
            scale *= query.factor * key.factor
            return _Attention(query, key, value, mask, scale)
        return None

    def _softmax(self, name: str) -> NodeProto | None:
        """The softmax that made the weights, looked for behind torch's guard against NaN."""
        guard = self.maker(name, "Where")
        if guard is not None and self.maker(guard.input[0], "IsNaN") is not None:
            name = guard.input[2]
        return self.maker(name, "Softmax")

    def _masked(self, name: str) -> Iterator[tuple[str, str]]:
        """Scores and what may have been added to them as a mask."""
        added = self.maker(name, "Add")
        if added is None:
            yield name, ""
        else:
            yield added.input[0], added.input[1]
            yield added.input[1], added.input[0]


def _fuse_attention(model: ModelProto) -> int:
    """Replace attention by ONNX's operator, in place; returns how often."""
    graph = model.graph
    versions = [entry for entry in model.opset_import if entry.domain in ("", "ai.onnx")]
    kinds = {node.op_type for node in graph.node}
    known = bool(versions) and versions[0].version >= _LEAST_OPSET
    if not known or "GroupNormalization" in kinds:  # which opset 21 changed
        return 0
    count = rewrite(model, {"Reshape": _attention_converter(_Pieces(model))})
    if count:
        tidy(model, model)
        versions[0].version = max(versions[0].version, _OPSET)
        model.ir_version = max(model.ir_version, 11)
    return count


def _attention_converter(graph: _Pieces) -> Converter:
    expanded: dict[str, str] = {}  # masks by name

    def convert(edit: Edit, node: NodeProto) -> bool:
        found = graph.attention(node)
        if found is None or not _fits(found):
            return False
        inputs = [found.query.source, found.key.source, found.value.source]
        if found.mask:
            if found.mask not in expanded:
                expanded[found.mask] = _expand(edit, found.mask, found.query.source)
            inputs.append(expanded[found.mask])
        heads = found.query.heads
        numbers = {"q_num_heads": heads, "kv_num_heads": heads, "scale": found.scale}
        edit.add("Attention", inputs, node.output[0], **numbers)
        return True

    return convert


def _fits(found: _Attention) -> bool:
    parts = (found.query, found.key, found.value)
    axes = [part.axes for part in parts] == [_HEADS_FIRST, _KEYS_TURNED, _HEADS_FIRST]
    return axes and len({part.heads for part in parts}) == 1 and found.value.factor == 1


def _expand(edit: Edit, mask: str, query: str) -> str:
    """The mask with a row for each query; onnxruntime takes none that is the same for all."""
    time = edit.add("Shape", [query], start=1, end=2)
    shape = edit.add("Concat", [time, edit.constant("one_key", np.array([1]))], axis=0)
    return edit.add("Expand", [mask, shape])

"""Layers that are slower in int8 than in fp32 here, by onnxruntime's own profiles of both files.

Depthwise convolutions, few channels and small products give an int8 kernel too little to do, and
what stands around a layer alone in int8 is converted to and fro. None of that follows from the
graph: it is the CPU's and the runtime's, so it is measured.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Collection, Iterator
from pathlib import Path

from onnx import NodeProto

from compress.errors import CompressError
from compress.export.bodies import nodes_everywhere
from compress.export.loading import load_graph
from compress.measure.latency import Batches
from compress.measure.profile import ProfileConfig, profile
from compress.progress import Progress, quiet
from compress.report.profile_schema import ProfiledNode

#: Processes a file. Where two of them cannot tell int8 from fp32, either will do.
_WORKERS = 2
#: What onnxruntime puts behind a node's name where it makes another one of it.
_MADE_OF = re.compile(r"(_token_\d+|_\d+|/\w+/?)$")
#: The same of the value that a convolution in the CPU's own layout gives.
_LAID_OUT = "_nchwc"
_CONVERSION = re.compile(r"(.+)_(QuantizeLinear|DequantizeLinear)(_token_\d+|_\d+)*$")
#: So many nodes may stand between a layer and the value that its fused node gives.
_FUSED = 6


def slower_layers(
    fp32: Path,
    int8: Path,
    names: Collection[str],
    *,
    batch: int = 1,
    inputs: Batches | None = None,
    progress: Progress = quiet,
) -> frozenset[str]:
    """Those of the layers that take longer in the int8 file, with the conversions around them.

    On one thread. A layer that either profile does not tell of is left out.

    Args:
        fp32: as it was quantized, its nodes' and values' names included.
        int8: static QDQ of it, every layer that it can be.
        names: of the layers' nodes.
        batch, inputs: samples of a call, and the calls; see `profile`.

    Raises:
        CompressError: one of the files cannot be profiled.
    """
    failed: dict[str, str] = {}
    settings = ProfileConfig(batch=batch, workers=_WORKERS)
    found = profile(
        {"fp32": fp32, "int8": int8}, settings, inputs=inputs, progress=progress, failed=failed
    )
    for arm, reason in failed.items():
        raise CompressError(f"the {arm} model cannot be profiled: {reason}")
    layers = _Layers(nodes_everywhere(load_graph(fp32).graph), names)
    before, after = (layers.times(found[arm].nodes) for arm in ("fp32", "int8"))
    return frozenset(name for name in before.keys() & after.keys() if after[name] > before[name])


class _Layers:
    """The layers of an fp32 graph, found again by the names in a profile."""

    def __init__(self, nodes: Collection[NodeProto], names: Collection[str]) -> None:
        self._names = frozenset(names)
        self._made_by = {value: node for node in nodes for value in node.output}
        self._order = {node.name: place for place, node in enumerate(nodes)}
        self._readers = defaultdict[str, list[str]](list)
        for node in nodes:
            for value in node.input:
                self._readers[value].append(node.name)

    def times(self, nodes: Collection[ProfiledNode]) -> dict[str, float]:
        """Microseconds of each layer: its own, and its share of conversions beside it."""
        found = defaultdict[str, float](float)
        for node in nodes:
            name = self._layer(node)
            if name is not None:
                found[name] += node.us
        for node in nodes:
            beside = [name for name in self._beside(node) if name in found]
            for name in beside:
                found[name] += node.us / len(beside)
        return dict(found)

    def _layer(self, node: ProfiledNode) -> str | None:
        """The layer that a node of the runtime was made of."""
        if node.name.endswith(_LAID_OUT):
            return self._behind(node.name.removesuffix(_LAID_OUT))
        name, shorter = node.name, _MADE_OF.sub("", node.name)
        while name not in self._names and shorter != name:
            name, shorter = shorter, _MADE_OF.sub("", shorter)
        return name if name in self._names else None

    def _beside(self, node: ProfiledNode) -> Iterator[str]:
        """The layers that a conversion is for; empty for any other node."""
        match = _CONVERSION.match(node.name)
        if match is None or node.operator not in ("QuantizeLinear", "DequantizeLinear"):
            return
        value, kind = match[1], match[2]
        if kind == "QuantizeLinear":
            yield from (name for name in self._readers[value] if name in self._names)
        elif (name := self._behind(value)) is not None:
            yield name

    def _behind(self, value: str, depth: int = 0) -> str | None:
        """The last layer before a value; what stands between the two is fused with it."""
        node = self._made_by.get(value)
        if node is None or depth > _FUSED:
            return None
        if node.name in self._names:
            return node.name
        found = (self._behind(name, depth + 1) for name in node.input)
        known = [name for name in found if name is not None]
        return max(known, key=self._order.__getitem__, default=None)

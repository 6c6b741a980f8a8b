"""onnxruntime's profiler trace, read into the time of every node of every call.

The trace is in Chrome's trace event format, written as things *end*: the nodes in the body of a
Loop stand before the Loop itself, behind each pass an event of the executor, and every call ends in
a "model_run". Times are whole microseconds, rounded down. A node's time ends after the profiler has
put its entry together, which takes microseconds: where nodes are short, that is most of what the
trace tells, and has to be taken off. Standard library only: a worker reads its own trace.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from compress.errors import ModelFileError

_KERNEL = "_kernel_time"
_CALL, _PASS = "model_run", "SequentialExecutor::Execute"
#: Name of each node from the outermost to the node itself, with its place in its graph.
Key = tuple[str, ...]


@dataclass
class Node:
    """What one node took in one call.

    Attributes:
        inputs, outputs: type and sizes of each tensor, as they were in its first run.
        inside: name of the node whose body it stands in.
        runs: how often it ran.
        inner: how often nodes ran in its body.
        us: microseconds of all runs, without those of the nodes in its body.
    """

    name: str
    operator: str
    provider: str
    inputs: list[tuple[str, list[int]]]
    outputs: list[tuple[str, list[int]]]
    inside: str | None
    runs: int = 0
    inner: int = 0
    us: int = 0


@dataclass(frozen=True)
class Call:
    """One call of the model: its nodes, and its own time in microseconds."""

    nodes: dict[Key, Node]
    us: int

    @property
    def kernels_us(self) -> int:
        """Time in kernels, each counted once."""
        return sum(node.us for node in self.nodes.values())


@dataclass(frozen=True)
class Cost:
    """What the profiler itself takes, in microseconds.

    Attributes:
        run: of each run of a node, counted by the profiler as the node's own.
        between: of each run of a node, behind it.
    """

    run: float = 0.0
    between: float = 0.0


@dataclass(frozen=True)
class _Event:
    """One run of a node, and what ran in its body."""

    start: int
    us: int
    name: str
    details: Mapping[str, Any]
    body: Sequence[_Event] = field(default_factory=tuple)


def read_trace(path: Path) -> list[Call]:
    """Every complete call of a trace, in order; what a full buffer cut off at the end is left out.

    Raises:
        ModelFileError: the file is no trace of onnxruntime.
    """
    try:
        events = json.loads(path.read_text(encoding="utf-8", errors="replace"))
        return list(_calls(events))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelFileError(
            f"{path.name}: not a trace that onnxruntime's profiler writes "
            f"({type(error).__name__}: {error}); a newer onnxruntime may help."
        ) from None


def _calls(events: Iterable[Mapping[str, Any]]) -> Iterator[Call]:
    """Calls from events in the order in which they ended."""
    ended: list[_Event] = []
    passed = False  # whether the last event was the end of a pass through a body
    for event in events:
        name, start, us = event["name"], int(event["ts"]), int(event["dur"])
        if event["cat"] == "Node" and name.endswith(_KERNEL):
            body = _taken(ended, start) if passed else []
            label = printable(name.removesuffix(_KERNEL))
            ended.append(_Event(start, us, label, event["args"], body))
        elif name == _CALL:
            yield Call(_nodes(ended), us)
            ended = []
        passed = name == _PASS


def _taken(ended: list[_Event], start: int) -> list[_Event]:
    """The events at the end of the list that began after `start`, taken off it."""
    first = len(ended)
    while first and ended[first - 1].start >= start:
        first -= 1
    body = ended[first:]
    del ended[first:]
    return body


def _nodes(events: Iterable[_Event]) -> dict[Key, Node]:
    found: dict[Key, Node] = {}
    _gather(events, (), None, found)
    return found


def _gather(
    events: Iterable[_Event], outer: Key, inside: str | None, found: dict[Key, Node]
) -> None:
    """Add each run to its node; two nodes are one where their names and places are."""
    for event in events:
        key = (*outer, f"{event.details.get('node_index')} {event.name}")
        node = found.get(key)
        if node is None:
            node = found[key] = _node(event, inside)
        node.runs += 1
        node.inner += len(event.body)
        # Rounding can make a body longer than what it stands in.
        node.us += max(0, event.us - sum(inner.us for inner in event.body))
        _gather(event.body, key, event.name, found)


def _node(event: _Event, inside: str | None) -> Node:
    return Node(
        name=event.name,
        operator=printable(event.details["op_name"]),
        provider=event.details.get("provider", ""),
        inputs=_tensors(event.details.get("input_type_shape", [])),
        outputs=_tensors(event.details.get("output_type_shape", [])),
        inside=inside,
    )


def _tensors(described: Iterable[Mapping[str, list[int]]]) -> list[tuple[str, list[int]]]:
    return [(kind, list(sizes)) for tensor in described for kind, sizes in tensor.items()]


def printable(text: str) -> str:
    """A name from a model without what could move a terminal's cursor or break a line."""
    return "".join(letter if letter.isprintable() else "�" for letter in text)


def middle_mean(values: Sequence[float]) -> float:
    """The mean without the lowest and the highest quarter: what interrupted a call has no say."""
    cut = len(values) // 4
    kept = sorted(values)[cut : len(values) - cut]
    return sum(kept) / len(kept)


def summary(calls: Sequence[Call], cost: Cost) -> dict[str, Any]:
    """The calls as one, the profiler's own cost taken off; as plain JSON.

    Returns:
        "calls": how many there were; "us": of a call under the profiler; "nodes": of each its key
        and description, its runs a call and its microseconds a call.

    Raises:
        ModelFileError: there is no call.
    """
    if not calls:
        raise ModelFileError("the profiler's trace holds no complete call of the model.")
    grouped: dict[Key, list[Node]] = defaultdict(list)
    for call in calls:
        for key, node in call.nodes.items():
            grouped[key].append(node)
    nodes = [_mean(key, members, len(calls), cost) for key, members in grouped.items()]
    return {"calls": len(calls), "us": middle_mean([call.us for call in calls]), "nodes": nodes}


def _mean(key: Key, members: Sequence[Node], calls: int, cost: Cost) -> dict[str, Any]:
    """One node over all calls; it may be missing from some, as the branches of an If are."""
    first = members[0]
    times = [node.us - cost.run * node.runs - cost.between * node.inner for node in members]
    return {
        "key": list(key),
        "name": first.name,
        "operator": first.operator,
        "provider": first.provider,
        "inputs": first.inputs,
        "outputs": first.outputs,
        "inside": first.inside,
        "runs": sum(node.runs for node in members) / calls,
        "us": max(0.0, middle_mean(times) * len(members) / calls),
    }


def profiler_cost(calls: Sequence[Call], wall_us: float) -> Cost:
    """What the profiler takes, from calls of a model whose nodes do next to nothing.

    Args:
        wall_us: of a whole call of that model without the profiler. Its nodes are shorter than
            their part of it, so that a little too little is taken off, never too much.
    """
    runs = sum(node.runs for node in calls[0].nodes.values())
    kernels = middle_mean([call.kernels_us for call in calls])
    between = middle_mean([call.us - call.kernels_us for call in calls])
    return Cost(max(0.0, (kernels - wall_us) / runs), between / runs)

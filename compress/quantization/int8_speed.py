"""Which layers are slower in int8 than in fp32, by the runtime's own profiler."""

from __future__ import annotations

import tempfile
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import onnx
from onnx import GraphProto

from compress.measure.profile import ProfileConfig, profile
from compress.progress import Progress, quiet
from compress.quantization.layers import check_names, int8_layers, layers
from compress.quantization.marked import layer_of_tensors, marked, times
from compress.runtime.onnxruntime import Feeds

_QUANTIZE, _RESTORE = "QuantizeLinear", "DequantizeLinear"
#: Microseconds that a conversion takes however small it is.
_LEAST_US = 1.0


def slower_in_int8(
    source: Path,
    quantized: Path,
    samples: Feeds,
    *,
    threads: int = 1,
    margin: float = 0.2,
    workers: int = 2,
    progress: Progress = quiet,
) -> frozenset[str]:
    """Names of the layers that int8 makes slower: a proposal of what to leave in fp32.

    To a layer's time in int8 belong the conversions at its edges, shared with the other layers that
    need them; to its time in fp32 those that it would need instead where the layers around it stay
    int8, estimated from those that there are. A layer that is not found in both profiles is not
    named. What the proposal is worth has to be measured on the whole model.

    Args:
        source: ONNX file of the fp32 model, whose layers have names of their own.
        quantized: the same in int8, where layers keep their names or those of their outputs.
        samples: one batch; its size is that of the calls.
        threads: of the runtime.
        margin: a layer is named where int8 takes longer by more than this share.
        workers: processes for each model.

    Raises:
        ModelFileError: a layer has no name of its own.
        WorkerFailed: a process died, hung, or could not load a model.
    """
    models = {"fp32": onnx.load(source), "int8": onnx.load(quantized)}
    check_names(models["fp32"], layers(models["fp32"]), source)
    names = int8_layers(models["fp32"], models["int8"])
    owners, arms, marks = layer_of_tensors(models["fp32"]), dict[str, Path](), {}
    with tempfile.TemporaryDirectory() as folder:
        for arm, model in models.items():
            copy, marks[arm] = marked(model, owners)
            arms[arm] = Path(folder) / f"{arm}.onnx"
            onnx.save(copy, arms[arm])
        config = ProfileConfig(batch=len(samples[0]), threads=threads, workers=workers)
        found = profile(arms, config, inputs=lambda _: samples, progress=progress)
    us = times(found["fp32"], marks["fp32"])[0]
    int8_us, sizes = times(found["int8"], marks["int8"])
    return slower(us, int8_us, sizes, conversions(models["int8"].graph, names), names, margin)


@dataclass(frozen=True)
class Conversion:
    """A tensor that is stored in int8, and what runs in the graph where that is not fused away.

    Attributes:
        maker: layer whose output it is; empty where no layer made it.
        users: who reads it: layers by name, other nodes as "node 7".
        stored, restored: the nodes that quantize it and make it fp32 again, as "node 7".
    """

    maker: str
    users: tuple[str, ...]
    stored: str
    restored: tuple[str, ...]


def conversions(graph: GraphProto, names: frozenset[str]) -> list[Conversion]:
    """Every tensor of a QDQ graph that is stored in int8; `names` are the layers in int8."""
    nodes = list(graph.node)
    readers: dict[str, list[int]] = defaultdict(list)
    made_by = {output: node.name for node in nodes for output in node.output}
    for place, node in enumerate(nodes):
        for name in node.input:
            readers[name].append(place)

    def owner(place: int) -> str:
        return nodes[place].name if nodes[place].name in names else f"node {place}"

    found = []
    for place, node in enumerate(nodes):
        if node.op_type != _QUANTIZE:
            continue
        maker = made_by.get(node.input[0], "")
        restored = [at for at in readers[node.output[0]] if nodes[at].op_type == _RESTORE]
        users = [owner(at) for one in restored for at in readers[nodes[one].output[0]]]
        found.append(
            Conversion(
                maker=maker if maker in names else "",
                users=tuple(dict.fromkeys(users)),
                stored=f"node {place}",
                restored=tuple(f"node {at}" for at in restored),
            )
        )
    return found


def slower(
    fp32_us: Mapping[str, float],
    int8_us: Mapping[str, float],
    sizes: Mapping[str, int],
    edges: list[Conversion],
    names: frozenset[str],
    margin: float,
) -> frozenset[str]:
    """The layers of `names` that lose, see `slower_in_int8`.

    Args:
        fp32_us, int8_us: microseconds of layers and of "node 7", where they ran at all.
        sizes: values that each reads in int8.
    """
    own, instead = defaultdict[str, float](float), defaultdict[str, float](float)
    store = _rate([edge.stored for edge in edges], int8_us, sizes)
    restore = _rate([one for edge in edges for one in edge.restored], int8_us, sizes)
    for edge in edges:
        stored = int8_us.get(edge.stored, 0.0)
        restored = sum(int8_us.get(one, 0.0) for one in edge.restored)
        values = max((sizes.get(user, 0) for user in edge.users), default=0)
        in_int8 = [user for user in edge.users if user in names]
        own[edge.maker] += restored
        for user in in_int8:
            own[user] += stored / len(edge.users)
            if not stored and not restored:  # in fp32 it would have to be made so
                instead[user] += _LEAST_US + restore * values
        if not stored and in_int8:
            instead[edge.maker] += _LEAST_US + store * values
    return frozenset(
        name
        for name in names & fp32_us.keys() & int8_us.keys()
        if int8_us[name] + own[name] > (1 + margin) * (fp32_us[name] + instead[name])
    )


def _rate(nodes: list[str], us: Mapping[str, float], sizes: Mapping[str, int]) -> float:
    """Microseconds a value of the conversions that ran; 0 where none did."""
    ran = [node for node in nodes if node in us]
    values = sum(sizes.get(node, 0) for node in ran)
    return sum(max(0.0, us[node] - _LEAST_US) for node in ran) / values if values else 0.0

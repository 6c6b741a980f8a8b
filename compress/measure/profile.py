"""Profiles of several models, taken in worker processes that come in turn."""

from __future__ import annotations

import math
import tempfile
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import onnx
from onnx import ModelProto, TensorProto, helper
from pydantic import BaseModel, ConfigDict, Field

from compress.measure.config import BenchConfig, Count
from compress.measure.latency import Batches
from compress.measure.precision import node_precision, tensor_text
from compress.measure.processes import ArmFailed, run_worker
from compress.measure.trace import middle_mean
from compress.progress import Progress, quiet
from compress.report.profile_schema import CONVERSION, Profile, ProfiledNode, ProfiledOperator

_Key = tuple[str, ...]
_PROGRAM = ("-m", "compress.measure.profile_worker")


class ProfileConfig(BaseModel):
    """How a profile is taken.

    Attributes:
        batch, threads: samples a call, and the runtime's intra-op threads.
        length: of every open dimension of made-up inputs behind the batch; 1 where None.
        workers: processes a model. Of six, the lowest and the highest figure bound the median of
            all such processes at 97 %: it lies outside with probability 2 · (1/2)⁶.
        timeout: seconds until a worker counts as hung.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    batch: Count = 1
    length: Count | None = None
    threads: Count = 1
    workers: Annotated[int, Field(ge=1, le=64)] = 6
    timeout: Annotated[float, Field(gt=0)] = 600.0


def bench_profiles(
    arms: Mapping[str, Path],
    config: BenchConfig,
    *,
    inputs: Batches | None,
    progress: Progress = quiet,
) -> tuple[dict[str, Profile], dict[str, str]]:
    """The profiles that a benchmark asks for, none where it does not, and why any is missing."""
    if not config.profile:
        return {}, {}
    settings = ProfileConfig(
        batch=config.batch[0],
        length=config.lengths[0],
        threads=config.threads[0],
        timeout=config.timeout,
    )
    failed: dict[str, str] = {}
    found = profile(arms, settings, inputs=inputs, progress=progress, failed=failed)
    return found, failed


def profile(
    arms: Mapping[str, Path],
    config: ProfileConfig,
    *,
    inputs: Batches | None = None,
    progress: Progress = quiet,
    failed: dict[str, str] | None = None,
) -> dict[str, Profile]:
    """Where each model's time goes on the CPU, by onnxruntime's own profiler.

    Models take turns, process by process, in an order that turns round each time, so that figures
    of the same turn can be subtracted from each other. What the profiler itself costs is measured
    in every process on a model of idle nodes and taken off.

    Args:
        arms: name to ONNX file.
        inputs: batch size to real samples, one array for each of the models' inputs; made from the
            declared shapes where None.
        failed: takes the name of each arm that fails, with the reason, and the others go on.

    Raises:
        WorkerFailed: a process died, hung, or could not load a model, and `failed` is None.
    """
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in arms}
    with tempfile.TemporaryDirectory() as folder:
        idle, stored = Path(folder) / "idle.onnx", None
        onnx.save(idle_model(), idle)
        if inputs is not None:
            stored = str(Path(folder) / "inputs.npz")
            np.savez(stored, *inputs(config.batch))
        names, total = list(arms), config.workers * len(arms)
        for turn in range(config.workers):
            for step, name in enumerate(names if turn % 2 == 0 else names[::-1], 1):
                job = {
                    "arms": [{"name": name}],
                    "file": str(arms[name].absolute()),
                    "idle": str(idle),
                    "threads": [config.threads],
                    "batch": config.batch,
                    "length": config.length,
                    "inputs": stored,
                }
                if name in found:
                    _run(name, job, config.timeout, Path(folder), found, failed)
                progress("profile", turn * len(arms) + step, total)
    return {name: merge(results, config) for name, results in found.items()}


def _run(
    name: str,
    job: dict[str, Any],
    timeout: float,
    folder: Path,
    found: dict[str, list[dict[str, Any]]],
    failed: dict[str, str] | None,
) -> None:
    """One process of one arm, whose answer is added to `found`, or which goes from there."""
    try:
        found[name].append(run_worker(job, timeout, folder, program=_PROGRAM))
    except ArmFailed as failure:
        if failed is None:
            raise failure.error([name]) from None
        failed[name] = failure.reason
        del found[name]


def idle_model(nodes: int = 60) -> ModelProto:
    """A chain of sums of one number and one number: what a trace tells of it is the profiler."""
    values = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 1, 1])
        for name in ("v0", f"v{nodes}")
    ]
    chain = [helper.make_node("Add", [f"v{at}", "v0"], [f"v{at + 1}"]) for at in range(nodes)]
    graph = helper.make_graph(chain, "idle", values[:1], values[1:])
    opset = [helper.make_opsetid("", 18)]
    return helper.make_model(graph, opset_imports=opset, ir_version=9)


def merge(results: Sequence[Mapping[str, Any]], config: ProfileConfig) -> Profile:
    """One profile from what every process found, see `profile_worker.profile`.

    A node's figure is the mean over the middle half of the processes; sums are sums of these.
    """
    seen: dict[_Key, Mapping[str, Any]] = {}
    times: dict[_Key, np.ndarray] = defaultdict(lambda: np.zeros(len(results)))
    for worker, result in enumerate(results):
        for node in result["nodes"]:
            seen.setdefault(tuple(node["key"]), node)
            times[tuple(node["key"])][worker] = node["us"]
    typical = {key: middle_mean(values.tolist()) for key, values in times.items()}
    total = math.fsum(typical.values())
    keys = sorted(seen, key=lambda key: -typical[key])
    nodes = [_node(seen[key], typical[key], total) for key in keys]
    shares = _by(nodes, lambda node: node.precision, lambda node: node.share)
    int8 = [kind for kind in shares if kind.startswith("int8") and kind != CONVERSION]
    return Profile(
        batch=config.batch,
        length=config.length,
        threads=config.threads,
        calls=sum(result["calls"] for result in results),
        kernels_us=total,
        wall_us=middle_mean([result["wall_us"] for result in results]),
        profiled_us=middle_mean([result["us"] for result in results]),
        cost_us=middle_mean([result["cost_us"] for result in results]),
        workers_kernels_us=np.sum(list(times.values()), axis=0).tolist(),
        workers_wall_us=[result["wall_us"] for result in results],
        operators=_operators(nodes, [times[key] for key in keys]),
        nodes=nodes,
        int8_nodes=sum(node.precision in int8 for node in nodes),
        int8_share=min(1.0, sum(shares[kind] for kind in int8)),
        conversion_share=min(1.0, shares.get(CONVERSION, 0.0)),
    )


def _node(node: Mapping[str, Any], us: float, total: float) -> ProfiledNode:
    return ProfiledNode(
        name=node["name"],
        operator=node["operator"],
        precision=node_precision(node["operator"], node["inputs"], node["outputs"]),
        provider=node["provider"],
        shapes=[tensor_text(kind, sizes) for kind, sizes in node["inputs"]],
        inside=node["inside"],
        runs=node["runs"],
        us=us,
        share=us / total if total else 0.0,
    )


def _operators(
    nodes: Sequence[ProfiledNode], times: Sequence[np.ndarray]
) -> list[ProfiledOperator]:
    """Nodes by type, the slowest first; `times` has (workers,) microseconds of each node."""
    grouped: dict[str, list[int]] = defaultdict(list)
    for place, node in enumerate(nodes):
        grouped[node.operator].append(place)
    workers_us = np.maximum(np.sum(list(times), axis=0), 1e-9)
    found = [
        _operator(
            operator, [nodes[at] for at in places], sum(times[at] for at in places), workers_us
        )
        for operator, places in grouped.items()
    ]
    return sorted(found, key=lambda entry: -entry.us)


def _operator(
    operator: str, members: Sequence[ProfiledNode], summed: Any, workers_us: np.ndarray
) -> ProfiledOperator:
    shares = summed / workers_us
    counts = Counter(node.precision for node in members)
    return ProfiledOperator(
        operator=operator,
        nodes=len(members),
        runs=sum(node.runs for node in members),
        us=math.fsum(node.us for node in members),
        share=min(1.0, math.fsum(node.share for node in members)),
        share_range=(float(shares.min()), float(shares.max())),
        workers_us=summed.tolist(),
        precisions=dict(sorted(counts.items())),
        precisions_us=_by(members, lambda node: node.precision, lambda node: node.us),
    )


def _by(
    nodes: Sequence[ProfiledNode],
    group: Callable[[ProfiledNode], str],
    figure: Callable[[ProfiledNode], float],
) -> dict[str, float]:
    sums: dict[str, float] = defaultdict(float)
    for node in nodes:
        sums[group(node)] += figure(node)
    return dict(sorted(sums.items()))

"""Which tensors of a graph need a range, and the session that gives them."""

from __future__ import annotations

import tempfile
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path

import onnx
import onnxruntime as ort
from onnx import ModelProto, NodeProto, TensorProto, ValueInfoProto
from onnxruntime.quantization.registry import QDQRegistry, QLinearOpsRegistry

from compress.errors import ModelFileError, UnknownName, first_line
from compress.export.bodies import graphs, nodes_everywhere
from compress.quantization.calibration.inside import bring_out
from compress.quantization.rewriting.files import save
from compress.quantization.scopes import unique_names
from compress.runtime.isolated import Crashed, calls

#: All operators that onnxruntime's static quantization knows.
STATIC_KINDS = frozenset({*QLinearOpsRegistry, *QDQRegistry})
#: Operators that move values and change none.
_MOVING = {"Reshape", "Transpose", "Squeeze", "Unsqueeze", "Flatten", "Identity"}
#: Operators with weights.
_LAYERS = ("Conv", "ConvTranspose", "GRU", "Gemm", "LSTM", "MatMul", "RNN")
_FLOATS = ("tensor(float)", "tensor(float16)")
_FLOAT_TYPES = (TensorProto.FLOAT, TensorProto.FLOAT16)


@dataclass(frozen=True)
class Origin:
    """The tensor that another one's statistics follow from.

    Attributes:
        name: of the tensor that is looked at.
        positive: whether ReLU stands between the two.
    """

    name: str
    positive: bool = False


@dataclass(frozen=True)
class Observed:
    """A loaded model whose inner tensors can be asked for.

    Attributes:
        session: gives every tensor of `fetched`.
        fetched: names of floating-point tensors, without inputs; of those in the bodies of If,
            Loop and Scan as lists, see `bring_out`.
        origins: by name, all tensors that need a range; inputs and those fetched are their own.
        layered: names of what layers read or give, as against what merely stands between others.
    """

    session: ort.InferenceSession
    fetched: list[str]
    origins: dict[str, Origin]
    layered: frozenset[str]


def observe(
    source: Path,
    *,
    kinds: Collection[str],
    channels: Collection[str],
    threads: int,
    bodies: bool = True,
) -> Observed:
    """Load a model so that it gives what calibration needs.

    Args:
        kinds: operators whose inputs and outputs need a range.
        channels: tensors that are looked at by themselves, not through their origin.
        threads: of onnxruntime; 0 for all cores.
        bodies: whether to look into those of If, Loop and Scan, where onnxruntime takes that.

    Raises:
        ModelFileError: the file is missing, damaged, or onnxruntime cannot run it.
        UnknownName: no tensor of a name in `channels`.
    """
    model = _load(source)
    origins = _origins(model, kinds, channels)
    layered = frozenset(_touched(nodes_everywhere(model.graph), _LAYERS))
    wanted = {origin.name for origin in origins.values()}
    outside = wanted & {name for node in model.graph.node for name in node.output}
    inside = wanted & _floats_in_bodies(model) if bodies else set[str]()
    declared = {value.name for value in model.graph.output}
    # Without a type: onnxruntime infers it, also where the file does not declare it.
    model.graph.output.extend(ValueInfoProto(name=name) for name in sorted(outside - declared))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "observed.onnx"
        if not (inside and _write_inside(model, inside, path)):
            save(model, path)
        del model  # its weights need not be held beside the session's, nor the file's bytes
        session = _open(source, path, threads)
    entries = [*session.get_inputs(), *session.get_outputs()]
    floats = {entry.name for entry in entries if entry.type in _FLOATS}
    origins = {name: origin for name, origin in origins.items() if origin.name in floats}
    return Observed(session, sorted((outside | inside) & floats), origins, layered)


def tensors_needed(source: Path) -> set[str]:
    """Names of all tensors that static quantization may ask a range of."""
    return set(_origins(_load(source, weights=False), STATIC_KINDS, ()))


def tensors_made(source: Path) -> set[str]:
    """Names of all tensors that a file computes or takes."""
    every = list(graphs(_load(source, weights=False).graph))
    found = {name for graph in every for node in graph.node for name in node.output}
    return found | {value.name for graph in every for value in graph.input}


def _load(source: Path, *, weights: bool = True) -> ModelProto:
    if not source.is_file():
        raise ModelFileError(f"{source}: no such file; expected an ONNX model.")
    try:
        model = onnx.load(source, load_external_data=weights)
    except Exception as error:  # protobuf's and onnx's errors share no base
        raise ModelFileError(f"{source}: not a valid ONNX model: {first_line(error)}") from None
    unique_names(model)
    return model


def _floats_in_bodies(model: ModelProto) -> set[str]:
    """Names of values in bodies that are known to be floating-point."""
    inner = list(graphs(model.graph))[1:]
    values = (v for graph in inner for v in (*graph.value_info, *graph.input, *graph.output))
    return {value.name for value in values if value.type.tensor_type.elem_type in _FLOAT_TYPES}


def _origins(
    model: ModelProto, kinds: Collection[str], channels: Collection[str]
) -> dict[str, Origin]:
    nodes = nodes_everywhere(model.graph)
    made_by = {name: node for node in nodes for name in node.output}
    varying = {value.name for graph in graphs(model.graph) for value in graph.input}
    varying -= {tensor.name for tensor in model.graph.initializer}
    known = {name for node in model.graph.node for name in node.output}
    known |= varying & {value.name for value in model.graph.input}
    for unknown in set(channels) - known:  # of those in bodies, channels are not told apart
        raise UnknownName("tensor (channels)", unknown, known - {""})
    for node in nodes:
        if node.op_type != "Constant":
            varying |= set(node.output)
    needed = {*channels, *_touched(nodes, kinds)} & varying - {""}
    whole = frozenset(channels)
    return {name: _origin(name, made_by, varying, whole) for name in sorted(needed)}


def _touched(nodes: Iterable[NodeProto], kinds: Collection[str]) -> set[str]:
    found = [node for node in nodes if node.op_type in kinds]
    return {name for node in found for name in (*node.input, *node.output)}


def _origin(
    name: str, made_by: dict[str, NodeProto], varying: set[str], whole: frozenset[str]
) -> Origin:
    """Follow a tensor back through operators that change its values not at all, or by ReLU."""
    positive = False
    while name not in whole and name in made_by:
        node = made_by[name]
        if node.op_type not in _MOVING | {"Relu"} or node.input[0] not in varying:
            break
        positive |= node.op_type == "Relu"
        name = node.input[0]
    return Origin(name, positive)


def _write_inside(model: ModelProto, inside: Collection[str], path: Path) -> bool:
    """Write a copy that also gives values in bodies; whether onnxruntime takes it.

    Where it does not, or crashes, as it does over some If in If, what stands in bodies has no
    ranges and stays fp32.
    """
    changed = ModelProto()
    changed.CopyFrom(model)
    bring_out(changed, inside)
    save(changed, path)
    with calls(isolated=True) as call:
        try:
            call(_try, path)
        except (Crashed, ModelFileError):
            return False
    return True


def _try(path: Path) -> None:
    _open(path, path, 1)


def _open(source: Path, path: Path, threads: int) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 4  # what goes wrong is raised, and told once
    # One block of memory for all inner tensors of a run, for each run that is under way, is a
    # seventh more at the peak and no faster.
    options.enable_mem_pattern = False
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    try:
        return ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's own classes share no public base
        raise ModelFileError(
            f"{source}: onnxruntime cannot load it: {first_line(error)}"
        ) from error

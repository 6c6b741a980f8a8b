"""fp16: half the file, and on CUDA the fast arithmetic, where onnxruntime has no int8 convolutions.

All is fp16 but inputs and outputs, so that the file takes the place of the other one, and

- nodes that take or make a number on the samples that fp16 cannot hold;
- squares, roots and sums, in which what is small in fp32 is 0 in fp16.

A mask, a constant such as -3.4e38 that only has to be far below any score, would keep attention in
fp32. It becomes one that fp16 can hold, also twice, where all outputs stay what they were.

Where a runtime has no fp16 kernel, as onnxruntime has none for LSTM on the CPU, it adds casts.
"""

from __future__ import annotations

import tempfile
from collections.abc import Collection, Sequence
from pathlib import Path

import numpy as np
from onnx import ModelProto, TensorProto, ValueInfoProto, helper, numpy_helper

from compress.errors import NoEffect
from compress.quantization.halving import halve
from compress.quantization.rewriting.agreement import Disagreement, fitted, reference
from compress.quantization.rewriting.files import load, save
from compress.runtime.onnxruntime import Feeds, Session

#: Half the largest number of fp16: other inputs than the samples may give larger ones.
_LARGEST = float(np.finfo(np.float16).max) / 2
#: In place of a mask: far below any score, and twice that is still a number.
_MASK = 1e4
#: Operators in which a large constant is a bound, which is cut off without harm.
_BOUNDS = {"Clip", "Min", "Max"}
#: In fp16 the square of 2e-4 is 0, and so is a variance or a norm of such numbers.
_SENSITIVE = {
    *("Pow", "Sqrt", "ReduceMean", "ReduceSum", "ReduceSumSquare", "ReduceL1", "ReduceL2"),
    *("ReduceProd", "ReduceLogSum", "ReduceLogSumExp", "LpNormalization"),
}


def convert_fp16(source: Path, target: Path, samples: Sequence[Feeds]) -> None:
    """Write a copy of an fp32 file that computes in fp16, see the module.

    Args:
        source: as `simplify` leaves it: with names for all nodes, and constants as initializers.
        samples: batches that show how large values get.

    Raises:
        NoEffect: it computes nothing in fp32.
        ModelFileError: the file is damaged, or onnxruntime cannot run it.
    """
    model = load(source)
    _limit_masks(model, source, samples[0])
    floats = _float_values(model)
    if not floats:
        raise NoEffect(f"{source}: computes nothing in fp32; expected a model in fp32.")
    halve(model, floats, _exact_nodes(model, _magnitudes(model, floats, samples)))
    save(model, target)


def _limit_masks(model: ModelProto, source: Path, samples: Feeds) -> None:
    """Make masks numbers of fp16, in place, unless that changes an output."""
    bounds = {name for node in model.graph.node if node.op_type in _BOUNDS for name in node.input}
    limited = ModelProto()
    limited.CopyFrom(model)
    changed = [
        _limit(tensor)
        for tensor in limited.graph.initializer
        if tensor.data_type == TensorProto.FLOAT and tensor.name not in bounds
    ]
    if not any(changed):
        return
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "masks.onnx"
        save(limited, copy)
        try:
            reference(source, samples).difference(copy)
        except Disagreement:
            return
    model.CopyFrom(limited)


def _limit(tensor: TensorProto) -> bool:
    values = numpy_helper.to_array(tensor)
    large = np.isfinite(values) & (np.abs(values) > _LARGEST)
    if not large.any():
        return False
    found = np.where(large, np.copysign(np.float32(_MASK), values), values)
    tensor.CopyFrom(numpy_helper.from_array(found, tensor.name))
    return True


def _float_values(model: ModelProto) -> list[str]:
    """The fp32 values that the nodes of the main graph take and make, as onnxruntime infers."""
    made = {name for node in model.graph.node for name in node.output if name}
    declared = {value.name for value in model.graph.output}
    copy = ModelProto()
    copy.CopyFrom(model)
    copy.graph.output.extend(ValueInfoProto(name=name) for name in sorted(made - declared))
    session = _session(copy)
    entries = (*session.inputs, *session.outputs)
    return sorted({entry.name for entry in entries if entry.type == "tensor(float)"})


def _session(model: ModelProto) -> Session:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        save(model, path)
        return Session(path)


def _magnitudes(
    model: ModelProto, floats: Sequence[str], samples: Sequence[Feeds]
) -> dict[str, float]:
    """The largest finite magnitude of each value, found inside of the graph: none is kept."""
    copy, add = ModelProto(), helper.make_node
    copy.CopyFrom(model)
    copy.graph.initializer.append(numpy_helper.from_array(np.array(0, np.float32), "m_zero"))
    del copy.graph.output[:]
    for at, name in enumerate(floats):
        copy.graph.node.extend(
            [
                add("Abs", [name], [f"m_{at}_all"]),
                add("IsInf", [name], [f"m_{at}_infinite"]),
                add("Where", [f"m_{at}_infinite", "m_zero", f"m_{at}_all"], [f"m_{at}_finite"]),
                add("ReduceMax", [f"m_{at}_finite"], [f"m_{at}"], keepdims=0),
            ]
        )
        copy.graph.output.append(ValueInfoProto(name=f"m_{at}"))
    session, found = _session(copy), np.zeros(len(floats))
    for feeds in samples:
        values = session.every_output(fitted(session, feeds))
        found = np.fmax(found, np.array(values, np.float64))
    return dict(zip(floats, found.tolist(), strict=True))


def _exact_nodes(model: ModelProto, magnitudes: dict[str, float]) -> Collection[str]:
    """Names of the nodes that stay fp32."""
    large = {name for name, most in magnitudes.items() if most > _LARGEST}
    return {
        node.name
        for node in model.graph.node
        if node.op_type in _SENSITIVE or large.intersection((*node.input, *node.output))
    }

"""Reading ONNX files of any origin, and writing them, also where protobuf takes no such size."""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
from onnx import ModelProto, TensorProto, helper
from onnx.external_data_helper import set_external_data

from compress.errors import ModelFileError, first_line
from compress.export.bodies import graphs
from compress.onnx_files import files_of, tensors_of

#: Bytes from which weights are written beside the graph: protobuf takes no message of 2 GiB.
_LARGEST = 2**31 - 2**24
#: Bytes of the tensors that are then written there; onnx's own default.
_BESIDE = 1024
#: Bytes from which a weight is no shape, axis or other number that says what a node does.
_HEAVY = 4096


def load(path: Path) -> ModelProto:
    """Read an ONNX file with all of its weights; whether it is valid is for onnxruntime to say.

    Raises:
        ModelFileError: it is missing, damaged or empty, or weights beside it are missing or lie
            outside of its folder.
    """
    if not path.is_file():
        raise ModelFileError(f"{path}: no such file; expected an ONNX model.")
    try:
        model = onnx.load(path, format="protobuf")
    except Exception as error:  # protobuf's and onnx's errors share no base
        raise ModelFileError(f"{path}: not a valid ONNX model: {first_line(error)}") from error
    if not model.graph.node:
        raise ModelFileError(f"{path}: the graph has no nodes; expected a trained model.")
    return model


def save(model: ModelProto, path: Path) -> None:
    """Write one file; with weights of 2 GB or more also `NAME.data` beside it."""
    beside = _beside(path)
    beside.unlink(missing_ok=True)  # onnx would append to it
    if weight_bytes(model) < _LARGEST:
        path.write_bytes(model.SerializeToString())
        return
    heavy = {tensor.name for tensor in model.graph.initializer if len(tensor.raw_data) >= _BESIDE}
    light = ModelProto()
    _take_over(light, model, heavy)
    if weight_bytes(light) >= _LARGEST and _has_heavy_bodies(light):
        onnx.save_model(model, path, save_as_external_data=True, location=beside.name)
        # What was written beside the file was taken out of the model.
        onnx.load_external_data_for_model(model, str(path.parent))
        return
    # Written one by one: what is taken out of a model and put back again is in memory twice.
    with beside.open("wb") as output:
        for tensor in (tensor for tensor in model.graph.initializer if tensor.name in heavy):
            raw = tensor.raw_data
            reference = light.graph.initializer.add()
            reference.name, reference.data_type = tensor.name, tensor.data_type
            reference.dims.extend(tensor.dims)
            reference.raw_data = b""  # or onnx refuses to say where it stands
            set_external_data(reference, beside.name, output.tell(), len(raw))
            reference.ClearField("raw_data")
            output.write(raw)
    path.write_bytes(light.SerializeToString())


def _beside(path: Path) -> Path:
    return path.with_name(f"{path.name}.data")


def _has_heavy_bodies(model: ModelProto) -> bool:
    """Whether weights stand in the bodies of If, Loop or Scan."""
    inner = list(graphs(model.graph))[1:]
    return any(len(tensor.raw_data) >= _BESIDE for body in inner for tensor in body.initializer)


def copy(source: Path, target: Path) -> None:
    """Copy a model; with its weights in one file, unless they are 2 GB or more."""
    if len(files_of(source)) == 1:
        shutil.copyfile(source, target)
    else:
        save(load(source), target)


def remove(path: Path) -> None:
    """Remove what `save` wrote."""
    path.unlink(missing_ok=True)
    _beside(path).unlink(missing_ok=True)


def weight_bytes(model: ModelProto) -> int:
    """Size of all constants."""
    return sum(map(_bytes, tensors_of(model.graph)))


def _bytes(tensor: TensorProto) -> int:
    if tensor.data_type in (TensorProto.UNDEFINED, TensorProto.STRING):
        return 0
    kind = helper.tensor_dtype_to_np_dtype(tensor.data_type)
    return math.prod(map(int, tensor.dims)) * int(kind.itemsize)


def without_weights(model: ModelProto, call: Callable[[ModelProto], ModelProto]) -> None:
    """Replace the graph, opsets and functions by what a call makes of a model, in place.

    Heavy weights are inputs of what the call gets, so that it takes any model, and little time.
    They stay where they are and are copied nowhere.
    """
    heavy = {tensor.name for tensor in model.graph.initializer if _bytes(tensor) >= _HEAVY}
    light = ModelProto()
    _take_over(light, model, heavy)
    inputs = {value.name for value in model.graph.input}
    for tensor in model.graph.initializer:
        if tensor.name in heavy - inputs:
            value = helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims)
            light.graph.input.append(value)
    made = call(light)
    keep_only(made.graph.input, lambda value: value.name in inputs)
    keep_only(model.graph.initializer, lambda tensor: tensor.name in heavy)
    _take_over(model, made, set())


def _take_over(model: ModelProto, source: ModelProto, heavy: set[str]) -> None:
    """Make a model what another one is, but for the heavy ones of its initializers.

    Initializers that the model has already stay.
    """
    for message, other, apart in (
        (model, source, "graph"),
        (model.graph, source.graph, "initializer"),
    ):
        for name in (field.name for field, _ in message.ListFields() if field.name != apart):
            message.ClearField(name)
        for name, found in ((field.name, found) for field, found in other.ListFields()):
            if name == apart:
                continue
            if hasattr(found, "extend"):
                getattr(message, name).extend(found)
            else:
                setattr(message, name, found)
    kept = (tensor for tensor in source.graph.initializer if tensor.name not in heavy)
    model.graph.initializer.extend(kept)


def keep_only(records: Any, wanted: Callable[[Any], bool]) -> None:
    """Remove all other records of a list in a model, in place."""
    for place in reversed(range(len(records))):
        if not wanted(records[place]):
            del records[place]

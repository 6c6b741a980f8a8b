"""Reading ONNX files of any origin, and writing them, also where protobuf takes no such size."""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
from onnx import ModelProto, TensorProto, helper

from compress.errors import ModelFileError, first_line
from compress.onnx_files import files_of, tensors_of

#: Bytes from which weights are written beside the graph: protobuf takes no message of 2 GiB.
_LARGEST = 2**31 - 2**24
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
    beside = path.with_name(f"{path.name}.data")
    beside.unlink(missing_ok=True)  # onnx would append to it
    if weight_bytes(model) < _LARGEST:
        path.write_bytes(model.SerializeToString())
        return
    onnx.save_model(model, path, save_as_external_data=True, location=beside.name)
    # What was written beside the file was taken out of the model.
    onnx.load_external_data_for_model(model, str(path.parent))


def copy(source: Path, target: Path) -> None:
    """Copy a model; with its weights in one file, unless they are 2 GB or more."""
    if len(files_of(source)) == 1:
        shutil.copyfile(source, target)
    else:
        save(load(source), target)


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
    """
    heavy = [tensor for tensor in model.graph.initializer if _bytes(tensor) >= _HEAVY]
    light = ModelProto()
    light.CopyFrom(model)
    inputs = {value.name for value in model.graph.input}
    names = {tensor.name for tensor in heavy}
    keep_only(light.graph.initializer, lambda tensor: tensor.name not in names)
    for tensor in heavy:
        if tensor.name not in inputs:
            value = helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims)
            light.graph.input.append(value)
    made = call(light)
    keep_only(made.graph.input, lambda value: value.name in inputs)
    made.graph.initializer.extend(heavy)
    model.graph.CopyFrom(made.graph)
    for field in ("opset_import", "functions"):
        del getattr(model, field)[:]
        getattr(model, field).extend(getattr(made, field))


def keep_only(records: Any, wanted: Callable[[Any], bool]) -> None:
    """Remove all other records of a list in a model, in place."""
    for place in reversed(range(len(records))):
        if not wanted(records[place]):
            del records[place]

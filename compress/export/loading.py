"""Reading an ONNX file, with its weights or for who only looks at what there is."""

from __future__ import annotations

from pathlib import Path

import onnx
from onnx import ModelProto

from compress.errors import ModelFileError, first_line
from compress.export.bodies import graphs

#: Bytes from which a weight's values are left out where nobody computes with them.
_LARGE = 4096


def load_onnx(path: Path) -> ModelProto:
    """Read and check an ONNX file.

    Raises:
        ModelFileError: it is missing, damaged, or not a valid model.
    """
    return _checked(path, weights=True)


def load_graph(path: Path) -> ModelProto:
    """The same without the values of large weights, for who only looks at what there is.

    What is kept of a model, such as one of its nodes, keeps all of it in memory.

    Raises:
        ModelFileError: see `load_onnx`.
    """
    model, found = _checked(path, weights=False), ModelProto()
    for tensor in (tensor for graph in graphs(model.graph) for tensor in graph.initializer):
        if tensor.ByteSize() > _LARGE:
            tensor.ClearField("raw_data")
    found.CopyFrom(model)  # what is cleared stays in memory for as long as the model does
    return found


def _checked(path: Path, *, weights: bool) -> ModelProto:
    if not path.is_file():
        raise ModelFileError(f"{path}: no such file; expected an ONNX model.")
    try:
        # By its path: the checker copies a model that it is given, and may be given none of 2 GB.
        onnx.checker.check_model(path)
        model = onnx.load(path, load_external_data=weights)
    except Exception as error:  # protobuf's and onnx's errors share no base
        raise ModelFileError(f"{path}: not a valid ONNX model: {first_line(error)}") from None
    if not model.graph.node:
        raise ModelFileError(f"{path}: the graph has no nodes; expected a trained model.")
    return model

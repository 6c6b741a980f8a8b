"""One ONNX model on disk: its file, and the files beside it that hold its weights."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

import onnx
from onnx import GraphProto, TensorProto
from onnx.external_data_helper import uses_external_data


def sha256(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def files_of(path: Path) -> list[Path]:
    """The file, then those beside it that it names and that are there.

    What cannot be read as a model is one file: what is wrong with it is for its loader to say.
    """
    try:
        graph = onnx.load(path, load_external_data=False).graph
    except Exception:  # protobuf's errors share no base
        return [path]
    named = {
        entry.value
        for tensor in _tensors(graph)
        if uses_external_data(tensor)
        for entry in tensor.external_data
        if entry.key == "location"
    }
    beside = [path.parent / name for name in sorted(named)]
    return [path, *(file for file in beside if file.is_file())]


def size_bytes(path: Path) -> int:
    """Size of a model with all of its weights."""
    return sum(file.stat().st_size for file in files_of(path))


def model_digest(path: Path) -> str:
    """SHA-256 of a model; that of the file where its weights are in it."""
    digests = [sha256(file) for file in files_of(path)]
    if len(digests) == 1:
        return digests[0]
    return hashlib.sha256("".join(digests).encode()).hexdigest()


def _tensors(graph: GraphProto) -> Iterator[TensorProto]:
    yield from graph.initializer
    for node in graph.node:
        for attribute in node.attribute:
            yield attribute.t
            yield from attribute.tensors
            for body in (attribute.g, *attribute.graphs):
                yield from _tensors(body)

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
    """The file, then those in its folder that it names and that are there.

    What cannot be read as a model is one file, and a name that leads out of the folder is passed
    over: what is wrong with either is for the loader to say.
    """
    try:
        graph = onnx.load(path, load_external_data=False).graph
    except Exception:  # protobuf's errors share no base
        return [path]
    named = {
        Path(entry.value)
        for tensor in tensors_of(graph)
        if uses_external_data(tensor)
        for entry in tensor.external_data
        if entry.key == "location"
    }
    inside = [name for name in sorted(named) if not name.is_absolute() and ".." not in name.parts]
    return [path, *(path.parent / name for name in inside if (path.parent / name).is_file())]


def size_bytes(path: Path) -> int:
    """Size of a model with all of its weights."""
    return sum(file.stat().st_size for file in files_of(path))


def model_digest(path: Path) -> str:
    """SHA-256 of a model; that of the file where its weights are in it."""
    digests = [sha256(file) for file in files_of(path)]
    if len(digests) == 1:
        return digests[0]
    return hashlib.sha256("".join(digests).encode()).hexdigest()


def tensors_of(graph: GraphProto) -> Iterator[TensorProto]:
    """All constants of a graph, its nodes, and the bodies of its If, Loop and Scan."""
    yield from graph.initializer
    for node in graph.node:
        for attribute in node.attribute:
            yield attribute.t
            yield from attribute.tensors
            for body in (attribute.g, *attribute.graphs):
                yield from tensors_of(body)

"""ONNX models on OpenVINO, on the CPU (the extra `openvino`)."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from compress.errors import DeviceUnavailable, InputError, ModelFileError, ShapeMismatch
from compress.runtime.interface import Array, Feeds, contiguous, example_feeds, in_batches

try:
    import openvino
except ImportError as error:
    raise InputError(
        "runtime 'openvino' is not installed; pip install 'compress-kit[openvino]', or leave "
        "@openvino out."
    ) from error


class OpenVinoModel:
    """One ONNX model, compiled for the CPU.

    As on onnxruntime: so many threads and one stream, none of them pinned to a core of its own,
    and fp32 stays fp32, where OpenVINO would take bf16 by itself on processors that have it.

    Attributes:
        precision: OpenVINO's hint for what is not int8.
    """

    precision = "f32"

    def __init__(self, file: Path, device: str = "cpu", threads: int = 1) -> None:
        """Load a model.

        Raises:
            ModelFileError: the file is missing, damaged, or OpenVINO cannot run it.
            DeviceUnavailable: another device than the CPU was asked for.
        """
        if device != "cpu":
            raise DeviceUnavailable(f"device '{device}': runtime 'openvino' is for the CPU here.")
        if not file.is_file():
            raise ModelFileError(f"{file}: no such file; expected an ONNX model.")
        self.file = file
        self._settings = {
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_NUM_THREADS": threads,
            "NUM_STREAMS": 1,
            "ENABLE_CPU_PINNING": False,
            "INFERENCE_PRECISION_HINT": self.precision,
        }
        try:
            self._model = openvino.Core().read_model(file)
            self._compiled = openvino.Core().compile_model(self._model, "CPU", self._settings)
        except RuntimeError as error:
            raise ModelFileError(f"{file}: OpenVINO cannot load it: {_line(error)}") from error

    def run(self, inputs: Array | Feeds, batch_size: int = 250) -> Array:
        """First output for all rows of the inputs, computed in batches; (n, …).

        Raises:
            ShapeMismatch: the model does not take arrays of this shape or type.
            ModelFileError: OpenVINO fails to run it on them.
        """
        feeds = (inputs,) if isinstance(inputs, np.ndarray) else inputs
        first = self._model.inputs[0].partial_shape[0]
        size = first.get_length() if first.is_static else batch_size
        request = self._compiled.create_infer_request()

        def call(part: Feeds) -> Array:
            self._infer(request, part)
            return np.array(request.get_output_tensor(0).data)

        return in_batches(call, feeds, size, filled=first.is_static)

    def outputs_of(self, feeds: Feeds) -> list[Array]:
        """All outputs of one call, in the model's order."""
        request = self._compiled.create_infer_request()
        self._infer(request, feeds)
        return [np.array(tensor.data) for tensor in request.output_tensors]

    def bind(self, inputs: Array | Feeds) -> Callable[[], None]:
        """A call that runs one fixed batch, compiled for its shapes; inputs in place."""
        feeds = (inputs,) if isinstance(inputs, np.ndarray) else inputs
        self._check(feeds)
        request = self._fixed(feeds).create_infer_request()
        self._infer(request, feeds)
        infer: Callable[[], Any] = request.infer
        return infer

    def _fixed(self, feeds: Feeds) -> Any:
        """The model compiled for these shapes alone, which OpenVINO is fastest with.

        Some graphs take no other shapes than those they were written with, though they say so.
        """
        shapes = [openvino.PartialShape(list(feed.shape)) for feed in feeds]
        fixed = self._model.clone()
        try:
            fixed.reshape(dict(zip(fixed.inputs, shapes, strict=True)))
            return openvino.Core().compile_model(fixed, "CPU", self._settings)
        except RuntimeError:
            return self._compiled

    def _infer(self, request: Any, feeds: Feeds) -> None:
        self._check(feeds)
        try:
            for place, feed in enumerate(feeds):
                request.set_input_tensor(place, openvino.Tensor(contiguous(feed)))
            request.infer()
        except RuntimeError as error:
            shapes = " and ".join(str(list(feed.shape)) for feed in feeds)
            raise ModelFileError(
                f"{self.file}: OpenVINO fails on inputs {shapes}: {_line(error)}"
            ) from error

    def example(self, batch: int, seed: int = 0, length: int | None = None) -> Feeds:
        """A batch of the declared shapes; see `example_feeds`."""
        inputs = [
            (
                [size.get_length() if size.is_static else None for size in entry.partial_shape],
                np.dtype(entry.element_type.to_dtype()),
            )
            for entry in self._model.inputs
        ]
        return example_feeds(inputs, batch, seed, length)

    def prepare(self) -> None:
        """Nothing: a compiled model has threads of its own."""

    def _check(self, feeds: Feeds) -> None:
        entries = self._model.inputs
        fits = len(feeds) == len(entries) and all(
            entry.partial_shape.compatible(openvino.PartialShape(list(feed.shape)))
            and entry.element_type.to_dtype() == feed.dtype
            for entry, feed in zip(entries, feeds, strict=True)
        )
        if not fits:
            expected = [f"{entry.element_type} {entry.partial_shape}" for entry in entries]
            given = [f"{feed.dtype} {list(feed.shape)}" for feed in feeds]
            raise ShapeMismatch(
                f"{self.file}: takes {', '.join(expected)}, the data is {', '.join(given)}."
            )


class OpenVinoBf16(OpenVinoModel):
    """The same, computing fp32 as bf16; for processors that do (AMX, AVX-512)."""

    precision = "bf16"


def _line(error: Exception) -> str:
    """The line of OpenVINO's many in which it says what is wrong."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return next((line for line in reversed(lines) if not line.startswith("Exception from")), "")

"""ONNX models on onnxruntime, on cpu and cuda by one path. Imports no torch: workers start fast."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort

from compress.data.samples import Declared
from compress.errors import DeviceUnavailable, ModelFileError, ShapeMismatch, first_line
from compress.runtime.interface import (
    Array,
    Feeds,
    contiguous,
    example_feeds,
    fill,
    in_batches,
)

__all__ = ["PROVIDERS", "Array", "Feeds", "Session", "check_device", "fill"]

PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}
_TYPES = {
    "tensor(float)": np.float32,
    "tensor(float16)": np.float16,
    "tensor(double)": np.float64,
    "tensor(int64)": np.int64,
    "tensor(int32)": np.int32,
    "tensor(int16)": np.int16,
    "tensor(int8)": np.int8,
    "tensor(uint64)": np.uint64,
    "tensor(uint32)": np.uint32,
    "tensor(uint16)": np.uint16,
    "tensor(uint8)": np.uint8,
    "tensor(bool)": np.bool_,
}


def check_device(device: str) -> None:
    """Raise DeviceUnavailable where onnxruntime has no provider for `device` here."""
    if PROVIDERS[device] not in ort.get_available_providers():
        raise DeviceUnavailable(
            f"device '{device}': onnxruntime {ort.__version__} has no {PROVIDERS[device]} here; "
            "use --device cpu, or install onnxruntime-gpu on a machine with CUDA."
        )


def write_optimized(source: Path, target: Path, without: tuple[str, ...] = ()) -> None:
    """Write what onnxruntime's basic level of optimization makes of a file: ONNX's own operators.

    Args:
        without: names of rewrites that are left out.
    """
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.optimized_model_filepath = str(target)
    options.log_severity_level = 4
    if source.with_name(f"{source.name}.data").exists():
        key = "session.optimized_model_external_initializers_file_name"
        options.add_session_config_entry(key, f"{target.name}.data")
    ort.InferenceSession(
        source, options, providers=[PROVIDERS["cpu"]], disabled_optimizers=list(without)
    )


class Session:
    """One ONNX model, loaded.

    Idle threads of a pool spin and steal time from whatever runs beside them, so spinning is off
    for every session: figures of different arms stay comparable.
    """

    def __init__(
        self,
        file: Path,
        device: str = "cpu",
        threads: int = 1,
        *,
        trace: Path | None = None,
        exact: bool = False,
    ) -> None:
        """Load a model.

        Args:
            trace: beginning of the path of the profiler's trace, see `end_trace`; None runs without
                the profiler.
            exact: compute in fp32 what the file says. onnxruntime by itself multiplies weights that
                are stored as integers with activations that it rounds to int8.

        Raises:
            ModelFileError: the file is missing, damaged, or onnxruntime cannot run it.
            DeviceUnavailable: this machine has no such device.
        """
        check_device(device)
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 4  # what goes wrong is raised, and told once
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        if exact:
            options.add_session_config_entry("session.qdq_matmulnbits_accuracy_level", "1")
        if trace is not None:
            options.enable_profiling = True
            options.profile_file_prefix = str(trace)
        if not file.is_file():
            raise ModelFileError(f"{file}: no such file; expected an ONNX model.")
        try:
            self._session = ort.InferenceSession(file, options, providers=[PROVIDERS[device]])
        except Exception as error:  # onnxruntime's own classes share no public base
            raise ModelFileError(
                f"{file}: onnxruntime cannot load it: {first_line(error)}"
            ) from error
        self.file, self.device = file, device
        self.inputs = self._session.get_inputs()
        self.outputs = self._session.get_outputs()

    def run(self, inputs: Array | Feeds, batch_size: int = 250) -> Array:
        """First output for all rows of the inputs, computed in batches; (n, …).

        Args:
            inputs: one array (n, …) for each of the model's inputs, in its order; an array alone
                for a model with one.

        Raises:
            ShapeMismatch: the model does not take arrays of this shape or type.
            ModelFileError: onnxruntime fails to run it on them.
        """
        feeds = (inputs,) if isinstance(inputs, np.ndarray) else inputs
        fixed = self._fixed_batch()
        size = fixed or batch_size
        self.check(tuple(fill(feed, size) for feed in feeds) if fixed else feeds)
        return in_batches(self._first_output, feeds, size, filled=fixed is not None)

    def _first_output(self, feeds: Feeds) -> Array:
        given = dict(zip(self._names(), feeds, strict=True))
        try:
            return np.asarray(self._session.run(None, given)[0])
        except Exception as error:  # onnxruntime's own classes share no public base
            shapes = " and ".join(str(list(feed.shape)) for feed in feeds)
            raise ModelFileError(
                f"{self.file}: onnxruntime fails on inputs {shapes}: {first_line(error)}"
            ) from error

    def every_output(self, feeds: Feeds) -> list[Any]:
        """All outputs of one call, in the model's order.

        Raises:
            ShapeMismatch: the model does not take arrays of this shape or type.
        """
        self.check(feeds)
        options = ort.RunOptions()
        options.log_severity_level = 4  # what fails raises, too
        named = dict(zip(self._names(), feeds, strict=True))
        return list(self._session.run(None, named, options))

    def outputs_of(self, feeds: Feeds) -> list[Array]:
        """The same without what is no tensor."""
        return [value for value in self.every_output(feeds) if isinstance(value, np.ndarray)]

    def declared(self) -> list[Declared]:
        """The model's inputs, in its order.

        Raises:
            ModelFileError: an input of a type that is no array of numbers.
        """
        return [self._declared(entry) for entry in self.inputs]

    def _declared(self, entry: ort.NodeArg) -> Declared:
        sizes = tuple(size if isinstance(size, int) else None for size in entry.shape)
        return Declared(entry.name, _dtype(self.file, entry), sizes)

    def prepare(self) -> None:
        """Nothing: a session has threads of its own."""

    def _names(self) -> list[str]:
        return [entry.name for entry in self.inputs]

    def _fixed_batch(self) -> int | None:
        """The batch size that the file was written for; None where it takes any."""
        first = self.inputs[0].shape[0] if self.inputs and self.inputs[0].shape else None
        return first if isinstance(first, int) else None

    def bind(self, inputs: Array | Feeds) -> Callable[[], None]:
        """A call that runs one fixed batch, inputs and outputs bound on the device (IOBinding)."""
        feeds = (inputs,) if isinstance(inputs, np.ndarray) else inputs
        self.check(feeds)
        session, binding = self._session, self._session.io_binding()
        for name, feed in zip(self._names(), feeds, strict=True):
            on_device = ort.OrtValue.ortvalue_from_numpy(contiguous(feed), self.device, 0)
            binding.bind_ortvalue_input(name, on_device)
        for output in self.outputs:
            binding.bind_output(output.name, self.device)
        session.run_with_iobinding(binding)
        # Bound again to the buffers of the first run, so that no later run allocates its outputs;
        # but onnxruntime refuses one that is not of the declared shape, and otherwise lets it pass.
        anew = list[str]()
        for output, value in zip(self.outputs, binding.get_outputs(), strict=True):
            undeclared = not output.shape  # or a number's, which is not looked at either
            if value.is_tensor() and (undeclared or _fits(output, value.shape())):
                binding.bind_ortvalue_output(output.name, value)
            else:
                anew.append(output.name)

        def call() -> None:
            for name in anew:
                binding.bind_output(name, self.device)
            session.run_with_iobinding(binding)

        def call_and_wait() -> None:
            call()
            binding.synchronize_outputs()

        return call if self.device == "cpu" else call_and_wait

    def end_trace(self) -> Path:
        """Stop the profiler; the file that it wrote, JSON in Chrome's trace event format."""
        return Path(self._session.end_profiling())

    def example(self, batch: int, seed: int = 0, length: int | None = None) -> Feeds:
        """A batch of the declared shapes; see `example_feeds`."""
        inputs = [(entry.shape, entry.dtype) for entry in self.declared()]
        return example_feeds(inputs, batch, seed, length)

    def check(self, feeds: Feeds) -> None:
        """Raise ShapeMismatch unless the model takes arrays of these shapes and types."""
        check_feeds(self.file, self.inputs, feeds)


def check_feeds(file: Path, inputs: Sequence[ort.NodeArg], feeds: Feeds) -> None:
    """Raise unless inputs of a session take arrays of these shapes and types.

    Raises:
        ShapeMismatch: they do not.
        ModelFileError: an input of a type that is no array of numbers.
    """
    types = [_dtype(file, entry) for entry in inputs]
    right = len(feeds) == len(inputs)
    for entry, kind, feed in zip(inputs, types, feeds, strict=False):
        right &= _fits(entry, feed.shape) and feed.dtype == kind
    if not right:
        expected = [f"{entry.name} {entry.type} {entry.shape}" for entry in inputs]
        given = [f"{feed.dtype} {list(feed.shape)}" for feed in feeds]
        raise ShapeMismatch(f"{file}: takes {', '.join(expected)}, the data is {', '.join(given)}.")


def _dtype(file: Path, entry: ort.NodeArg) -> np.dtype[Any]:
    if entry.type not in _TYPES:
        raise ModelFileError(
            f"{file}: input '{entry.name}' is a {entry.type}; expected a tensor of "
            f"{', '.join(sorted(kind[7:-1] for kind in _TYPES))}."
        )
    return np.dtype(_TYPES[entry.type])


def _fits(entry: ort.NodeArg, shape: Sequence[int]) -> bool:
    """Whether a shape is one that a session declares for this input or output."""
    sizes = zip(entry.shape, shape, strict=False)
    same = all(not isinstance(want, int) or want == found for want, found in sizes)
    return same and len(entry.shape) == len(shape)

"""ONNX models on onnxruntime, on cpu and cuda by one path. Imports no torch: workers start fast."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime as ort

from compress.errors import DeviceUnavailable, ModelFileError, ShapeMismatch

Array = npt.NDArray[Any]

PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}
_TYPES = {
    "tensor(float)": np.float32,
    "tensor(float16)": np.float16,
    "tensor(double)": np.float64,
    "tensor(int64)": np.int64,
    "tensor(int32)": np.int32,
    "tensor(uint8)": np.uint8,
    "tensor(int8)": np.int8,
    "tensor(bool)": np.bool_,
}


def check_device(device: str) -> None:
    """Raise DeviceUnavailable where onnxruntime has no provider for `device` here."""
    if PROVIDERS[device] not in ort.get_available_providers():
        raise DeviceUnavailable(
            f"device '{device}': onnxruntime {ort.__version__} has no {PROVIDERS[device]} here; "
            "use --device cpu, or install onnxruntime-gpu on a machine with CUDA."
        )


class Session:
    """One ONNX model, loaded.

    Idle threads of a pool spin and steal time from whatever runs beside them, so spinning is off
    for every session: figures of different arms stay comparable.
    """

    def __init__(self, file: Path, device: str = "cpu", threads: int = 1) -> None:
        """Load a model.

        Raises:
            ModelFileError: the file is missing, damaged, or onnxruntime cannot run it.
            DeviceUnavailable: this machine has no such device.
        """
        check_device(device)
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        if not file.is_file():
            raise ModelFileError(f"{file}: no such file; expected an ONNX model.")
        try:
            self._session = ort.InferenceSession(file, options, providers=[PROVIDERS[device]])
        except Exception as error:  # onnxruntime's own classes share no public base
            line = str(error).strip().splitlines()[0] if str(error).strip() else "unknown error"
            raise ModelFileError(f"{file}: onnxruntime cannot load it: {line}") from error
        self.file, self.device = file, device
        self.inputs = self._session.get_inputs()
        self.outputs = self._session.get_outputs()

    def run(self, inputs: Array, batch_size: int = 250) -> Array:
        """First output for all rows of `inputs`, computed in batches; (n, …).

        Raises:
            ShapeMismatch: the model does not take arrays of this shape or type.
        """
        fixed = self.inputs[0].shape[0] if self.inputs and self.inputs[0].shape else None
        size = fixed if isinstance(fixed, int) else batch_size
        self._check(np.resize(inputs, (size, *inputs.shape[1:])) if size == fixed else inputs)
        name, runs = self.inputs[0].name, []
        for at in range(0, len(inputs), size):
            part = inputs[at : at + size]
            if size == fixed and len(part) < size:  # the file's own batch size has to be filled
                filled = np.concatenate([part, np.repeat(part[-1:], size - len(part), axis=0)])
            else:
                filled = part
            runs.append(np.asarray(self._session.run(None, {name: filled})[0])[: len(part)])
        return np.concatenate(runs)

    def bind(self, inputs: Array) -> Callable[[], None]:
        """A call that runs one fixed batch, inputs and outputs bound on the device (IOBinding)."""
        self._check(inputs)
        session, binding = self._session, self._session.io_binding()
        on_device = ort.OrtValue.ortvalue_from_numpy(np.ascontiguousarray(inputs), self.device, 0)
        binding.bind_ortvalue_input(self.inputs[0].name, on_device)
        for output in self.outputs:
            binding.bind_output(output.name, self.device)
        session.run_with_iobinding(binding)
        # Bound again to the buffers of the first run, so that no later run allocates its outputs.
        for output, value in zip(self.outputs, binding.get_outputs(), strict=True):
            binding.bind_ortvalue_output(output.name, value)
        if self.device == "cpu":
            return lambda: session.run_with_iobinding(binding)

        def run_and_wait() -> None:
            session.run_with_iobinding(binding)
            binding.synchronize_outputs()

        return run_and_wait

    def example(self, batch: int, seed: int = 0) -> Array:
        """A random batch of the declared shape; every other unknown dimension becomes 1."""
        shape = [size if isinstance(size, int) else 1 for size in self.inputs[0].shape]
        kind = _TYPES.get(self.inputs[0].type, np.float32)
        random = np.random.default_rng(seed)
        return random.standard_normal([batch, *shape[1:]]).astype(kind)

    def _check(self, inputs: Array) -> None:
        declared, kind = self.inputs[0].shape, _TYPES.get(self.inputs[0].type, np.float32)
        fixed = zip(declared, inputs.shape, strict=False)
        if (
            len(self.inputs) != 1
            or len(declared) != inputs.ndim
            or inputs.dtype != kind
            or any(isinstance(want, int) and want != found for want, found in fixed)
        ):
            expected = [f"{entry.name} {entry.type} {entry.shape}" for entry in self.inputs]
            raise ShapeMismatch(
                f"{self.file}: takes {', '.join(expected)}, "
                f"the data is one {inputs.dtype} array of shape {list(inputs.shape)}."
            )

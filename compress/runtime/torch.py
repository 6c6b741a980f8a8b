"""An artifact's torch model without ONNX: as it is, scripted, or compiled."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from compress.artifact import ONNX, load_artifact
from compress.errors import DeviceUnavailable, InputError, ModelFileError, ShapeMismatch, first_line
from compress.runtime.interface import Array, Feeds, in_batches

Function = Callable[..., Tensor]

#: Runs of a new function before it is compared: the first ones still optimise it.
_RUNS = 3


class Eager:
    """The model as `torch.nn.Module`, called from Python, in inference mode."""

    def __init__(self, folder: Path, device: str = "cpu", threads: int = 1) -> None:
        """Rebuild an artifact's model.

        Raises:
            ArtifactError: no artifact there, or none with weights.
            DeviceUnavailable: torch finds no such device.
        """
        if device == "cuda" and not torch.cuda.is_available():
            raise DeviceUnavailable(f"device 'cuda': torch {torch.__version__} finds none here.")
        self._artifact = load_artifact(folder)
        self._model = self._artifact.load_model().to(device)
        self._folder, self._device, self._threads = folder, device, threads

    def prepare(self) -> None:
        """The number of threads is one for all of torch: set it for this model."""
        torch.set_num_threads(self._threads)

    def run(self, inputs: Array | Feeds, batch_size: int = 250) -> Array:
        """Output for all rows of the inputs, computed in batches; (n, …).

        Raises:
            ShapeMismatch: the model does not take them.
        """
        feeds = (inputs,) if isinstance(inputs, np.ndarray) else inputs

        def call(part: Feeds) -> Array:
            return self._output(self._model, self._tensors(part)).cpu().numpy()

        return in_batches(call, feeds, batch_size)

    def outputs_of(self, feeds: Feeds) -> list[Array]:
        """The one output of a call."""
        return [self.run(feeds, len(feeds[0]))]

    def bind(self, inputs: Array | Feeds) -> Callable[[], None]:
        """A call that runs one fixed batch.

        Raises:
            ShapeMismatch: the model does not take it.
            ModelFileError: what was made of the model gives other outputs than eager torch.
        """
        feeds = (inputs,) if isinstance(inputs, np.ndarray) else inputs
        self.prepare()
        tensors, cuda = self._tensors(feeds), self._device == "cuda"
        function = self._function(tensors)

        @torch.inference_mode()
        def call() -> None:
            function(*tensors)
            if cuda:
                torch.cuda.synchronize()

        self._output(function, tensors)
        return call

    def _function(self, tensors: tuple[Tensor, ...]) -> Function:
        """What is called for inputs of these shapes."""
        return self._model

    def example(self, batch: int, seed: int = 0, length: int | None = None) -> Feeds:
        """The batch that the artifact's ONNX file would be given, so that arms see the same.

        Raises:
            InputError: there is none; torch does not say what shapes a model takes.
        """
        if ONNX not in self._artifact.card.files:
            raise InputError(
                f"{self._folder}: without an {ONNX} its inputs are not known; name the data."
            )
        from compress.runtime.onnxruntime import Session

        return Session(self._artifact.onnx).example(batch, seed, length)

    def _tensors(self, feeds: Feeds) -> tuple[Tensor, ...]:
        return tuple(torch.from_numpy(np.array(feed)).to(self._device) for feed in feeds)

    def _output(self, function: Function, tensors: tuple[Tensor, ...]) -> Tensor:
        try:
            with torch.inference_mode():
                return function(*tensors)
        except (RuntimeError, TypeError, ValueError, IndexError) as error:
            shapes = " and ".join(str(list(part.shape)) for part in tensors)
            raise ShapeMismatch(
                f"{self._folder}: torch does not run it on {shapes}: {first_line(error)}"
            ) from error

    def _check_alike(self, function: Function, tensors: tuple[Tensor, ...], name: str) -> None:
        for _ in range(_RUNS):
            found = self._output(function, tensors)
        expected = self._output(self._model, tensors)
        if not torch.allclose(found, expected, rtol=1e-3, atol=1e-3):
            worst = float((found - expected).abs().max())
            raise ModelFileError(
                f"{self._folder}: {name} gives outputs that differ from eager torch by {worst:.2g}."
            )


class Script(Eager):
    """The model traced to TorchScript for one shape, and frozen."""

    def _function(self, tensors: tuple[Tensor, ...]) -> Function:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")  # of its deprecation, and of shapes that become fixed
            traced = torch.jit.trace(self._model, tensors, check_trace=False)
            function: Function = torch.jit.freeze(traced)
        self._check_alike(function, tensors, "torchscript")
        return function


class Compiled(Eager):
    """The model under `torch.compile`, for one shape; needs a C++ compiler."""

    def _function(self, tensors: tuple[Tensor, ...]) -> Function:
        # Every arm, batch size and thread count is a case of its own of the same code; past the
        # default limit of 8 cases torch would run eager without a word.
        torch._dynamo.config.recompile_limit = 256
        # The number of threads is written into the code, and code of another number would be taken
        # for models alike: as an option it makes the two differ.
        options: dict[str, str | int | bool | Function] = {"cpp.threads": self._threads}
        function: Function = torch.compile(self._model, dynamic=False, options=options)
        self._check_alike(function, tensors, "torch.compile")
        return function

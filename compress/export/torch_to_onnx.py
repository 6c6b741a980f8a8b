"""Export of a torch model to ONNX with a dynamic batch, checked against the torch model."""

from __future__ import annotations

import logging
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from torch import Tensor, nn

from compress.errors import ExportMismatch, InputError
from compress.export.config import ExportConfig
from compress.export.graph import operators, strip
from compress.runtime.onnxruntime import Session


def export(
    model: nn.Module, samples: Tensor, path: Path, config: ExportConfig | None = None
) -> dict[str, Any]:
    """Write a torch model as ONNX and run it in onnxruntime against the torch model.

    Args:
        model: in evaluation mode, on the CPU.
        samples: (batch, …), real inputs to compare on; at least three.
        path: of the file to write.

    Returns:
        Evidence: operators by precision, and the largest and mean difference of the outputs.

    Raises:
        InputError: torch cannot export the model.
        ExportMismatch: outputs differ by more than the tolerance.
    """
    config = config or ExportConfig()
    model.eval()
    with torch.inference_mode():
        expected = model(samples)
    if not isinstance(expected, Tensor):
        raise InputError(
            f"{type(model).__name__} gives a {type(expected).__name__}; expected one tensor."
        )
    with _quiet_exporter():
        try:
            program = torch.onnx.export(
                model,
                (samples[:2],),
                input_names=["input"],
                output_names=["output"],
                dynamic_shapes=({0: "batch"},),
                opset_version=config.opset,
                dynamo=True,
                verbose=False,
            )
        except Exception as error:  # torch wraps whatever the model raised
            raise InputError(
                f"torch cannot export {type(model).__name__}: {_reason(error)}"
            ) from error
    if program is None:
        raise InputError(f"torch exported nothing for {type(model).__name__}.")
    proto = strip(program.model_proto)
    onnx.checker.check_model(proto)
    path.write_bytes(proto.SerializeToString())
    return {
        "operators": operators(proto),
        "opset": config.opset,
        **_compare(expected, samples, path, config),
    }


def _compare(
    expected: Tensor, samples: Tensor, path: Path, config: ExportConfig
) -> dict[str, float]:
    found = Session(path).run(samples.numpy(), batch_size=3)
    difference = np.abs(expected.numpy() - found)
    largest, scale = float(difference.max()), float(expected.abs().max())
    if not largest <= config.tolerance * max(scale, 1e-6):
        raise ExportMismatch(
            f"{path}: outputs of onnxruntime and torch differ by {largest:.3g} "
            f"(outputs reach {scale:.3g}); allowed is {config.tolerance:g} of that. "
            "Export another opset, or raise `tolerance` if that is what you expect."
        )
    return {"max_difference": largest, "mean_difference": float(difference.mean())}


def _reason(error: BaseException) -> str:
    """The first line of the innermost cause, without the exporter's colours and advice."""
    while error.__cause__ is not None:
        error = error.__cause__
    plain = re.sub(r"\x1b\[[0-9;]*m", "", str(error)).strip()
    return f"{type(error).__name__}: {plain.partition(chr(10))[0]}"


@contextmanager
def _quiet_exporter() -> Iterator[None]:
    """torch's exporter warns of packages that are not installed and of its own deprecated calls."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)

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
from onnx import ModelProto
from torch import Tensor, nn

from compress.data.task import Inputs
from compress.errors import ExportMismatch, InputError
from compress.export.config import ExportConfig
from compress.export.graph import operators, strip
from compress.export.recurrent import TRANSLATIONS, WholeLayers, fold_weights
from compress.runtime.onnxruntime import Session


def export(
    model: nn.Module,
    inputs: Inputs | Tensor,
    path: Path,
    config: ExportConfig | None = None,
    *,
    sequences: bool = False,
    names: tuple[str, ...] = ("input", "lengths"),
) -> dict[str, Any]:
    """Write a torch model as ONNX and run it in onnxruntime against the torch model.

    Args:
        model: in evaluation mode, on the CPU.
        inputs: what the model is called with, real samples to compare on, at least three: x
            (batch, …), or x (batch, time, …) and lengths (batch,).
        path: of the file to write.
        sequences: whether dimension 1 of x is time, and of any length.
        names: of the inputs in the file.

    Returns:
        Evidence: operators by precision, the largest and mean difference of the outputs, and the
        lengths that were compared, for sequences.

    Raises:
        InputError: torch cannot export the model.
        ExportMismatch: outputs differ by more than the tolerance, for sequences also at other
            lengths and for one sample alone.
    """
    config = config or ExportConfig()
    inputs = (inputs,) if isinstance(inputs, Tensor) else inputs
    model.eval()
    expected = _answer(model, inputs)
    proto = _to_proto(model, inputs, config, names, sequences=sequences)
    path.write_bytes(proto.SerializeToString())
    evidence: dict[str, Any] = {"operators": operators(proto), "opset": config.opset}
    evidence |= _compare(expected, inputs, path, config)
    if sequences:
        evidence["lengths"] = _compare_lengths(model, inputs, path, config)
    return evidence


def _compare_lengths(
    model: nn.Module, inputs: Inputs, path: Path, config: ExportConfig
) -> list[int]:
    """Compare one sample alone, and the samples cut to 1 step, to 2 and to half of them.

    Returns:
        The lengths; those that the torch model itself cannot take are left out.
    """
    x, *lengths = inputs
    time, compared = x.shape[1], []
    alone = tuple(values[:1] for values in inputs)
    _compare(_answer(model, alone), alone, path, config, f" for one sample of length {time}")
    for length in (length for length in sorted({1, 2, (time + 1) // 2}) if length < time):
        cut = (x[:, :length], *(values.clamp(max=length) for values in lengths))
        try:
            expected = _answer(model, cut)
        except RuntimeError:  # such as a convolution that is wider than this sequence
            continue
        _compare(expected, cut, path, config, f" at length {length}")
        compared.append(length)
    return [*compared, time]


def _answer(model: nn.Module, inputs: Inputs) -> Tensor:
    with torch.inference_mode():
        found = model(*inputs)
    if not isinstance(found, Tensor):
        raise InputError(
            f"{type(model).__name__} gives a {type(found).__name__}; expected one tensor."
        )
    return found


def _to_proto(
    model: nn.Module,
    inputs: Inputs,
    config: ExportConfig,
    names: tuple[str, ...],
    *,
    sequences: bool,
) -> ModelProto:
    shapes: list[dict[int, str]] = [{0: "batch"} for _ in inputs]
    if sequences:
        shapes[0][1] = "time"
    with _quiet_exporter(), WholeLayers():
        try:
            program = torch.onnx.export(
                model,
                tuple(values[:2] for values in inputs),
                input_names=names[: len(inputs)],
                output_names=["output"],
                dynamic_shapes=tuple(shapes),
                opset_version=config.opset,
                custom_translation_table=TRANSLATIONS,
                dynamo=True,
                verbose=False,
            )
        except Exception as error:  # torch wraps whatever the model raised
            raise InputError(
                f"torch cannot export {type(model).__name__}: {_reason(error)}"
            ) from error
        if program is None:
            raise InputError(f"torch exported nothing for {type(model).__name__}.")
        fold_weights(program.model)
    proto = strip(program.model_proto)
    onnx.checker.check_model(proto)
    return proto


def _compare(
    expected: Tensor, inputs: Inputs, path: Path, config: ExportConfig, place: str = ""
) -> dict[str, float]:
    session = Session(path)
    try:
        found = session.run(tuple(values.numpy() for values in inputs), batch_size=3)
        difference = np.abs(expected.numpy() - found)
    except Exception as error:  # onnxruntime's own classes share no public base
        reason = str(error).strip().partition("\n")[0]
        raise ExportMismatch(
            f"{path}: onnxruntime fails where torch does not{place}: {reason}"
        ) from error
    largest, scale = float(difference.max()), float(expected.abs().max())
    if not largest <= config.tolerance * max(scale, 1e-6):
        raise ExportMismatch(
            f"{path}: outputs of onnxruntime and torch differ by {largest:.3g}{place} "
            f"(outputs reach {scale:.3g}); allowed is {config.tolerance:g} of that. "
            "Export another opset, or raise `tolerance` if that is what you expect."
        )
    return {"max_difference": largest, "mean_difference": float(difference.mean())}


def _reason(error: BaseException) -> str:
    """The first line of the innermost cause, without the exporter's colours and advice."""
    while error.__cause__ is not None:
        error = error.__cause__
    if isinstance(error, InputError):  # our own words
        return str(error)
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

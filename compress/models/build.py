"""From a specification to a torch module, and what a module costs."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import torch
from pydantic import ValidationError
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from compress.errors import ArtifactError, InputError
from compress.models import cnn, rnn, transformer
from compress.models.plan import apply_plan
from compress.models.references import ARCHITECTURES, ModelSpec, explain, is_factory
from compress.named_object import load_named

_CLASSES: dict[str, Callable[[Any], nn.Module]] = {
    "resnet": cnn.ResNet,
    "strided": cnn.StridedCnn,
    "lenet": cnn.LeNet,
    "recurrent": rnn.Recurrent,
    "transformer": transformer.Transformer,
}


def build(spec: ModelSpec) -> nn.Module:
    """A freshly initialised module, with the layers that a pruning plan left.

    Raises:
        InputError: a factory that cannot be imported, fails, or gives no torch module.
        ArtifactError: an architecture, setting or layer that this version does not have.
    """
    if is_factory(spec.architecture):
        model = _call_factory(spec.architecture, spec.config)
    else:
        if spec.architecture not in ARCHITECTURES:
            known = ", ".join(ARCHITECTURES)
            raise ArtifactError(f"no architecture '{spec.architecture}'. Known: {known}.")
        try:
            config = ARCHITECTURES[spec.architecture].model_validate(spec.config)
        except ValidationError as error:
            raise ArtifactError(f"a card's model: {explain(error, spec.architecture)}") from None
        model = _CLASSES[spec.architecture](config)
    apply_plan(model, spec.plan)
    return model


def _call_factory(reference: str, arguments: dict[str, Any]) -> nn.Module:
    try:
        model = load_named(reference)(**arguments)
    except Exception as error:
        raise InputError(f"model '{reference}': {type(error).__name__}: {error}") from error
    if not isinstance(model, nn.Module):
        raise InputError(
            f"model '{reference}' gave a {type(model).__name__}; expected a torch.nn.Module."
        )
    return model


def count_parameters(model: nn.Module) -> int:
    """Number of trainable and frozen weights; buffers such as running means do not count."""
    return sum(parameter.numel() for parameter in model.parameters())


def count_macs(model: nn.Module, inputs: tuple[Tensor, ...]) -> int:
    """Multiply-accumulates of all products of matrices and of convolutions, for one sample.

    Counted by torch while the model runs, its fused kernels switched off, as it cannot see into
    them: oneDNN's LSTM and fast attention count as nothing otherwise.

    Args:
        model: called once, in evaluation mode, without gradients.
        inputs: one batch of any size; each (batch, …).
    """
    training = model.training
    try:
        with warnings.catch_warnings(), torch.no_grad(), sdpa_kernel(SDPBackend.MATH):
            warnings.simplefilter("ignore")  # of what this build lacks on other vendors' devices
            with (
                torch.backends.mkldnn.flags(enabled=False),
                FlopCounterMode(display=False) as flops,
            ):
                model.eval()(*inputs)
    finally:
        model.train(training)
    return int(flops.get_total_flops()) // 2 // len(inputs[0])

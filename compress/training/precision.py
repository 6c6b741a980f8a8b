"""Whether bf16 autocast and channels-last memory make training faster: measured, not assumed."""

from __future__ import annotations

import copy
import statistics
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from compress.data.task import Inputs
from compress.training.batches import Batch

#: Another mode than plain fp32 has to be this much faster, so that noise does not choose.
WORTHWHILE = 1.3

Loss = Callable[[Tensor, Batch], Tensor]


@dataclass(frozen=True)
class Mode:
    """How forward and backward are computed."""

    bf16: bool = False
    channels_last: bool = False

    @property
    def name(self) -> str:
        """Such as "bf16, channels last"."""
        return ("bf16" if self.bf16 else "fp32") + (", channels last" if self.channels_last else "")

    def autocast(self, device: str) -> AbstractContextManager[object]:
        """The context in which the forward pass runs."""
        return torch.autocast(device, torch.bfloat16, enabled=self.bf16)

    def place(self, inputs: Inputs, device: str) -> Inputs:
        """Inputs on the device, in this mode's memory layout where they have four dimensions."""
        return tuple(
            part.to(device, memory_format=torch.channels_last)
            if self.channels_last and part.dim() == 4
            else part.to(device)
            for part in inputs
        )

    def convert(self, model: nn.Module, device: str) -> nn.Module:
        """The model on the device, in this mode's memory layout; in place."""
        if self.channels_last:
            return model.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]
        return model.to(device, memory_format=torch.contiguous_format)  # type: ignore[call-overload, no-any-return]


def choose_mode(
    model: nn.Module, batch: Batch, loss: Loss, precision: str, device: str, rounds: int = 5
) -> tuple[Mode, dict[str, float]]:
    """The mode that was asked for; for "auto" the fastest, by measurement.

    Args:
        model: is copied; its weights stay as they are.
        batch: what one step works on.
        precision: "fp32", "bf16" or "auto".
        rounds: interleaved timed steps of each mode, after one that warms up.

    Returns:
        The mode, and for each one tried its speed against plain fp32 (above 1 is faster).
    """
    if precision != "auto":
        return Mode(bf16=precision == "bf16"), {}
    layouts = [False, True] if batch.inputs[0].dim() == 4 else [False]
    modes = [Mode(bf16, channels_last) for bf16 in (False, True) for channels_last in layouts]
    state = torch.random.get_rng_state()
    steps = {mode: _stepper(copy.deepcopy(model), batch, loss, mode, device) for mode in modes}
    times: dict[Mode, list[float]] = {mode: [] for mode in modes}
    for number in range(rounds + 1):
        for mode, step in steps.items():
            start = time.perf_counter()
            step()
            if number:
                times[mode].append(time.perf_counter() - start)
    torch.random.set_rng_state(state)
    base = statistics.median(times[modes[0]])
    speed = {mode: base / statistics.median(values) for mode, values in times.items()}
    best = max(speed, key=lambda mode: speed[mode])
    chosen = best if speed[best] >= WORTHWHILE else modes[0]
    return chosen, {mode.name: round(value, 2) for mode, value in speed.items()}


def _stepper(
    model: nn.Module, batch: Batch, loss: Loss, mode: Mode, device: str
) -> Callable[[], None]:
    model = mode.convert(model.train(), device)
    inputs = mode.place(batch.inputs, device)

    def step() -> None:
        model.zero_grad()
        with mode.autocast(device):
            outputs = model(*inputs)
        loss(outputs.float(), batch).backward()
        if device == "cuda":
            torch.cuda.synchronize()

    return step

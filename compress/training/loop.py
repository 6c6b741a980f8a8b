"""The training loop, told top to bottom; batches and loss come from outside."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Generator, Tensor, nn

from compress.errors import TrainingDiverged
from compress.progress import Progress, quiet
from compress.training.batches import Batch, Batches
from compress.training.checkpoint import Checkpoint
from compress.training.config import FitConfig
from compress.training.optimizers import make_optimizer, make_schedule
from compress.training.precision import Loss, Mode, choose_mode

#: At most this often is a checkpoint written, in seconds; short runs lose less than that.
CHECKPOINT_EVERY = 5.0

#: Gives a model's figure on the validation split; larger is better.
Validate = Callable[[nn.Module], float]


@dataclass
class Fit:
    """What a training run did.

    Attributes:
        epochs: passes over the data, early stopping considered.
        steps: optimizer steps.
        mode: precision and memory layout that was used.
        speeds: of each mode that was tried, against plain fp32.
        samples_per_second: in the loop, evaluation left out; 0 where nothing was left to do.
        losses: mean training loss of each epoch.
        best_epoch: the epoch whose weights were kept, counted from 1.
    """

    epochs: int = 0
    steps: int = 0
    mode: str = "fp32"
    speeds: dict[str, float] = field(default_factory=dict)
    samples_per_second: float = 0.0
    losses: list[float] = field(default_factory=list)
    best_epoch: int = 0

    def evidence(self) -> dict[str, Any]:
        """For the card: everything that a rerun with the same seed repeats, and the speeds."""
        return {
            "epochs": self.epochs,
            "steps": self.steps,
            "precision": self.mode,
            "precision_speeds": self.speeds,
            "samples_per_second": round(self.samples_per_second),
            "losses": [round(loss, 5) for loss in self.losses],
            "best_epoch": self.best_epoch,
        }


def epoch_seed(seed: int, epoch: int) -> int:
    """A seed for one epoch: a run that goes on at epoch k draws what an unbroken one would."""
    return (seed * 1_000_003 + epoch) % (2**63)


def fit(
    model: nn.Module,
    batches: Batches,
    loss: Loss,
    config: FitConfig,
    *,
    seed: int = 0,
    device: str = "cpu",
    validate: Validate | None = None,
    checkpoint: Checkpoint | None = None,
    progress: Progress = quiet,
    label: str = "training",
) -> Fit:
    """Train a model in place and leave it in evaluation mode on the CPU.

    Two runs with equal arguments, threads and machine give identical weights, also when one of them
    was stopped and went on from its checkpoint; with `precision: auto` as long as both find the
    same mode the fastest, which the card tells.

    Args:
        loss: takes outputs (batch, …) in fp32 and the batch; gives a scalar.
        validate: needed for `config.patience`.
        checkpoint: where the state is kept behind an epoch; None for nowhere.

    Raises:
        TrainingDiverged: the loss is no longer finite; the last checkpoint stays.
    """
    first = next(iter(batches.epoch(0, Generator().manual_seed(epoch_seed(seed, 0)))))
    mode, speeds = choose_mode(model, first, loss, config.precision, device)
    mode.convert(model, device)
    optimizer = make_optimizer(model, config)
    schedule = make_schedule(optimizer, config, config.epochs * batches.steps)
    start, kept, best = checkpoint.load(model, optimizer, schedule) if checkpoint else (0, {}, {})
    if kept:
        mode = Mode(**kept["mode"])
        mode.convert(model, device)
        _match_layout(optimizer)
    result = Fit(mode=mode.name, speeds=speeds, losses=kept.get("losses", []))
    patience = _Patience(
        config.patience, kept.get("best", -math.inf), kept.get("best_epoch", 0), best
    )
    clip_norm = default_clip_norm(model) if config.clip_norm is None else config.clip_norm
    spent, saved = 0.0, time.monotonic()
    for epoch in range(start, config.epochs):
        began = time.perf_counter()
        torch.manual_seed(epoch_seed(seed, epoch))
        generator = Generator().manual_seed(epoch_seed(seed, epoch))
        total = 0.0
        model.train()
        for step, batch in enumerate(batches.epoch(epoch, generator)):
            total += _step(model, batch, loss, mode, device, optimizer, clip_norm, (epoch, step))
            schedule.step()
            progress(label, epoch * batches.steps + step + 1, config.epochs * batches.steps)
        spent += time.perf_counter() - began
        result.losses.append(total / batches.steps)
        if validate and config.patience and patience.over(validate(model), epoch, model):
            break
        due = time.monotonic() - saved > CHECKPOINT_EVERY
        if checkpoint and due and epoch + 1 < config.epochs:
            extra = {"losses": result.losses, "mode": asdict(mode)} | patience.state()
            checkpoint.save(epoch, model, optimizer, schedule, extra, patience.weights)
            saved = time.monotonic()
    result.epochs = len(result.losses)
    result.steps = result.epochs * batches.steps
    result.best_epoch = patience.restore(model) or result.epochs
    done = (result.epochs - start) * batches.steps * len(first.targets)
    result.samples_per_second = done / spent if spent else 0.0
    model.to("cpu", memory_format=torch.contiguous_format).eval()  # type: ignore[call-overload]
    return result


def default_clip_norm(model: nn.Module) -> float:
    """1 for recurrent networks and Transformers, whose gradients explode at times; else 0, never.

    Source: Pascanu, Mikolov & Bengio, 2013, arXiv:1211.5063.
    """
    layers = (nn.RNNBase, nn.LayerNorm)
    return 1.0 if any(isinstance(module, layers) for module in model.modules()) else 0.0


def _step(
    model: nn.Module,
    batch: Batch,
    loss: Loss,
    mode: Mode,
    device: str,
    optimizer: torch.optim.Optimizer,
    clip_norm: float,
    place: tuple[int, int],
) -> float:
    optimizer.zero_grad()
    with mode.autocast(device):
        outputs = model(*mode.place(batch.inputs, device))
    value: Tensor = loss(outputs.float(), batch)
    value.backward()
    number = value.item()
    if not math.isfinite(number):
        norm = nn.utils.get_total_norm([p.grad for p in model.parameters() if p.grad is not None])
        rate = optimizer.param_groups[0]["lr"]
        raise TrainingDiverged(
            f"the loss became {number} at epoch {place[0] + 1}, step {place[1] + 1} "
            f"(learning rate {rate:.3g}, gradient norm {norm.item():.3g}). "
            "Lower learning_rate, set clip_norm, or look for bad values in the data."
        )
    if clip_norm:
        nn.utils.clip_grad_norm_(model.parameters(), clip_norm)
    optimizer.step()
    return number


def _match_layout(optimizer: torch.optim.Optimizer) -> None:
    """Give loaded moments their weights' memory layout: the fused kernels pair raw elements."""
    for weight, state in optimizer.state.items():
        for name, value in state.items():
            if isinstance(value, Tensor) and value.shape == weight.shape:
                state[name] = torch.empty_like(weight).copy_(value)


class _Patience:
    """Early stopping: the best weights so far, and whether it is time to stop."""

    def __init__(self, limit: int, best: float, epoch: int, weights: dict[str, Tensor]) -> None:
        self.limit, self.best, self.epoch, self.weights = limit, best, epoch, weights

    def over(self, figure: float, epoch: int, model: nn.Module) -> bool:
        if figure > self.best:
            self.best, self.epoch = figure, epoch + 1
            self.weights = copy.deepcopy(model.state_dict())
        return epoch + 1 - self.epoch >= self.limit

    def state(self) -> dict[str, float]:
        return {"best": self.best, "best_epoch": self.epoch} if self.weights else {}

    def restore(self, model: nn.Module) -> int:
        if self.weights:
            model.load_state_dict(self.weights)
        return self.epoch

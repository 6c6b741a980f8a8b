"""A training run's state at the end of an epoch, in safetensors, so that it can go on."""

from __future__ import annotations

import json
import shutil
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from compress.errors import OutputError

_STATE = "state.safetensors"


@dataclass(frozen=True)
class Checkpoint:
    """Where a run keeps its state.

    Attributes:
        folder: holds one file, replaced as a whole.
        key: of the work; a state with another key is not used.
    """

    folder: Path
    key: str

    def save(
        self,
        epoch: int,
        model: nn.Module,
        optimizer: Optimizer,
        schedule: LRScheduler,
        extra: dict[str, Any],
        best: dict[str, Tensor] | None = None,
    ) -> None:
        """Keep the state behind epoch number `epoch` (the first is 0).

        Args:
            extra: plain values to keep beside it.
            best: the best weights so far, where training may come back to them.

        Raises:
            OutputError: the folder cannot be written.
        """
        tensors = {f"model.{name}": value for name, value in model.state_dict().items()}
        tensors |= {f"best.{name}": value for name, value in (best or {}).items()}
        for index, state in optimizer.state_dict()["state"].items():
            for name, value in state.items():
                tensors[f"optimizer.{index}.{name}"] = torch.as_tensor(value)
        plain = {name: value for name, value in schedule.state_dict().items() if _is_plain(value)}
        rates = [group["lr"] for group in optimizer.param_groups]
        facts = {"key": self.key, "epoch": epoch, "schedule": plain, "rates": rates, "extra": extra}
        scratch = self.folder / f"{_STATE}.partial"
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            contiguous = {name: value.clone().contiguous() for name, value in tensors.items()}
            save_file(contiguous, scratch, {"facts": json.dumps(facts)})
            scratch.replace(self.folder / _STATE)
        except (OSError, SafetensorError) as error:
            with suppress(OSError):
                scratch.unlink()
            raise OutputError(f"{self.folder}: checkpoint cannot be written: {error}.") from error

    def load(
        self, model: nn.Module, optimizer: Optimizer, schedule: LRScheduler
    ) -> tuple[int, dict[str, Any], dict[str, Tensor]]:
        """Restore the state in place.

        Returns:
            The next epoch's number, what was kept beside the state, and the best weights. A
            missing, damaged or foreign state counts as none: (0, {}, {}).
        """
        try:
            with safe_open(self.folder / _STATE, framework="pt") as file:
                facts = json.loads(file.metadata()["facts"])
                if facts["key"] != self.key:
                    return 0, {}, {}
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        except (OSError, SafetensorError, KeyError, TypeError, ValueError):
            return 0, {}, {}
        model.load_state_dict(_below(tensors, "model."))
        state = optimizer.state_dict()
        state["state"] = {}
        for name, value in _below(tensors, "optimizer.").items():
            index, _, key = name.partition(".")
            state["state"].setdefault(int(index), {})[key] = value
        optimizer.load_state_dict(state)
        schedule.load_state_dict(facts["schedule"])
        for group, rate in zip(optimizer.param_groups, facts["rates"], strict=True):
            group["lr"] = rate
        return facts["epoch"] + 1, facts["extra"], _below(tensors, "best.")

    def remove(self) -> None:
        """Delete the state: the run is done and its result is safe."""
        shutil.rmtree(self.folder, ignore_errors=True)


def _below(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {
        name.removeprefix(prefix): value
        for name, value in tensors.items()
        if name.startswith(prefix)
    }


def _is_plain(value: object) -> bool:
    return isinstance(value, int | float | str | bool | list)

"""Muon for hidden matrices, AdamW for everything else, as one optimizer.

Muon replaces the momentum of a matrix by the nearest orthogonal one (Jordan et al., 2024,
kellerjordan.github.io/posts/muon). Its steps are scaled to the size of AdamW's at the same learning
rate (Liu et al., 2025, arXiv:2502.16982), so one rate serves both. Both are torch's.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.optim import AdamW, Muon, Optimizer

#: Options that only one of the two reads; the other has to keep them through `state_dict`.
_MUON = "muon"


class MuonAdamW(Optimizer):
    """Two optimizers that share their parameter groups and their state with this one.

    So a learning-rate schedule and a checkpoint see a single optimizer.
    """

    def __init__(self, groups: list[dict[str, Any]], lr: float, betas: tuple[float, float]) -> None:
        """`groups`: with a key "muon" that says whose they are; Muon's hold matrices only."""
        self._betas, self._parts = betas, list[Optimizer]()
        super().__init__(groups, {"lr": lr, "weight_decay": 0.0, _MUON: False})
        self._share()

    def _share(self) -> None:
        """Build both on the very groups and state of this optimizer."""
        muon = [group for group in self.param_groups if group[_MUON]]
        plain = [group for group in self.param_groups if not group[_MUON]]
        self._parts = []
        if muon:
            scale = "match_rms_adamw"
            self._parts.append(Muon(muon, momentum=self._betas[0], adjust_lr_fn=scale))
        if plain:
            self._parts.append(AdamW(plain, betas=self._betas, fused=True))
        for part in self._parts:
            part.state = self.state

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict(state_dict)
        self._share()

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        loss = None if closure is None else closure()
        for part in self._parts:
            part.step()
        return loss


def hidden_matrices(model: nn.Module) -> set[int]:
    """Identities of the weights that Muon takes: linear and recurrent ones but for the last layer.

    Tables of vectors are no maps from one hidden space to another, and neither is what gives the
    outputs.
    """
    linear = [m for m in model.modules() if isinstance(m, nn.Linear)]
    found = {id(layer.weight) for layer in linear[:-1]}
    for module in model.modules():
        if isinstance(module, nn.RNNBase):
            found |= {id(weight) for weight in module.parameters() if weight.dim() == 2}
    return found

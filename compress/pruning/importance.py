"""What each unit of a declared group is worth, by magnitude or by the loss's first-order change."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from compress.data.task import Task
from compress.models.groups import Group
from compress.training.batches import Batch
from compress.training.losses import label_loss


def importance(
    model: nn.Module, groups: list[Group], task: Task, batches: list[Batch], method: str
) -> dict[str, Tensor]:
    """What removing each unit would cost, for each weight that would go with it.

    "taylor": the mean over batches of (Σ w · ∂loss/∂w)² over the weights that the unit acts
    through, which is the first-order change of the loss when a gate on the unit closes (Molchanov
    et al., 2019). "magnitude": the norm of all its weights, relative to its group's mean.

    Returns:
        Group name to (units,).
    """
    if method == "magnitude":
        state = model.state_dict()
        norms = {
            group.name: sum(_per_unit(state[p.tensor] ** 2, p.dim, p.rows) for p in group.pieces)
            for group in groups
        }
        found = {name: torch.as_tensor(norm).sqrt() for name, norm in norms.items()}
        return {name: norm / norm.mean().clamp_min(1e-12) for name, norm in found.items()}
    scores = {group.name: torch.zeros(group.units) for group in groups}
    for gradients in _gradients(model, task, batches):
        for group in groups:
            acting = [piece for piece in group.pieces if piece.outgoing] or group.pieces
            change = sum(_per_unit(gradients[p.tensor], p.dim, p.rows) for p in acting)
            scores[group.name] += torch.as_tensor(change) ** 2
    cost = {group.name: _cost(model, group) for group in groups}
    return {name: value.sqrt() / cost[name] for name, value in scores.items()}


def _gradients(model: nn.Module, task: Task, batches: list[Batch]) -> Iterator[dict[str, Tensor]]:
    """For each batch, weight times gradient of every parameter; in evaluation mode."""
    loss = label_loss(task.kind)
    model.eval()
    for batch in batches:
        model.zero_grad()
        loss(model(*batch.inputs), batch).backward()
        yield {
            name: torch.zeros_like(weight) if weight.grad is None else weight.detach() * weight.grad
            for name, weight in model.named_parameters()
        }
    model.zero_grad(set_to_none=True)


def _per_unit(values: Tensor, dim: int, rows: Tensor) -> Tensor:
    """Sum over what each unit owns of a tensor; (units,)."""
    others = [axis for axis in range(values.dim()) if axis != dim]
    return (values.sum(dim=others) if others else values)[rows].sum(dim=1)


def _cost(model: nn.Module, group: Group) -> float:
    """Weights that go with one unit, on average."""
    state, total = model.state_dict(), 0
    for piece in group.pieces:
        tensor = state[piece.tensor]
        total += piece.rows.numel() * tensor.numel() // tensor.shape[piece.dim]
    return total / group.units

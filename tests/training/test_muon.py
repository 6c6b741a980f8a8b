"""Muon and AdamW as one optimizer: torch's own steps, one schedule, one checkpoint."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.optim import AdamW, Muon

from compress.training.config import FitConfig
from compress.training.muon import MuonAdamW, hidden_matrices
from compress.training.optimizers import make_optimizer, make_schedule


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.table = nn.Embedding(5, 4)
        self.reader = nn.GRU(4, 6, batch_first=True)
        self.hidden = nn.Linear(6, 6)
        self.head = nn.Linear(6, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(torch.relu(self.hidden(self.reader(self.table(x))[0][:, -1])))


def step(model: nn.Module) -> None:
    model.zero_grad()
    model(torch.tensor([[0, 1, 2], [3, 4, 0]])).pow(2).sum().backward()


CONFIG = FitConfig(optimizer="muon", learning_rate=0.01, weight_decay=0.02, table_rate=3.0)


def test_hidden_matrices_are_taken_and_neither_tables_nor_the_last_layer():
    model = Model()
    taken = {name for name, w in model.named_parameters() if id(w) in hidden_matrices(model)}
    assert taken == {"reader.weight_ih_l0", "reader.weight_hh_l0", "hidden.weight"}


def test_each_weight_moves_as_its_own_optimizer_would_move_it():
    ours, theirs = Model(), Model()
    both = make_optimizer(ours, CONFIG)
    taken = hidden_matrices(theirs)
    muon = [w for w in theirs.parameters() if id(w) in taken]
    vectors = [w for w in theirs.parameters() if w.dim() == 1]
    others = [
        {"params": vectors, "weight_decay": 0.0},
        {"params": [theirs.head.weight], "weight_decay": 0.02},
        {"params": [theirs.table.weight], "weight_decay": 0.02, "lr": 0.03},
    ]
    apart = [
        Muon(muon, 0.01, weight_decay=0.02, momentum=0.9, adjust_lr_fn="match_rms_adamw"),
        AdamW(others, 0.01, betas=(0.9, 0.999), fused=True),
    ]
    for _ in range(3):
        step(ours)
        both.step()
        step(theirs)
        for optimizer in apart:
            optimizer.step()
    for (name, found), expected in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(found, expected, msg=name)


def test_the_schedule_moves_both_rates_in_proportion():
    optimizer = make_optimizer(Model(), CONFIG)
    schedule = make_schedule(optimizer, CONFIG, 10)
    for _ in range(4):
        optimizer.step()
        schedule.step()
        rates = [group["lr"] for group in optimizer.param_groups]
        assert rates[2] == pytest.approx(3 * rates[0])
        assert rates[3] == rates[0]
    assert all(part.param_groups[0] in optimizer.param_groups for part in optimizer._parts)


def test_a_loaded_state_goes_on_where_it_was():
    model = Model()
    optimizer = make_optimizer(model, CONFIG)
    for _ in range(2):
        step(model)
        optimizer.step()
    other = copy.deepcopy(model)
    resumed = make_optimizer(other, CONFIG)
    resumed.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    assert isinstance(resumed, MuonAdamW)
    for each, one in ((model, optimizer), (other, resumed)):
        step(each)
        one.step()
    for found, expected in zip(other.parameters(), model.parameters(), strict=True):
        assert torch.equal(found, expected)

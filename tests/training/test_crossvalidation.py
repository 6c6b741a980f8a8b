"""Every sample is held out once, by a model that never saw it; the summary is numpy's."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from tiny import label_loss, model

from compress.data.task import Metric
from compress.training import crossvalidation, loop
from compress.training.config import TrainConfig
from compress.training.crossvalidation import cross_validate
from compress.training.precision import Mode

CONFIG = TrainConfig(epochs=8, batch_size=20, schedule="constant", augment=False, folds=3)


@pytest.fixture(autouse=True)
def _plain_mode(monkeypatch):
    monkeypatch.setattr(loop, "choose_mode", lambda *_: (Mode(), {}))


def test_figures_of_each_fold_and_their_summary(tiny_task):
    labels = []
    found = cross_validate(
        lambda: model(width=4),
        tiny_task,
        CONFIG,
        label_loss,
        progress=lambda label, *_: labels.append(label),
    )
    assert found["metric"] == "accuracy"
    assert len(found["folds"]) == 3
    assert min(found["folds"]) > 0.4  # chance is 0.25
    assert found["mean"] == pytest.approx(np.mean(found["folds"]))
    assert found["deviation"] == pytest.approx(np.std(found["folds"], ddof=1))
    assert list(dict.fromkeys(labels)) == ["fold 1 of 3", "fold 2 of 3", "fold 3 of 3"]


def test_equal_seeds_repeat_and_weights_start_anew(tiny_task):
    settings = CONFIG.model_copy(update={"epochs": 1, "augment": True})
    starts = []

    def make():
        starts.append(model(width=4))
        return starts[-1]

    def noisy(outputs, targets):
        return outputs[:, 0].astype(float)

    task = dataclasses.replace(tiny_task, metric=Metric("logit", True, noisy))
    one, again, other = (
        cross_validate(make, task, settings, label_loss, seed=seed) for seed in (1, 1, 9)
    )
    assert one == again
    assert one["folds"] != other["folds"]
    assert len({id(net) for net in starts}) == 9


def test_held_out_samples_are_not_trained_on(tiny_task, monkeypatch):
    trained_on, scored_on = [], []

    def remember(net, batches, *_, **__):
        trained_on.append(set(batches.split.indices.tolist()))
        net.eval()

    def score(outputs, targets):
        scored_on.append(targets)
        return (outputs.argmax(1) == targets).astype(float)

    monkeypatch.setattr(crossvalidation, "fit", remember)
    task = dataclasses.replace(tiny_task, metric=Metric("accuracy", True, score))
    torch.manual_seed(0)
    found = cross_validate(lambda: model(width=4), task, CONFIG, label_loss, seed=4)
    everything = set(tiny_task.train.indices.tolist())
    held_out = [everything - part for part in trained_on]
    assert sorted(index for part in held_out for index in part) == sorted(everything)
    for part, targets in zip(held_out, scored_on, strict=True):
        rows = [row for row, index in enumerate(tiny_task.train.indices) if index in part]
        assert tiny_task.train.targets[rows].tolist() == targets.tolist()
    assert all(0 <= value <= 1 for value in found["folds"])

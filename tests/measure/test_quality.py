"""Quality against scikit-learn's and scipy's own figures."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics
from torch import nn

from compress.data.task import Metric, Split, Task
from compress.errors import ShapeMismatch
from compress.measure.quality import check_outputs, confusion, qualities, quality, run_onnx
from compress.runtime.interface import Feeds
from compress.runtime.onnxruntime import Session
from compress.stats import wilson_interval


def random_outputs(rows: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((rows, 4)).astype(np.float32)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from([1.0, 1e-3, 300.0]))
def test_every_figure_is_what_the_reference_gives(tiny_task: Task, seed: int, scale: float):
    split = tiny_task.test
    targets, outputs = split.targets.numpy(), scale * random_outputs(len(split), seed)
    found = quality(tiny_task, outputs, split)
    guesses = outputs.argmax(axis=1)
    hits = int((guesses == targets).sum())
    assert (found.metric, found.n, found.higher_is_better) == ("accuracy", 60, True)
    assert found.value == pytest.approx(metrics.accuracy_score(targets, guesses))
    assert found.interval == pytest.approx(wilson_interval(hits, 60))
    loss = nn.functional.cross_entropy(torch.from_numpy(outputs).double(), split.targets)
    assert found.details == {
        "cross_entropy": pytest.approx(float(loss), rel=1e-6),
        "macro_f1": pytest.approx(metrics.f1_score(targets, guesses, average="macro")),
    }


def test_a_class_that_is_never_guessed_warns_of_nothing(tiny_task: Task):
    outputs = np.tile(np.array([9, 0, 0, 0], np.float32), (60, 1))
    found = quality(tiny_task, outputs, tiny_task.test)
    assert (found.value, found.details["macro_f1"]) == (0.25, pytest.approx(0.4 / 4))


def test_another_metric_is_taken_as_it_is(tiny_task: Task):
    scores = np.linspace(0, 2, 60)
    task = replace(tiny_task, metric=Metric("error", False, lambda outputs, targets: scores))
    found = quality(task, random_outputs(60), task.test)
    assert (found.metric, found.higher_is_better) == ("error", False)
    assert found.value == pytest.approx(1)
    low, high = found.interval
    assert low < 1 < high
    assert low + high == pytest.approx(2)


@pytest.mark.parametrize("shape", [(60, 7), (59, 4), (60,), (60, 4, 1)])
def test_outputs_that_do_not_fit(tiny_task: Task, shape: tuple[int, ...]):
    with pytest.raises(ShapeMismatch) as caught:
        check_outputs(tiny_task, np.zeros(shape, np.float32), tiny_task.test)
    assert str(caught.value) == (
        f"the model's outputs have shape {shape}; task 'tiny:task' with 4 classes expects (60, 4)."
    )
    with pytest.raises(ShapeMismatch):
        quality(tiny_task, np.zeros(shape, np.float32), tiny_task.test)


def test_confusion_has_true_classes_in_rows():
    targets = np.array([0, 0, 1, 2])
    outputs = np.eye(4, dtype=np.float32)[[0, 1, 1, 0]]
    expected = [[1, 1, 0, 0], [0, 1, 0, 0], [1, 0, 0, 0], [0, 0, 0, 0]]
    assert confusion(outputs, targets, 4) == expected


def test_torch_and_onnx_outputs_give_the_same_quality(
    tiny_task: Task, trained: nn.Module, trained_onnx: Path
):
    with torch.inference_mode():
        expected = trained(tiny_task.test.inputs).numpy()
    found = run_onnx(Session(trained_onnx), tiny_task.test)
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-4 * np.abs(expected).max())
    assert quality(tiny_task, found, tiny_task.test).value == (
        quality(tiny_task, expected, tiny_task.test).value
    )


def test_short_sequences_are_judged_padded_beside_long_ones_as_they_are_served():
    lengths = torch.tensor([1, 5, 2, 4])
    inputs = torch.arange(20.0).reshape(4, 5, 1)
    split = Split(inputs, torch.zeros(4, dtype=torch.long), np.arange(4), lengths)

    class ReadsPadding:
        def run(self, feeds: Feeds) -> np.ndarray:
            return feeds[0].sum(axis=1)

    found = run_onnx(ReadsPadding(), split)  # type: ignore[arg-type]
    assert found.ravel().tolist() == inputs.sum(dim=(1, 2)).tolist()


def test_a_card_gets_both_splits_as_plain_json(tiny_task: Task):
    outputs = {"validation": random_outputs(40), "test": random_outputs(60)}
    found = qualities(tiny_task, outputs)
    assert json.loads(json.dumps(found)) == found
    assert found.keys() == {"validation", "test", "confusion"}
    splits: dict[str, Split] = {"validation": tiny_task.validation, "test": tiny_task.test}
    for name, split in splits.items():
        assert found[name] == quality(tiny_task, outputs[name], split).model_dump(mode="json")
    assert np.sum(found["confusion"]) == 60
    hits = found["test"]["value"] * 60
    assert np.trace(found["confusion"]) == pytest.approx(hits)

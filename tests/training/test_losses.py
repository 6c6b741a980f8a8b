"""The loss of each kind of task, against torch on one row a decision; batches of sequences."""

from __future__ import annotations

import pytest
import torch
from torch import Generator, nn

from compress.distillation.soft_targets import distillation_loss, soft_target_loss
from compress.errors import InputError
from compress.training.batches import Batch, LabelledBatches, shuffled
from compress.training.config import TrainConfig
from compress.training.loop import default_clip_norm
from compress.training.losses import label_loss
from compress.training.pretrain_config import PretrainConfig


def test_a_language_model_makes_one_decision_a_token():
    logits, targets = torch.randn(2, 5, 7), torch.randint(7, (2, 5))
    found = label_loss("language model")(logits, Batch((targets,), targets))
    expected = torch.stack(
        [nn.functional.cross_entropy(logits[:, step], targets[:, step]) for step in range(5)]
    ).mean()
    torch.testing.assert_close(found, expected)


def test_regression_is_the_mean_squared_error():
    outputs, targets = torch.tensor([[1.0, 2.0]]), torch.tensor([[0.0, 4.0]])
    assert label_loss("regression")(outputs, Batch((outputs,), targets)).item() == 2.5


def test_values_have_no_classes_to_smooth_over():
    with pytest.raises(InputError, match="label_smoothing: this task has values and no classes"):
        label_loss("regression", 0.1)


@pytest.mark.parametrize(
    "idle", [{"patience": 2}, {"label_smoothing": 0.1}, {"augment": False}], ids=str
)
def test_settings_without_effect_on_masked_tokens_are_refused(idle):
    with pytest.raises(ValueError, match=f"{next(iter(idle))}: without effect on masked tokens"):
        PretrainConfig(**idle)


def test_soft_targets_of_tokens_are_the_mean_over_tokens():
    student, teacher = torch.randn(2, 5, 7), torch.randn(2, 5, 7)
    found = distillation_loss(student, teacher, 2.0)
    rows = distillation_loss(student.reshape(10, 7), teacher.reshape(10, 7), 2.0)
    torch.testing.assert_close(found, rows)


def test_soft_targets_of_a_regression_are_the_teachers_values():
    outputs, targets = torch.zeros(3, 2), torch.ones(3, 2)
    batch = Batch((outputs,), targets, teacher_logits=torch.full((3, 2), 2.0))
    loss = soft_target_loss(4.0, 0.75, kind="regression")
    assert loss(outputs, batch).item() == pytest.approx(0.75 * 4 + 0.25 * 1)


def test_gradients_are_clipped_where_they_can_explode():
    assert default_clip_norm(nn.LSTM(2, 3)) == 1.0
    assert default_clip_norm(nn.Sequential(nn.Linear(2, 2), nn.LayerNorm(2))) == 1.0
    assert default_clip_norm(nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2))) == 0.0
    assert TrainConfig().clip_norm is None


def test_batches_of_sequences_hold_all_of_them_alike_in_length():
    lengths = torch.randint(1, 100, (640,), generator=Generator().manual_seed(0))
    batches = shuffled(lengths, 640, 32, Generator().manual_seed(1))
    assert sorted(torch.cat(batches).tolist()) == list(range(640))
    spread = [int(lengths[rows].max() - lengths[rows].min()) for rows in batches]
    assert sum(spread) / len(spread) < 25  # a random batch spans about 95
    other = shuffled(lengths, 640, 32, Generator().manual_seed(2))
    assert any(not torch.equal(a, b) for a, b in zip(batches, other, strict=True))


def test_the_incomplete_batch_is_another_one_each_time():
    lengths = torch.arange(1, 51)
    left_out = set()
    for seed in range(20):
        batches = shuffled(lengths, 50, 8, Generator().manual_seed(seed))
        assert [len(rows) for rows in batches] == [8] * 6
        left_out |= set(range(50)) - set(torch.cat(batches).tolist())
    assert len(left_out) > 10


def test_labelled_sequences_come_without_needless_padding():
    import tiny

    task = tiny.sequences()
    for batch in LabelledBatches(task.train, 10).epoch(0, Generator().manual_seed(0)):
        inputs, lengths = batch.inputs
        assert inputs.shape[1] == int(lengths.max())

"""The distillation loss against a divergence worked out by hand, and its limits."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import log_softmax, softmax

from compress.distillation.soft_targets import distillation_loss, soft_target_loss
from compress.errors import ShapeMismatch
from compress.training.batches import Batch


def logits(seed: int, shape: tuple[int, int] = (5, 4), scale: float = 2.0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64) * scale


def test_two_classes_by_hand():
    # softmax((ln 9, 0) / 2) = (3, 1) / 4 and softmax((0, 0)) = (1, 1) / 2; T² = 4.
    teacher, student = torch.tensor([[math.log(9), 0.0]]), torch.tensor([[0.0, 0.0]])
    expected = 4 * (0.75 * math.log(0.75 / 0.5) + 0.25 * math.log(0.25 / 0.5))
    assert distillation_loss(student, teacher, 2.0).item() == pytest.approx(expected, rel=1e-6)


@given(seed=st.integers(0, 999), temperature=st.floats(0.5, 20))
@settings(max_examples=40, deadline=None)
def test_loss_is_the_divergence_by_scipy(seed, temperature):
    student, teacher = logits(seed), logits(seed + 1)
    p = softmax(teacher.numpy() / temperature, axis=1)
    difference = log_softmax(teacher.numpy() / temperature, axis=1) - log_softmax(
        student.numpy() / temperature, axis=1
    )
    expected = temperature**2 * np.mean((p * difference).sum(axis=1))
    found = distillation_loss(student, teacher, temperature).item()
    assert found == pytest.approx(expected, rel=1e-9, abs=1e-12)
    assert found >= 0


def test_loss_of_equal_answers_is_zero():
    student = logits(0).requires_grad_()
    loss = distillation_loss(student, logits(0) + 3.0, 4.0)  # a shift changes no distribution
    loss.backward()
    assert loss.item() == pytest.approx(0, abs=1e-12)
    assert student.grad.abs().max().item() == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("temperature", [100.0, 1_000.0, 10_000.0])
def test_gradient_does_not_depend_on_a_large_temperature(temperature):
    # In the limit it is the difference of centred logits over classes and batch (Hinton, eq. 4).
    student, teacher = logits(3).requires_grad_(), logits(4)
    distillation_loss(student, teacher, temperature).backward()
    difference = student.detach() - teacher
    expected = (difference - difference.mean(dim=1, keepdim=True)) / (5 * 4)
    torch.testing.assert_close(student.grad, expected, rtol=0, atol=0.5 / temperature)


def test_gradient_at_temperature_one_is_the_difference_of_probabilities():
    student, teacher = logits(5).requires_grad_(), logits(6)
    distillation_loss(student, teacher, 1.0).backward()
    expected = (student.detach().softmax(dim=1) - teacher.softmax(dim=1)) / 5
    torch.testing.assert_close(student.grad, expected)


def test_shapes_that_differ():
    with pytest.raises(ShapeMismatch) as caught:
        distillation_loss(torch.zeros(2, 4), torch.zeros(2, 10), 4.0)
    assert str(caught.value) == (
        "the student's outputs have shape (2, 4), the teacher's (2, 10); "
        "distillation needs the same classes in the same order."
    )


def batch() -> Batch:
    return Batch((torch.zeros(5, 1),), torch.tensor([0, 1, 2, 3, 0]), logits(8))


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
@pytest.mark.parametrize("alpha", [0.3, 0.9])
def test_labels_and_teacher_are_mixed(alpha, smoothing):
    outputs, taught = logits(7), batch()
    soft = distillation_loss(outputs, taught.teacher_logits, 3.0)
    shares = np.full((5, 4), smoothing / 4) + (1 - smoothing) * np.eye(4)[taught.targets]
    hard = -(shares * log_softmax(outputs.numpy(), axis=1)).sum(axis=1).mean()
    found = soft_target_loss(3.0, alpha, smoothing)(outputs, taught).item()
    assert found == pytest.approx(alpha * soft.item() + (1 - alpha) * hard)


def test_labels_do_not_count_at_alpha_one():
    taught = batch()
    wrong = Batch(taught.inputs, taught.targets.flip(0) * 0 + 99, taught.teacher_logits)
    found = soft_target_loss(3.0, 1.0)(logits(7), wrong)
    assert found == distillation_loss(logits(7), taught.teacher_logits, 3.0)


def test_descent_brings_the_student_to_the_teacher():
    student, teacher = logits(1).requires_grad_(), logits(2)
    for _ in range(300):
        (gradient,) = torch.autograd.grad(distillation_loss(student, teacher, 4.0), student)
        student = (student - 10 * gradient).detach().requires_grad_()
    torch.testing.assert_close(F.softmax(student, 1), F.softmax(teacher, 1), atol=0.02, rtol=0)

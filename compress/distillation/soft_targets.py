"""Knowledge distillation from output logits (Hinton, Vinyals & Dean, 2015, arXiv:1503.02531)."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from compress.data.task import Kind
from compress.errors import ShapeMismatch
from compress.training.batches import Batch
from compress.training.losses import label_loss
from compress.training.precision import Loss


def distillation_loss(student_logits: Tensor, teacher_logits: Tensor, temperature: float) -> Tensor:
    """KL divergence of the softened distributions, scaled by temperature².

    The factor keeps the gradient's size independent of the temperature, so that `alpha` means the
    same at every temperature.

    Args:
        student_logits: (batch, …, classes), requires grad.
        teacher_logits: (batch, …, classes), detached.
        temperature: > 0; 1 is the plain softmax, larger is softer.

    Returns:
        A scalar, mean over all distributions, in nats.

    Raises:
        ShapeMismatch: the two logits differ in shape.
    """
    if student_logits.shape != teacher_logits.shape:
        raise ShapeMismatch(
            f"the student's outputs have shape {tuple(student_logits.shape)}, the teacher's "
            f"{tuple(teacher_logits.shape)}; distillation needs the same classes in the same order."
        )
    classes = student_logits.shape[-1]
    student = F.log_softmax(student_logits.reshape(-1, classes) / temperature, dim=1)
    teacher = F.log_softmax(teacher_logits.reshape(-1, classes) / temperature, dim=1)
    return F.kl_div(student, teacher, reduction="batchmean", log_target=True) * temperature**2


def soft_target_loss(
    temperature: float, alpha: float, label_smoothing: float = 0.0, kind: Kind = "classification"
) -> Loss:
    """`alpha` of the teacher's answers and `1 - alpha` of the labels, as a loss for the loop.

    A regression's answers are values and no distribution: there the soft part is the mean squared
    distance to the teacher's values.
    """
    hard = label_loss(kind, label_smoothing)

    def loss(outputs: Tensor, batch: Batch) -> Tensor:
        assert batch.teacher_logits is not None
        answers = batch.teacher_logits.to(outputs.device)
        if kind == "regression":
            soft = F.mse_loss(outputs, answers)
        else:
            soft = distillation_loss(outputs, answers, temperature)
        return soft if alpha == 1 else alpha * soft + (1 - alpha) * hard(outputs, batch)

    return loss

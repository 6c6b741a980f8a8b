"""A model's answers to a whole split, whatever runs it."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import torch

from compress.data.task import Inputs, Split

Outputs = npt.NDArray[np.float32]

#: Samples a call: attention's memory grows with the square of the length.
CHUNK = 128


def answer(
    call: Callable[[Inputs], npt.NDArray[np.floating]], split: Split, *, mixed: bool = False
) -> Outputs:
    """Outputs for all samples, in the split's order; (n, …).

    Sequences are answered together with others of their length, and outputs for each step are
    filled up with zeros.

    Args:
        call: one batch of inputs to its outputs, (batch, …).
        mixed: take samples as they come instead, short ones padded beside long ones. It takes
            longer, and shows a model that reads the padding.
    """
    answers: Outputs | None = None
    for rows in torch.arange(len(split)).split(CHUNK) if mixed else split.chunks(CHUNK):
        found = np.asarray(call(split.take(rows)))
        if answers is None:
            shape = list(found.shape[1:])
            if split.lengths is not None and len(shape) == 2:
                shape[0] = split.inputs.shape[1]
            answers = np.zeros((len(split), *shape), dtype=np.float32)
        if found.ndim == 3:
            answers[rows.numpy(), : found.shape[1]] = found
        else:
            answers[rows.numpy()] = found
    assert answers is not None
    return answers

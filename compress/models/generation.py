"""Text, or any other row of tokens, from a model that predicts the next one at every step."""

from __future__ import annotations

import torch
from torch import Generator, Tensor, nn

from compress.errors import InputError


def generate(
    model: nn.Module,
    prompt_ids: Tensor,
    length: int,
    *,
    temperature: float = 1.0,
    top_k: int = 0,
    generator: Generator | None = None,
) -> Tensor:
    """Go on from a prompt, one token at a time.

    Args:
        model: maps tokens (batch, time) to logits (batch, time, tokens); its `config.max_length`
            is the longest context that it is shown.
        prompt_ids: (batch, time), at least one token.
        length: tokens to add.
        temperature: divides the logits; 0 takes the likeliest token, 1 draws as the model says.
        top_k: draw from the k likeliest tokens only; 0 for all.
        generator: what draws; None for torch's own.

    Returns:
        (batch, time + length), the prompt and what follows.

    Raises:
        InputError: an empty prompt, or a setting out of range.
    """
    _check(model, prompt_ids, length, temperature, top_k)
    longest = int(model.config.max_length)  # type: ignore[union-attr,arg-type]
    ids, training = prompt_ids, model.training
    model.eval()
    try:
        with torch.no_grad():
            for _ in range(length):
                logits = model(ids[:, -longest:])[:, -1]
                drawn = _draw(logits.float(), temperature, top_k, generator)
                ids = torch.cat([ids, drawn], dim=1)
    finally:
        model.train(training)
    return ids


def _draw(logits: Tensor, temperature: float, top_k: int, generator: Generator | None) -> Tensor:
    """One token a row, (batch, 1), from logits (batch, tokens)."""
    if not temperature:
        return logits.argmax(dim=1, keepdim=True)
    if top_k and top_k < logits.shape[1]:
        least = logits.topk(top_k, dim=1).values[:, -1:]
        logits = logits.masked_fill(logits < least, -torch.inf)
    # Against the largest, so that no temperature however small makes them infinite.
    scaled = (logits - logits.amax(dim=1, keepdim=True)) / temperature
    return torch.multinomial(scaled.softmax(dim=1), 1, generator=generator)


def _check(
    model: nn.Module, prompt_ids: Tensor, length: int, temperature: float, top_k: int
) -> None:
    config = getattr(model, "config", None)
    if not getattr(config, "per_step", False):
        raise InputError(
            f"{type(model).__name__} does not predict the next token at every step; "
            "generation needs a model with `per_step`."
        )
    if prompt_ids.dim() != 2 or not prompt_ids.numel():
        raise InputError(
            f"a prompt of shape {tuple(prompt_ids.shape)}; expected (batch, time), neither empty."
        )
    if length < 0 or temperature < 0 or top_k < 0:
        raise InputError(
            f"length {length}, temperature {temperature:g}, top_k {top_k}; expected none below 0."
        )

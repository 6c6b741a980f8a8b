"""A look at what a model learned: `compress generate`, `compress attention`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from compress.cli.options import JsonOption, SeedOption

if TYPE_CHECKING:
    from torch import nn

ModelArgument = Annotated[Path, typer.Argument(help="Artifact folder of a model of text.")]


def register(app: typer.Typer) -> None:
    """Add this file's commands."""
    app.command()(generate)
    app.command()(attention)


def generate(
    model: ModelArgument,
    prompt: Annotated[str, typer.Option(help="Text to go on from.")] = "And",
    length: Annotated[int, typer.Option(min=1, max=100_000, help="Characters to write.")] = 300,
    temperature: Annotated[
        float,
        typer.Option(min=0, help="0 takes the likeliest character; 1 draws as the model says."),
    ] = 0.8,
    top_k: Annotated[
        int, typer.Option(min=0, help="Draw from the k likeliest characters only; 0 for all.")
    ] = 0,
    seed: SeedOption = 0,
    as_json: JsonOption = False,
) -> None:
    """Let a language model write: compress generate runs/gpt/1-train --prompt "And God"."""
    import torch

    from compress.data.vocabulary import decode, encode
    from compress.errors import InputError
    from compress.models import generation

    torch_model, vocabulary = _text_model(model)
    if not getattr(getattr(torch_model, "config", None), "per_step", False):
        raise InputError(
            f"{model}: answers a whole text at once; `generate` needs a language model."
        )
    written = generation.generate(
        torch_model,
        encode(prompt, vocabulary),
        length,
        temperature=temperature,
        top_k=top_k,
        generator=torch.Generator().manual_seed(seed),
    )
    text = decode(written[0], vocabulary)
    print(json.dumps({"prompt": prompt, "text": text}, ensure_ascii=False) if as_json else text)


def attention(
    model: ModelArgument,
    text: Annotated[str, typer.Option(help="Text that the model reads.")],
    as_json: JsonOption = False,
) -> None:
    """Where each head of a Transformer looks; all weights with --json."""
    import torch

    from compress.data.vocabulary import encode
    from compress.errors import InputError
    from compress.models.transformer import Transformer, attention_maps

    torch_model, vocabulary = _text_model(model)
    if not isinstance(torch_model, Transformer):
        raise InputError(
            f"{model}: a {type(torch_model).__name__} has no attention to look at; "
            "name a Transformer's artifact."
        )
    tokens = encode(text, vocabulary, torch_model.config.max_length)
    with torch.inference_mode():
        maps = [weights[0] for weights in attention_maps(torch_model, (tokens,))]
    if as_json:
        print(json.dumps({"text": text, "layers": [weights.tolist() for weights in maps]}))
        return
    for layer, weights in enumerate(maps):
        for head, table in enumerate(weights):
            looked_at = table.mean(dim=0)  # over all characters that look
            places = looked_at.argsort(descending=True)[:5].tolist()
            shown = ", ".join(f"{text[p]!r} at {p + 1} {looked_at[p]:.0%}" for p in places)
            print(f"layer {layer} head {head}: {shown}")


def _text_model(folder: Path) -> tuple[nn.Module, list[str]]:
    from compress.artifact import load_artifact
    from compress.data.vocabulary import card_vocabulary

    artifact = load_artifact(folder)
    vocabulary = card_vocabulary(artifact.card.evidence, str(folder))
    return artifact.load_model(), vocabulary

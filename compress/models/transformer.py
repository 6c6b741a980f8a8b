"""A Transformer of pre-norm blocks: an encoder, or with `causal` a decoder-only language model.

Weights start as in GPT-2 (Radford et al., 2019), positions are learned or as in Vaswani et al.
(2017, arXiv:1706.03762).
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from compress.errors import ShapeMismatch
from compress.models.groups import Group, Piece
from compress.models.sequence import Front, Wide, pool, valid_steps
from compress.models.sequence_configs import TransformerConfig
from compress.models.transformer_block import UNSEEN, Attention, Block


class Transformer(nn.Module):
    """Front, positions, blocks, a last normalization, pooling or none, and a linear layer.

    Maps tokens (batch, time) or numbers (batch, time, in_features) to (batch, outputs), or to
    (batch, time, outputs) with `per_step`. What a sequence gives does not depend on the padding
    behind its end.
    """

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.config = config
        self.front = Front(config, config.width)
        # Only a plain table whose width was left open gives the residual stream itself.
        plain = config.vocabulary and not config.embedding and not config.front_width
        self.project = None if plain else nn.Linear(self.front.width, config.width)
        stride = config.front_stride if config.front_width else 1
        self.positions: nn.Embedding | None = None
        if config.positions == "learned":
            self.positions = nn.Embedding(-(-config.max_length // stride), config.width)
        self.dropout = nn.Dropout(config.dropout)
        self.layers = nn.ModuleList(Block(config, layer) for layer in range(len(config.heads)))
        self.norm = nn.LayerNorm(config.width)
        doubled = config.pooling == "mean_max" and not config.per_step
        self.head = nn.Linear(config.width * (2 if doubled else 1), config.outputs)
        self.wide = Wide(config) if config.wide else None
        self._initialise()

    def forward(self, x: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Outputs of every sequence.

        Args:
            lengths: (batch,), steps of each sequence; None where all are of full length.

        Raises:
            ShapeMismatch: more steps than there are learned positions.
        """
        whole = lengths
        steps, lengths = self.features(x, lengths)
        if not self.config.per_step:
            steps = _pool(steps, lengths, self.config.pooling)
        outputs: Tensor = self.head(self.dropout(steps))
        if self.wide is not None:
            outputs = outputs + self.wide(x, whole)
        return outputs

    def features(self, x: Tensor, lengths: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        """Hidden states behind the last normalization, (batch, steps, width), and their lengths."""
        self._check_length(x.shape[1])
        steps, lengths = self.front(x, lengths)
        if self.project is not None:
            steps = self.project(steps)
        steps = self.dropout(steps + self._positions(steps))
        causal, bias = self.config.causal, None
        if lengths is not None and not causal:  # else padding lies where no step looks
            seen = valid_steps(lengths, steps.shape[1]).to(steps.dtype)
            bias = ((seen - 1) * -UNSEEN).unsqueeze(1).unsqueeze(1)
        for layer in self.layers:
            steps = layer(steps, bias, causal)
        return self.norm(steps), lengths

    def _check_length(self, time: int | torch.SymInt) -> None:
        if torch.compiler.is_exporting() or self.positions is None:
            return
        if time > self.config.max_length:
            raise ShapeMismatch(
                f"a sequence of {time} steps; this Transformer has positions for "
                f"{self.config.max_length}. Cut the sequence, or set `max_length` and train anew."
            )

    def _positions(self, steps: Tensor) -> Tensor:
        """(time, width), at the scale of the tokens' vectors."""
        time, width = steps.shape[1], self.config.width
        if self.positions is None:
            waves: Tensor = sinusoids(time, width, steps.device) * width**-0.5
            return waves
        vectors: Tensor = self.positions(torch.arange(time, device=steps.device))
        return vectors

    def _initialise(self) -> None:
        """GPT-2's: std 0.02, what is added to the residual stream less with every layer.

        Whatever enters the stream starts at the scale of the tokens' vectors, width^-½.
        """
        depth = math.sqrt(2 * len(self.layers))
        for name, module in [*self.layers.named_modules(), ("head", self.head)]:
            if isinstance(module, nn.Linear):
                added = name.endswith(("output", "contract"))
                nn.init.normal_(module.weight, std=0.02 / depth if added else 0.02)
                nn.init.zeros_(module.bias)
        scale = self.config.width**-0.5
        if self.positions is not None:
            nn.init.normal_(self.positions.weight, std=scale)
        if self.project is not None:
            inputs = 1 if self.config.vocabulary else self.front.width
            nn.init.normal_(self.project.weight, std=scale * inputs**-0.5)
            nn.init.zeros_(self.project.bias)

    def prune_groups(self) -> list[Group]:
        """Heads and feed-forward units of each layer, and the residual width as a whole.

        Cutting heads and feed-forward units whose outgoing weights are zero changes no output.
        Cutting the width always does: every normalization loses a value of its statistics.
        Sinusoids of another width would be other positions, so that their width stays.
        """
        groups = []
        for layer, block in enumerate(self.layers):
            assert isinstance(block, Block)
            groups += [_heads_group(layer, block.attention), _feed_forward_group(layer, block)]
        if self.positions is not None:
            groups.append(self._width_group())
        return groups

    def pruned_config(self, kept: dict[str, int]) -> dict[str, Any]:
        """The configuration with so many units left in each group; a missing one stays whole."""
        config = self.config.model_dump(mode="json")
        for layer in range(len(self.layers)):
            for kind in ("heads", "feed_forward"):
                name = f"layers.{layer}.{kind}"
                config[kind][layer] = kept.get(name, config[kind][layer])
        config["width"] = kept.get("width", config["width"])
        if self.project is not None and self.front.tokens is not None:
            config["embedding"] = self.front.tokens.embedding_dim
        return config

    def without_layer(self, layer: int) -> tuple[dict[str, Any], dict[str, str]]:
        """The configuration without one block, and new to old name of every tensor that stays.

        Raises:
            IndexError: there is no layer of that number.
            ValueError: it is the only one.
        """
        if not 0 <= layer < len(self.layers):
            raise IndexError(f"no layer {layer}; this Transformer has {len(self.layers)}")
        if len(self.layers) == 1:
            raise ValueError(f"layer {layer} is the only one; expected at least two")
        config = self.config.model_dump(mode="json")
        del config["heads"][layer], config["feed_forward"][layer]
        names = {}
        for name in self.state_dict():
            stack, _, rest = name.partition(".")
            number, _, tail = rest.partition(".")
            if stack != "layers":
                names[name] = name
            elif int(number) != layer:
                names[f"layers.{int(number) - (int(number) > layer)}.{tail}"] = name
        return config, names

    def _width_group(self) -> Group:
        rows = torch.arange(self.config.width).unsqueeze(1)
        writers = [("positions.weight", 1)]
        if self.project is None:
            writers += [(f"front.{name}", dim) for name, dim in self.front.writers()]
        pieces = [Piece(name, dim, rows) for name, dim in writers]
        for name, parameter in self.named_parameters():
            layer = name.rsplit(".", 1)[0].rsplit(".", 1)[-1]
            if layer in ("project", "output", "contract", "attention_norm", "norm"):
                pieces.append(Piece(name, 0, rows))
            elif layer in ("query", "key", "value", "expand") and parameter.dim() == 2:
                pieces.append(Piece(name, 1, rows, outgoing=True))
        pooled = (
            torch.arange(self.head.in_features).view(-1, self.config.width).T
        )  # twice for mean_max
        pieces.append(Piece("head.weight", 1, pooled, outgoing=True))
        return Group("width", "width", self.config.width, tuple(pieces), "width")


def _heads_group(layer: int, attention: Attention) -> Group:
    rows = torch.arange(attention.heads * attention.head_width).view(attention.heads, -1)
    prefix = f"layers.{layer}.attention"
    pieces = [
        Piece(f"{prefix}.{part}.{tensor}", 0, rows)
        for part in ("query", "key", "value")
        for tensor in ("weight", "bias")
    ]
    pieces.append(Piece(f"{prefix}.output.weight", 1, rows, outgoing=True))
    name = f"layers.{layer}.heads"
    return Group(name, "heads", attention.heads, tuple(pieces), name)


def _feed_forward_group(layer: int, block: Block) -> Group:
    units = block.expand.out_features
    rows = torch.arange(units).unsqueeze(1)
    pieces = (
        Piece(f"layers.{layer}.expand.weight", 0, rows),
        Piece(f"layers.{layer}.expand.bias", 0, rows),
        Piece(f"layers.{layer}.contract.weight", 1, rows, outgoing=True),
    )
    name = f"layers.{layer}.feed_forward"
    return Group(name, "feed_forward", units, pieces, name)


def attention_maps(model: Transformer, inputs: tuple[Tensor, ...]) -> list[Tensor]:
    """The attention weights of every layer, for looking at.

    Args:
        inputs: what the model is called with, see `Transformer.forward`.

    Returns:
        For each layer (batch, heads, time, time): how much each step takes from each.
    """
    maps: list[Tensor] = []
    attentions = [module for module in model.modules() if isinstance(module, Attention)]
    hooks = [
        attention.register_forward_pre_hook(lambda module, args: maps.append(module.weights(*args)))
        for attention in attentions
    ]
    training = model.training
    try:
        with torch.no_grad():  # not inference_mode: what comes back may be used anywhere
            model.eval()(*inputs)
    finally:
        model.train(training)
        for hook in hooks:
            hook.remove()
    return maps


def sinusoids(time: int | torch.SymInt, width: int, device: torch.device) -> Tensor:
    """Positions that need no training, (time, width): sines, then cosines (Vaswani et al., 3.5)."""
    rates = torch.arange(0, width, 2, device=device) * (-math.log(10_000) / width)
    steps = torch.arange(time, device=device)  # type: ignore[arg-type]
    angles = steps.unsqueeze(1) * rates.exp()
    return torch.cat([angles.sin(), angles.cos()], dim=1)


def _pool(steps: Tensor, lengths: Tensor | None, how: str) -> Tensor:
    if how != "last":
        mask = None if lengths is None else valid_steps(lengths, steps.shape[1])
        return pool(steps, mask, how)
    if lengths is None:
        return steps[:, -1]
    rows = torch.arange(len(steps), device=steps.device)
    return steps[rows, lengths - 1]

"""Recurrent reference models: a stack of RNN, LSTM or GRU layers, and a linear layer behind it.

Weights start from torch's default (uniform, 1/√hidden), but for recurrent ones, orthogonal for each
gate (Saxe et al., 2014, arXiv:1312.6120), and an LSTM's forget gate, whose bias is one higher, so
that it remembers at first (Jozefowicz et al., 2015, proceedings.mlr.press/v37).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from compress.models.groups import Group, Piece
from compress.models.recurrent_op import recurrent
from compress.models.sequence import Front, Wide, pool, valid_steps
from compress.models.sequence_configs import RecurrentConfig

_CELLS: dict[str, Callable[..., nn.RNNBase]] = {"rnn": nn.RNN, "lstm": nn.LSTM, "gru": nn.GRU}
_GATES = {"rnn": 1, "lstm": 4, "gru": 3}


class RecurrentLayer(nn.Module):
    """One recurrent layer that reads forward, or forward and backward.

    Maps (time, batch, features) and lengths (batch,), or None where every step is valid, to all
    steps, (time, batch, directions · hidden), zero behind each length, and to the state behind each
    direction's last valid step, (batch, directions · hidden). Padding changes neither.
    """

    def __init__(self, kind: str, features: int, hidden: int, bidirectional: bool) -> None:
        """`kind`: "rnn" (tanh), "lstm" or "gru"."""
        super().__init__()
        self.kind = kind
        self.cell = _CELLS[kind](features, hidden, bidirectional=bidirectional)
        for name, values in self.cell.named_parameters():
            if name.startswith("weight_hh"):
                for gate in values.detach().split(hidden):
                    nn.init.orthogonal_(gate)
            elif name.startswith("bias_ih") and kind == "lstm":
                values.detach()[hidden : 2 * hidden] += 1

    def forward(self, x: Tensor, lengths: Tensor | None = None) -> tuple[Tensor, Tensor]:
        if torch.compiler.is_exporting():
            weights = [tensor for direction in self.cell.all_weights for tensor in direction]
            steps, last = recurrent(x, lengths, weights, self.kind)
            return steps, last
        if lengths is None:
            steps, state = self.cell(x)
        else:
            packed = pack_padded_sequence(x, lengths.cpu(), enforce_sorted=False)
            packed, state = self.cell(packed)
            steps, _ = pad_packed_sequence(packed, total_length=x.shape[0])
        last = state[0] if self.kind == "lstm" else state
        return steps, last.transpose(0, 1).flatten(1)


class Recurrent(nn.Module):
    """Layers in front, a stack of recurrent layers, pooling over valid steps, and a linear layer.

    Maps tokens (batch, time), int64, or numbers (batch, time, in_features), and lengths (batch,),
    at least 1, or None where every step is valid, to (batch, outputs), or to (batch, time, outputs)
    where every step gives outputs.
    """

    def __init__(self, config: RecurrentConfig) -> None:
        super().__init__()
        self.config = config
        self.front = Front(config, config.widths[0])
        directions, features = 1 + config.bidirectional, self.front.width
        layers = []
        for width in config.widths:
            layers.append(RecurrentLayer(config.cell, features, width, config.bidirectional))
            features = directions * width
        self.layers = nn.ModuleList(layers)
        self.dropout = nn.Dropout(config.dropout)
        self.head = nn.Linear(features, config.outputs)
        self.wide = Wide(config) if config.wide else None

    def forward(self, x: Tensor, lengths: Tensor | None = None) -> Tensor:
        whole = lengths
        vectors, lengths = self.front(x, lengths)
        steps = last = vectors.transpose(0, 1)  # time first, as runtimes keep it
        for number, layer in enumerate(self.layers):
            steps, last = layer(self.dropout(steps) if number else steps, lengths)
        logits: Tensor = self.head(self.dropout(self._features(steps, last, lengths)))
        if self.wide is not None:
            logits = logits + self.wide(x, whole)
        return logits

    def _features(self, steps: Tensor, last: Tensor, lengths: Tensor | None) -> Tensor:
        """What the linear layer sees: (batch, width), or (batch, time, width)."""
        if self.config.per_step:
            return steps.transpose(0, 1)
        if self.config.pooling == "last":
            return last
        mask = None if lengths is None else valid_steps(lengths, steps.shape[0])
        return pool(steps.transpose(0, 1), mask, self.config.pooling)

    def prune_groups(self) -> list[Group]:
        """Hidden units of each layer and direction, and the vectors and channels in front."""
        groups = self._front_groups()
        for number, width in enumerate(self.config.widths):
            for direction in range(1 + self.config.bidirectional):
                groups.append(self._unit_group(number, direction, width))
        return groups

    def _unit_group(self, layer: int, direction: int, width: int) -> Group:
        """One direction's hidden units: each owns a row in every gate, and what reads its state."""
        units, cell = torch.arange(width).unsqueeze(1), f"layers.{layer}.cell"
        suffix = "l0_reverse" if direction else "l0"
        gates = units + width * torch.arange(_GATES[self.config.cell])
        tensors = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
        pieces = [Piece(f"{cell}.{tensor}_{suffix}", 0, gates) for tensor in tensors]
        pieces.append(Piece(f"{cell}.weight_hh_{suffix}", 1, units, outgoing=True))
        place = units + width * direction
        pieces += [Piece(name, 1, place, outgoing=True) for name in self._readers(layer + 1)]
        name = f"layers.{layer}.{'backward' if direction else 'forward'}"
        return Group(name, "units", width, tuple(pieces), f"layers.{layer}.units")

    def _readers(self, layer: int) -> list[str]:
        """The weights whose columns read what is in front of a layer, or of the linear layer."""
        if layer == len(self.layers):
            return ["head.weight"]
        suffixes = ("l0", "l0_reverse")[: 1 + self.config.bidirectional]
        return [f"layers.{layer}.cell.weight_ih_{suffix}" for suffix in suffixes]

    def _front_groups(self) -> list[Group]:
        groups, convolution = [], self.front.convolution
        if self.front.tokens is not None:
            width = self.front.tokens.embedding_dim
            readers = ["front.convolution.weight"] if convolution else self._readers(0)
            own = [(f"front.{name}", dim) for name, dim in self.front.writers()]
            groups.append(_front_group("front.embedding", width, own, readers))
        if convolution is not None:
            own = [("front.convolution.weight", 0), ("front.convolution.bias", 0)]
            width = convolution.out_channels
            groups.append(_front_group("front.convolution", width, own, self._readers(0)))
        return groups

    def pruned_config(self, kept: dict[str, int]) -> dict[str, Any]:
        """The configuration with so many units left in each set of partners, as plain data."""
        widths = [
            kept.get(f"layers.{number}.units", width)
            for number, width in enumerate(self.config.widths)
        ]
        changed: dict[str, Any] = {"widths": widths}
        if self.front.tokens is not None:  # no longer by the first layer's width
            width = self.front.tokens.embedding_dim
            changed["embedding"] = kept.get("front.embedding", width)
        if self.front.convolution is not None:
            width = self.front.convolution.out_channels
            changed["front_width"] = kept.get("front.convolution", width)
        return self.config.model_dump(mode="json") | changed

    def without_layer(self, layer: int) -> tuple[dict[str, Any], dict[str, str]]:
        """The configuration without one layer, and new to old name of every tensor that stays.

        Raises:
            ValueError: the layer cannot go, as it is the only one or changes the width.
        """
        before, widths = self.layers[layer].cell, list(self.config.widths)
        assert isinstance(before, nn.RNNBase)
        width = before.hidden_size * (1 + self.config.bidirectional)
        if len(widths) == 1:
            raise ValueError(f"layer {layer} is the only one; expected at least two")
        if before.input_size != width:
            raise ValueError(
                f"layer {layer} makes {width} features of {before.input_size}; without it the "
                "next one would not fit"
            )
        del widths[layer]
        names: dict[str, str] = {}
        for old in self.state_dict():
            part, _, rest = old.removeprefix("layers.").partition(".")
            if not old.startswith("layers."):
                names[old] = old
            elif int(part) != layer:
                names[f"layers.{int(part) - (int(part) > layer)}.{rest}"] = old
        return self.pruned_config({}) | {"widths": widths}, names


def _front_group(name: str, width: int, own: list[tuple[str, int]], readers: list[str]) -> Group:
    places = torch.arange(width).unsqueeze(1)
    pieces = [Piece(tensor, dim, places) for tensor, dim in own]
    pieces += [Piece(tensor, 1, places, outgoing=True) for tensor in readers]
    return Group(name, "front", width, tuple(pieces), name)

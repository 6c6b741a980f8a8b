"""The block that a Transformer is a stack of: self-attention and a feed-forward part.

As in Vaswani et al. (2017, arXiv:1706.03762), but normalized in front of each part (Xiong et al.,
2020, arXiv:2002.04745) and with GELU (Hendrycks & Gimpel, 2016, arXiv:1606.08415) in its tanh form,
which onnxruntime computes a fifth faster. Queries, keys, values and the output are plain linear
layers: these prune and export cleanly, which `nn.MultiheadAttention` does not.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from compress.models.sequence_configs import TransformerConfig

#: Added to the score of a step that must not be seen; exp() makes it 0 exactly, in fp16 as well.
UNSEEN = -1e4


class Attention(nn.Module):
    """Multi-head self-attention.

    Maps (batch, time, width) to the same shape; heads · head_width numbers a step lie between.
    """

    def __init__(self, width: int, heads: int, head_width: int) -> None:
        super().__init__()
        self.heads, self.head_width = heads, head_width
        self.query = nn.Linear(width, heads * head_width)
        self.key = nn.Linear(width, heads * head_width)
        self.value = nn.Linear(width, heads * head_width)
        self.output = nn.Linear(heads * head_width, width)

    def forward(self, x: Tensor, bias: Tensor | None, causal: bool) -> Tensor:
        """`bias`: added to the scores, (batch, 1, 1, time) or (time, time); None where all is seen.

        `causal` hides what is behind each step without a bias, by torch's fused kernel.
        """
        query, key, value = (self._heads(part(x)) for part in (self.query, self.key, self.value))
        if torch.compiler.is_exporting():
            # Exported, the fused kernel becomes twice as many nodes, NaN guards among them.
            mixed = _weights(query, key, bias, causal) @ value
        elif value.dtype == torch.bfloat16:
            # In bf16 the fused kernel takes 2 to 5 times as long on a CPU; autocast would compute
            # the softmax in fp32, for another factor of 2.
            with torch.autocast(x.device.type, enabled=False):
                mixed = _weights(query, key, bias, causal) @ value
        else:
            mixed = F.scaled_dot_product_attention(query, key, value, bias, is_causal=causal)
        output: Tensor = self.output(mixed.transpose(1, 2).flatten(2))
        return output

    def weights(self, x: Tensor, bias: Tensor | None, causal: bool) -> Tensor:
        """How much each step takes from each: (batch, heads, time, time), rows sum to 1."""
        return _weights(self._heads(self.query(x)), self._heads(self.key(x)), bias, causal)

    def _heads(self, x: Tensor) -> Tensor:
        """(batch, time, heads · head_width) to (batch, heads, time, head_width)."""
        return x.view(*x.shape[:2], self.heads, self.head_width).transpose(1, 2)


def _weights(query: Tensor, key: Tensor, bias: Tensor | None, causal: bool) -> Tensor:
    """Softmax of the scaled products, (batch, heads, time, time), in the queries' type."""
    scores = (query * query.shape[3] ** -0.5) @ key.transpose(2, 3)
    if causal:
        steps = torch.arange(scores.shape[2], device=scores.device)
        bias = UNSEEN * (steps.unsqueeze(0) > steps.unsqueeze(1)).to(scores.dtype)
    weights: Tensor = (scores if bias is None else scores + bias.to(scores.dtype)).softmax(dim=3)
    return weights


class Block(nn.Module):
    """Attention, then a feed-forward part, each normalized in front and added to what came in."""

    def __init__(self, config: TransformerConfig, layer: int) -> None:
        super().__init__()
        width, hidden = config.width, config.feed_forward[layer]
        self.attention_norm = nn.LayerNorm(width)
        self.attention = Attention(width, config.heads[layer], config.head_width)
        self.norm = nn.LayerNorm(width)
        self.expand = nn.Linear(width, hidden)
        self.contract = nn.Linear(hidden, width)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x: Tensor, bias: Tensor | None, causal: bool) -> Tensor:
        x = x + self.dropout(self.attention(self.attention_norm(x), bias, causal))
        hidden = F.gelu(self.expand(self.norm(x)), approximate="tanh")
        output: Tensor = x + self.dropout(self.contract(hidden))
        return output

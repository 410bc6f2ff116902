"""A small transformer over trimmed captions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from vlp.config.bounds import Count, Decay
from vlp.models import TextTower


@dataclass(frozen=True)
class Transformer(TextTower):
    """A pre-norm transformer encoder whose cost follows the longest text of the batch."""

    hidden: Count = 192
    """width of the layers"""
    layers: Count = 4
    """number of layers"""
    heads: Count = 3
    """attention heads"""
    dropout: Decay = 0.0
    """dropout rate, on the embeddings and inside the layers"""
    pool: Literal["mean", "last"] = "mean"
    """mean over the tokens, or the last token (the end mark)"""

    def build(self, width: int, vocab: int, context: int) -> nn.Module:
        """A module [B, L] -> [B, width]."""
        return TransformerText(self, width, vocab, context)


class TransformerText(nn.Module):
    """The module of `Transformer`."""

    def __init__(self, config: Transformer, width: int, vocab: int, context: int) -> None:
        super().__init__()
        self.pool = config.pool
        self.token = nn.Embedding(vocab, config.hidden, padding_idx=0)
        self.position = nn.Parameter(torch.randn(context, config.hidden) * 0.01)
        self.dropout = nn.Dropout(config.dropout)
        layer = nn.TransformerEncoderLayer(
            config.hidden,
            config.heads,
            4 * config.hidden,
            config.dropout,
            activation="gelu",
            batch_first=True,
            norm_first=True,
        )
        self.layers = nn.TransformerEncoder(layer, config.layers, enable_nested_tensor=False)
        self.norm = nn.LayerNorm(config.hidden)
        self.head = nn.Linear(config.hidden, width, bias=False)
        nn.init.normal_(self.token.weight, std=0.02)
        with torch.no_grad():
            self.token.weight[0].zero_()

    def forward(self, text: Tensor) -> Tensor:
        """Features [B, width] of token ids [B, L], 0 = padding."""
        padding = text == 0
        x = self.dropout(self.token(text) + self.position[: text.shape[1]])
        x = self.norm(self.layers(x, src_key_padding_mask=padding))
        if self.pool == "mean":
            kept = (~padding).unsqueeze(-1).to(x.dtype)
            x = (x * kept).sum(1) / kept.sum(1).clamp_min(1)
        else:
            last = (~padding).sum(1).clamp_min(1) - 1
            x = x[torch.arange(len(x), device=x.device), last]
        return self.head(x)  # type: ignore[no-any-return]

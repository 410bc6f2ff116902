"""A bag of tokens and a small MLP: for captions of a few words as good as a transformer, at a twentieth of its cost."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from vlp.config.bounds import Count, Decay, Whole
from vlp.models import TextTower


@dataclass(frozen=True)
class Bag(TextTower):
    """Token embeddings summed, divided by the root of their number, then residual MLPs; word order is not seen."""

    hidden: Count = 256
    """width of the embeddings"""
    layers: Whole = 1
    """residual MLPs"""
    expansion: Count = 2
    """width inside an MLP / width of the embeddings"""
    dropout: Decay = 0.0
    """dropout rate on each MLP's output"""
    token_dropout: Decay = 0.0
    """share of the tokens that training leaves out"""

    def build(self, width: int, vocab: int, context: int) -> nn.Module:
        """A module [B, L] -> [B, width]."""
        return BagText(self, width, vocab)


class BagText(nn.Module):
    """The module of `Bag`."""

    def __init__(self, config: Bag, width: int, vocab: int) -> None:
        super().__init__()
        hidden = config.hidden
        self.token_dropout = config.token_dropout
        self.token = nn.Embedding(vocab, hidden, padding_idx=0)
        nn.init.normal_(self.token.weight, std=0.06)
        with torch.no_grad():
            self.token.weight[0].zero_()
        self.layers = nn.ModuleList(
            nn.Sequential(
                nn.LayerNorm(hidden),
                nn.Linear(hidden, config.expansion * hidden),
                nn.GELU(),
                nn.Linear(config.expansion * hidden, hidden),
                nn.Dropout(config.dropout),
            )
            for _ in range(config.layers)
        )
        self.norm = nn.LayerNorm(hidden)
        self.head = nn.Linear(hidden, width, bias=False)

    def forward(self, text: Tensor) -> Tensor:
        """Features [B, width] of token ids [B, L], 0 = padding."""
        kept = text != 0
        if self.training and self.token_dropout:
            kept = kept & (torch.rand(text.shape, device=text.device) >= self.token_dropout)
        share = kept.unsqueeze(-1).to(self.token.weight.dtype)
        x = (self.token(text) * share).sum(1) / share.sum(1).clamp_min(1).sqrt()
        for layer in self.layers:
            x = x + layer(x)
        return self.head(self.norm(x))  # type: ignore[no-any-return]

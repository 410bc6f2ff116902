"""Decoupled contrastive learning: no positive in the denominator (Yeh et al. 2021, arXiv 2110.06848, equation 6)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from vlp.losses import Softmax
from vlp.losses._engine.tile import Matrix, Side, Tile


@dataclass(frozen=True, kw_only=True)
class DCL(Softmax):
    """-s_ii + log sum_{j != i} exp(s_ij): InfoNCE without its negative-positive coupling, kinder to small batches."""

    least_pairs: ClassVar[int] = 2

    @property
    def powers(self) -> tuple[float, ...]:
        """The log-sum-exps it needs: see Loss."""
        return (1.0,)

    def denominator(self, tile: Tile) -> Tensor:
        """The logits [r, c], -inf where they stay out."""
        tile.own(tile.logits).fill_(-torch.inf)
        return tile.logits

    def each(self, side: Side) -> Tensor:
        """[n] the loss of each pair, from its statistics."""
        return side.lse[0] - self.target(side)

    def definition(self, matrix: Matrix) -> Tensor:
        """[B] the loss of each pair, from the whole matrix."""
        negatives = matrix.logits.masked_fill(matrix.own(), -torch.inf)
        return matrix.log_sum_exp(negatives) - self.smoothed(matrix.positive(), matrix.logits.mean(1))

"""Hard-negative NCE of DiHT (Radenovic et al. 2023, arXiv 2301.02280, equations 3 to 5)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from vlp.config.bounds import AtLeastZero
from vlp.losses import Softmax
from vlp.losses._engine.tile import Matrix, Side, Tile


@dataclass(frozen=True, kw_only=True)
class HNNCE(Softmax):
    """-s_ii + log(alpha exp(s_ii) + sum_{j != i} w_ij exp(s_ij)), w_ij = n exp(beta s_ij) / sum_k exp(beta s_ik).

    n is the number of negatives, so that alpha = 1 and beta = 0 is InfoNCE. The weighted sum is
    n exp(lse((1 + beta) s) - lse(beta s)): two log-sum-exps (and the count) are all it needs of a row. As in the
    definition, gradients flow through the weights.
    """

    least_pairs: ClassVar[int] = 2

    alpha: AtLeastZero = 1.0
    """Weight of the positive in the denominator; 1 in InfoNCE; with less, pairs that are close already pull less."""
    beta: AtLeastZero = 0.25
    """Sharpness of the weights on hard negatives; 0 weights them all alike."""

    @property
    def powers(self) -> tuple[float, ...]:
        """The log-sum-exps it needs: see Loss."""
        return (1.0 + self.beta, self.beta, 0.0)

    def denominator(self, tile: Tile) -> Tensor:
        """The logits [r, c], -inf where they stay out."""
        tile.own(tile.logits).fill_(-torch.inf)
        return tile.logits

    def each(self, side: Side) -> Tensor:
        """[n] the loss of each pair, from its statistics."""
        hard, weight, count = side.lse
        return self.joined(side.positive, count + hard - weight) - self.target(side)

    def joined(self, positive: Tensor, negative: Tensor) -> Tensor:
        """[n] log(alpha exp(positive) + exp(negative))."""
        if self.alpha == 0:
            return negative
        return torch.logaddexp(positive + math.log(self.alpha), negative)

    def definition(self, matrix: Matrix) -> Tensor:
        """[B] the loss of each pair, from the whole matrix."""
        negatives = torch.cat([matrix.logits.masked_fill(matrix.own(), -torch.inf), matrix.local], dim=1)
        present = negatives.isfinite()
        sharpened = torch.where(present, self.beta * negatives, -torch.inf)
        log_weights = present.sum(1, keepdim=True).to(negatives.dtype).log() + sharpened.log_softmax(1)
        negative = (log_weights + negatives).logsumexp(1)
        return self.joined(matrix.positive(), negative) - self.smoothed(matrix.positive(), matrix.logits.mean(1))

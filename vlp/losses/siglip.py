"""SigLIP: every pair is its own yes-or-no question (Zhai et al. 2023, arXiv 2303.15343, equation 1)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn.functional import softplus

from vlp.losses import Loss
from vlp.losses._engine.tile import Matrix, Side, Term, Tile


@dataclass(frozen=True, kw_only=True)
class SigLIP(Loss):
    """-(1/B) sum_ij log sigmoid(z_ij (scale * s_ij + bias)), z = +1 for a pair and -1 otherwise.

    Label smoothing e moves the two targets from (1, 0) to (1 - e/2, e/2).
    """

    uses_bias: ClassVar[bool] = True
    linear: ClassVar[bool] = True
    start_scale: ClassVar[float] = 10.0  # section 3.1: nearly all pairs are negatives, so the bias starts far below 0
    start_bias: ClassVar[float] = -10.0

    @property
    def term_count(self) -> int:
        """The number of terms."""
        return 1

    def terms(self, tile: Tile) -> tuple[Term, ...]:
        """The binary cross-entropy of each logit: softplus(z) - target * z."""
        logits, low = tile.logits, self.label_smoothing / 2
        value, slope = softplus(logits), torch.sigmoid(logits)
        if low:
            value, slope = value.sub_(logits, alpha=low), slope.sub_(low)
        if tile.diagonal:
            tile.own(value).sub_(tile.own(logits), alpha=1 - 2 * low)
            tile.own(slope).sub_(1 - 2 * low)
        return (Term(value, slope),)

    def each(self, side: Side) -> Tensor:
        """[n] the loss of each pair, from its statistics."""
        return side.total[0]

    def definition(self, matrix: Matrix) -> Tensor:
        """[B] the loss of each pair, from the whole matrix."""
        low = self.label_smoothing / 2
        target = torch.where(matrix.own(), matrix.logits.new_tensor(1 - low), low)
        present = matrix.local.isfinite()
        local = torch.where(present, matrix.local, 0.0)
        asked = -target * matrix.logits.sigmoid().log() - (1 - target) * (-matrix.logits).sigmoid().log()
        extra = -low * local.sigmoid().log() - (1 - low) * (-local).sigmoid().log()
        return asked.sum(1) + (extra * present).sum(1)

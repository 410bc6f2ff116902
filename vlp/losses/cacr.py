"""CACR: far positives attract more, near negatives repel more (Zheng et al., 2105.03746).

Contrastive attraction and contrastive repulsion, as in its published implementation, whose defaults these are; the
text itself was not at hand. Pairs of the batch with the same id are the several positives.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from vlp.batch import Embeddings
from vlp.config.bounds import AtLeastZero
from vlp.losses import Softmax
from vlp.losses._engine.among import ALONE, Among
from vlp.losses._engine.tile import Exponent, Matrix, Side, Tile


@dataclass(frozen=True, kw_only=True)
class CACR(Softmax):
    """E+[d^2] - E-[d^2] over the pairs with the same id and over all others, d^2 = 2 - 2c: the scale has no part in it.

    The means are weighted by exp(attract d^2) and by exp(-repel d^2), and gradients go through the weights. Label
    smoothing mixes the mean over all into the first one. What has no others is not repelled.
    """

    uses_ids: ClassVar[bool] = True
    needs: ClassVar[tuple[str, ...]] = ("ids",)
    least_pairs: ClassVar[int] = 2

    attract: AtLeastZero = 1.0
    """how much more the farther of several positives attract"""
    repel: AtLeastZero = 2.0
    """how much more the nearer negatives repel"""

    @property
    def exponent_count(self) -> int:
        """Positives and negatives."""
        return 2

    @property
    def mean_count(self) -> int:
        """Both have one."""
        return 2

    def exponents(self, tile: Tile) -> tuple[Exponent, ...]:
        """The weights of positives and of negatives, each with the mean cosine; exp(-2t) is left out of both."""
        cosines = tile.logits
        far, near = -2 * self.attract * cosines, 2 * self.repel * cosines
        if tile.local:
            far.fill_(-torch.inf)
        else:
            same = tile.same()
            far.masked_fill_(~same, -torch.inf)
            near.masked_fill_(same, -torch.inf)
        return Exponent(far, -2 * self.attract, cosines, 1.0), Exponent(near, 2 * self.repel, cosines, 1.0)

    def __call__(self, e: Embeddings, among: Among = ALONE) -> Tensor:
        """The loss []."""
        return super().__call__(replace(e, scale=torch.ones_like(e.scale.detach())), among)

    def each(self, side: Side) -> Tensor:
        """[n] the loss of each pair, from its statistics: d^2 of its positives less that of its negatives."""
        positive, negative = side.mean
        if self.label_smoothing:
            positive = self.smoothed(positive, side.total[0] / side.size)
        return (2 - 2 * positive) - (2 - 2 * negative) * side.lse[1].isfinite()

    def definition(self, matrix: Matrix) -> Tensor:
        """[B] the loss of each pair, from the whole matrix."""
        entries = torch.cat([matrix.logits, matrix.local], 1)
        positives = torch.cat([matrix.same, torch.zeros_like(matrix.local, dtype=torch.bool)], 1)
        negatives = ~positives & entries.isfinite()
        apart = 2 - 2 * torch.where(entries.isfinite(), entries, 0.0)
        attraction = averaged(apart, self.attract * apart, positives)
        if self.label_smoothing:
            attraction = self.smoothed(attraction, 2 - 2 * matrix.logits.mean(1))
        return attraction - averaged(apart, -self.repel * apart, negatives)


def averaged(values: Tensor, exponents: Tensor, among: Tensor) -> Tensor:
    """[B] the mean of each row of `values` with weights exp(exponents) over those of `among`; 0 where there is none."""
    there = among.any(1, keepdim=True)
    weights = exponents.masked_fill(~among & there, -torch.inf).softmax(1) * there
    return (weights * values).sum(1)

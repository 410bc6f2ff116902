"""The Gaussian potential of pairs of different vectors; its logarithm is uniformity (Wang and Isola, 2005.10242)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from vlp.batch import Embeddings
from vlp.losses import Loss
from vlp.losses._engine.among import Among
from vlp.losses._engine.tile import Matrix, Side, Tile

SHARPNESS = 2.0  # t of exp(-t |u - v|^2), as in the paper


@dataclass(frozen=True, kw_only=True)
class Potential(Loss):
    """The sum over j != i of exp(logit - offset)."""

    least_pairs: ClassVar[int] = 2

    offset: float = 0.0
    """what the largest logit may be"""

    @property
    def powers(self) -> tuple[float, ...]:
        """The log-sum-exps it needs: see Loss."""
        return (1.0,)

    def denominator(self, tile: Tile) -> Tensor:
        """The logits [r, c], -inf where they stay out: of the pair itself, and of negative captions."""
        if tile.local:
            return torch.full_like(tile.logits, -torch.inf)
        tile.own(tile.logits).fill_(-torch.inf)
        return tile.logits

    def each(self, side: Side) -> Tensor:
        """[n] the potential at each vector."""
        return (side.lse[0] - self.offset).exp()

    def definition(self, matrix: Matrix) -> Tensor:
        """[B] the same from the whole matrix."""
        return (matrix.logits - self.offset).exp().masked_fill(matrix.own(), 0).sum(1)


def uniformity(among: Among, u: Tensor, v: Tensor, e: Embeddings) -> Tensor:
    """log mean over i != j of exp(-2 |u_i - v_j|^2) [], for unit vectors u and v [b, D] of everybody; least is best."""
    own = torch.full_like(e.scale.detach(), 2 * SHARPNESS)
    bare = Embeddings(u, v, own, torch.zeros_like(own))
    return (among.contrast(Potential(offset=2 * SHARPNESS), bare).value / (len(u) * among.size - 1)).log()

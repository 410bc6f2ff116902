"""BarLIP: InfoNCE and Barlow Twins between modalities (Fini et al., 2305.08675; Zbontar et al., 2103.03230, eq. 1).

The formula is that of Barlow Twins, on projections of pictures and captions; the first paper's projector and weights
could not be compared with its text. Here a projection is one matrix, and its batch norm is part of the correlation.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from vlp.batch import Embeddings
from vlp.config.bounds import AtLeastZero, Count
from vlp.losses import Loss, Objective
from vlp.losses._engine.among import ALONE, Among, mean
from vlp.losses.infonce import InfoNCE

EPS = 1e-5
"""Added to variances, as a batch norm does"""


@dataclass(frozen=True, kw_only=True)
class BarLIP(Objective):
    """base + weight (sum_d (1 - C_dd)^2 + redundancy sum_d!=e C_de^2), C_de the correlation of two projected numbers.

    C correlates the d-th number of Wx with the e-th of Vy over everybody's pairs; W and V are learnt. What ranks add up
    is of the size of C, whatever the batch.
    """

    base: Objective = field(default_factory=InfoNCE)
    """the objective that is added to"""
    weight: AtLeastZero = 0.02
    """weight of what is added"""
    redundancy: AtLeastZero = 0.005
    """weight of the correlations of different numbers"""
    dims: Count = 256
    """how many numbers pictures and captions are projected to"""

    @property
    def contrasts(self) -> tuple[Loss, ...]:
        """What it adds to."""
        return self.base.contrasts

    def learnt(self, width: int) -> Mapping[str, Tensor]:
        """The two projections [width, dims]."""
        own = {f"barlip_{side}": torch.randn(width, self.dims) for side in ("image", "text")}
        return {**super().learnt(width), **own}

    def __call__(self, e: Embeddings, among: Among = ALONE) -> Tensor:
        """The objective []."""
        assert e.learnt is not None
        value = self.base(e, among)
        x, y = (side.to(e.precision) @ e.learnt[f"barlip_{n}"].to(e.precision) for n, side in sides(e))
        c = correlation(among, x, y, e.weights)
        own = c.diagonal()
        others = c.square().sum() - own.square().sum()
        added: Tensor = (1 - own).square().sum() + self.redundancy * others
        return value + self.weight * added


def sides(e: Embeddings) -> tuple[tuple[str, Tensor], tuple[str, Tensor]]:
    """The two sides of pairs, by name."""
    return ("image", e.image), ("text", e.text)


def correlation(among: Among, x: Tensor, y: Tensor, weights: Tensor | None) -> Tensor:
    """[d, d] how each column of x [b, d] correlates with each of y, over everybody's pairs."""
    d = x.shape[1]
    centred = torch.cat([x, y], 1)
    centred = centred - mean(among, centred, weights).detach()  # the sums below do not change with it
    x, y = centred[:, :d], centred[:, d:]
    w = x.new_ones(len(x)) if weights is None else weights.to(x.dtype)
    own = torch.cat([(x * w[:, None]).T @ y, (w @ x.square())[None], (w @ y.square())[None], w.sum().expand(1, d)])
    sums = among.total(own)
    products, xx, yy = (sums[:-1] / sums[-1]).tensor_split([d, d + 1])
    return products / ((xx[0, :, None] + EPS) * (yy[0, None, :] + EPS)).sqrt()

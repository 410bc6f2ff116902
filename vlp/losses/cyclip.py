"""CyCLIP: InfoNCE whose similarities are also symmetric between and inside the modalities (Goel et al., 2205.14459)."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from vlp.batch import Embeddings
from vlp.config.bounds import AtLeastZero
from vlp.losses import Loss, Objective
from vlp.losses._engine.among import ALONE, Among
from vlp.losses.infonce import InfoNCE


@dataclass(frozen=True, kw_only=True)
class CyCLIP(Objective):
    """base + across/B sum_ij (c_ij - c_ji)^2 + inside/B sum_ij (x_i.x_j - y_i.y_j)^2 (equations 3 and 4).

    The sums over all pairs of pairs are those of three D x D matrices: their cost does not depend on the batch.
    """

    base: Objective = field(default_factory=InfoNCE)
    """the objective that is added to"""
    across: AtLeastZero = 0.25
    """weight of the consistency between image-text and text-image similarities"""
    inside: AtLeastZero = 0.25
    """weight of the consistency between image-image and text-text similarities"""

    @property
    def contrasts(self) -> tuple[Loss, ...]:
        """What it adds to."""
        return self.base.contrasts

    def __call__(self, e: Embeddings, among: Among = ALONE) -> Tensor:
        """The objective []."""
        value = self.base(e, among)
        x, y = e.image.to(e.precision), e.text.to(e.precision)
        xx, yy, xy = among.total(torch.stack([x.T @ x, y.T @ y, x.T @ y]))
        across = 2 * (xx * yy).sum() - 2 * (xy * xy.T).sum()
        inside = (xx * xx).sum() + (yy * yy).sum() - 2 * (xy * xy).sum()
        added: Tensor = (self.across * across + self.inside * inside) / (len(x) * among.size)
        return value + added

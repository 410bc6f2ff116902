"""Counting: a caption against the same one with another number (Paiss et al., 2302.12066, section 3.3).

With other wrong captions (`data.negatives`) it is the same comparison of other words. That the paper's cosines are not
scaled is how its method is described elsewhere; its text was not at hand.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from vlp.batch import Embeddings
from vlp.config.bounds import AtLeastZero, Positive
from vlp.losses import Loss, Objective
from vlp.losses._engine.among import ALONE, Among
from vlp.losses.infonce import InfoNCE


@dataclass(frozen=True, kw_only=True)
class Counting(Objective):
    """base + share * mean softplus(sharpness (c_wrong - c)), over all wrong captions there are of everybody's pairs.

    The base sees pairs alone: where wrong captions should be negatives of it, it is InfoNCE by itself (NegCLIP).
    """

    needs: ClassVar[tuple[str, ...]] = ("negatives",)

    base: Objective = field(default_factory=InfoNCE)
    """the objective that is added to"""
    share: AtLeastZero = 1.0
    """weight of the comparison of wrong captions with right ones"""
    sharpness: Positive = 1.0
    """by which the difference of two cosines is multiplied"""

    @property
    def contrasts(self) -> tuple[Loss, ...]:
        """What it adds to: wrong captions never leave their rank."""
        return self.base.contrasts

    def __call__(self, e: Embeddings, among: Among = ALONE) -> Tensor:
        """The objective []."""
        value = self.base(replace(e, negatives=None, negatives_keep=None), among)
        if e.negatives is None:
            return value
        image, text, wrong = (side.to(e.precision) for side in (e.image, e.text, e.negatives))
        right = torch.linalg.vecdot(image, text)[:, None]
        each = F.softplus(self.sharpness * (torch.einsum("bd,bkd->bk", image, wrong) - right))  # [b, K]
        counts = torch.ones_like(each) if e.weights is None else e.weights.to(e.precision)[:, None].expand_as(each)
        if e.negatives_keep is not None:
            counts = counts * e.negatives_keep
        sums = among.total(torch.stack([(counts * each).sum(), counts.sum()]))
        return value + self.share * sums[0] / sums[1].clamp_min(torch.finfo(e.precision).tiny)

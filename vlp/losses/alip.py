"""ALIP: captions count the less, the less they resemble their picture (Yang et al., 2308.08428).

The gate of description consistency, as its published implementation weights the loss; the gate between two captions of
a picture is left out, since a caption is compared with its picture alone. The formula of the gate is our design's and
could not be compared with the paper's text.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from vlp.batch import Embeddings
from vlp.config.bounds import AtLeastZero, Decay
from vlp.losses import Loss, Objective
from vlp.losses._engine.among import ALONE, Among, mean
from vlp.losses._reweighted import reweighted
from vlp.losses.infonce import InfoNCE


@dataclass(frozen=True, kw_only=True)
class ALIP(Objective):
    """mean of w_i base_i, w_i = min(1, e^(sharpness (c_i - H))), c_i the cosine of the pair, H its running mean.

    H is the mean of all steps until this one, the last counting most. No gradient goes through w. With several captions
    a picture each has its weight, and H is that of all of them.
    """

    base: Objective = field(default_factory=InfoNCE)
    """the objective whose pairs are weighted"""
    sharpness: AtLeastZero = 2.0
    """how fast the weight falls below the running mean"""
    momentum: Decay = 0.99
    """what is kept of the running mean at each step"""

    @property
    def contrasts(self) -> tuple[Loss, ...]:
        """Those that it weights."""
        return self.base.contrasts

    @property
    def per_run(self) -> Mapping[str, float]:
        """The running mean of cosines, times the second number, which tends to one."""
        return {**super().per_run, "alip_cosine": 0.0, "alip_mass": 0.0}

    def __call__(self, e: Embeddings, among: Among = ALONE) -> Tensor:
        """The objective []."""
        cosines = torch.linalg.vecdot(e.image.detach().to(e.precision), e.text.detach().to(e.precision))
        at = mean(among, cosines)
        total, mass = (
            self.momentum * self.before(among, name, e) + (1 - self.momentum) * now
            for name, now in (("alip_cosine", at), ("alip_mass", 1.0))
        )
        among.keep("alip_cosine", total)
        among.keep("alip_mass", mass)
        e, share = reweighted(e, among, (self.sharpness * (cosines - total / mass)).exp().clamp_max(1))
        return self.base(e, among) * share

"""Decoupled uniformity: the centres of pairs repel each other, and nothing else is asked (Dufumier et al., 2206.01646).

The paper's loss for the views of a picture, with picture and caption as the two views, without its kernel of prior
knowledge.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from vlp.batch import Embeddings
from vlp.losses import Loss, Objective
from vlp.losses._engine.among import ALONE, Among
from vlp.losses._potential import Potential


@dataclass(frozen=True, kw_only=True)
class DecoupledUniformity(Objective):
    """log mean over i != j of exp(-|m_i - m_j|^2), m = (x + y) / 2.

    Centres of pairs that are not alike are short, hence near each other: to repel, pairs have to agree. The logit scale
    has no part in it, nor have weights of pairs, negative captions or label smoothing a meaning.
    """

    meets_captions: ClassVar[bool] = False  # centres do

    @property
    def contrasts(self) -> tuple[Loss, ...]:
        """The potential of centres."""
        return (Potential(),)

    def __call__(self, e: Embeddings, among: Among = ALONE) -> Tensor:
        """The objective []."""
        centre = (e.image.to(e.precision) + e.text.to(e.precision)) / 2
        square, one = centre.square().sum(1, keepdim=True), torch.ones_like(centre[:, :1])
        left = torch.cat([2**0.5 * centre, -square, one], 1)  # left_i . right_j = -|m_i - m_j|^2
        right = torch.cat([2**0.5 * centre, one, -square], 1)
        plain = torch.ones_like(e.scale.detach())
        bare = Embeddings(left, right, plain, torch.zeros_like(plain))
        return (among.contrast(Potential(), bare).value / (len(centre) * among.size - 1)).log()

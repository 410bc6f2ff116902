"""M3CoL: a mixture of two samples belongs to both of its parts (2409.17777).

Vectors are mixed where the paper mixes inputs too, and pair 2p with pair 2p + 1 of the global batch, whose order is
random. The formula is that of the paper's description; its text was not at hand.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Annotated

import torch
from annotated_types import Ge, Le
from torch import Tensor
from torch.nn import functional as F

from vlp.batch import Embeddings
from vlp.config.bounds import AtLeastZero
from vlp.errors import UserError
from vlp.losses import Loss, Objective
from vlp.losses._engine.among import ALONE, Among, mean
from vlp.losses.infonce import InfoNCE

GOLDEN = (5**0.5 - 1) / 2  # multiples of it, modulo 1, fill the unit interval evenly


@dataclass(frozen=True, kw_only=True)
class M3CoL(Objective):
    """base + share (M(mixed x, y) + M(mixed y, x)) / 2.

    M is InfoNCE in both directions whose target of row i is a_i its own and 1 - a_i its partner's; the mixture is the
    direction of a_i x_i + (1 - a_i) x_i'. Own shares a lie evenly between `least` and 1, by the number of the two in
    the global batch: no chance, and the same on every layout. The last of an odd number is not mixed.
    """

    base: Objective = field(default_factory=InfoNCE)
    """the objective that is added to"""
    share: AtLeastZero = 1.0
    """weight of the mixtures"""
    least: Annotated[float, Ge(0.5), Le(1)] = 0.5
    """least share of a sample in its own mixture; 0.5 is as if it were drawn evenly from 0 to 1"""

    @property
    def contrasts(self) -> tuple[Loss, ...]:
        """What it adds to, and mixtures of either side."""
        return (*self.base.contrasts, InfoNCE(), InfoNCE())

    def __call__(self, e: Embeddings, among: Among = ALONE) -> Tensor:
        """The objective []. Raises UserError if the two of a mixture would lie on two ranks."""
        value = self.base(e, among)
        b = len(e.image)
        if among.size > 1 and b % 2:
            raise UserError(
                f"loss.name m3col mixes pairs two by two, and {b} pairs on a rank are odd: "
                "make training.batch a multiple of twice the number of ranks"
            )
        bare = replace(e, negatives=None, negatives_keep=None, bank_image=None, bank_text=None)
        own = self.own_shares(b, among.rank * b, e)
        mixed = self.mixed(bare, own, among) + self.mixed(replace(bare, image=e.text, text=e.image), own, among)
        return value + self.share * mixed / 2

    def own_shares(self, count: int, first: int, e: Embeddings) -> Tensor:
        """[b] the share of each sample in its own mixture, the same for the two of a mixture; `first` is even."""
        place = (torch.arange(first, first + count, device=e.image.device) // 2).to(torch.float64)
        return (self.least + (1 - self.least) * (place * GOLDEN).frac()).to(e.precision)

    def mixed(self, e: Embeddings, own: Tensor, among: Among) -> Tensor:
        """M [] of `e.image`, mixed two by two, and `e.text` as it is."""
        x, y = e.image.to(e.precision), e.text.to(e.precision)
        mixture = F.normalize(own[:, None] * x + (1 - own)[:, None] * turned(x), dim=-1)
        value = among.contrast(InfoNCE(), replace(e, image=mixture, text=y)).value
        right = torch.linalg.vecdot(mixture, y)
        others = torch.linalg.vecdot(mixture, turned(y)) + torch.linalg.vecdot(turned(mixture), y)
        return value + mean(among, (1 - own) * e.scale * (right - others / 2), e.weights)


def turned(rows: Tensor) -> Tensor:
    """Rows [b, ...] with 2p and 2p + 1 in each other's place; the last of an odd number stays."""
    order = torch.arange(len(rows), device=rows.device) ^ 1
    return rows[order.clamp_max(len(rows) - 1)]

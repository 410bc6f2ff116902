"""Image-text contrast with momentum distillation (ALBEF: Li et al. 2021, 2107.07651, equations 1, 2 and 6).

Written as its published code has them; the paper's text was not at hand, and the equations' numbers are from memory.
Keys of the batch are the teacher's, and its softmax over them and the queue is at the model's own temperature, without
gradient.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated, ClassVar

import torch
from annotated_types import Ge
from torch import Tensor

from vlp.batch import Embeddings
from vlp.config import COMMON
from vlp.config.bounds import Share
from vlp.losses import Bank, Exponent, Loss, Softmax
from vlp.losses._engine.among import ALONE, Among
from vlp.losses._engine.tile import Matrix, Side, Tile
from vlp.losses.moco import teacher_keys


@dataclass(frozen=True, kw_only=True)
class ALBEF(Softmax):
    """-sum_j t_ij log softmax(s_i)_j over the teacher's keys of the batch and of the last `queue` pairs.

    t_i = alpha softmax(g_i) + (1 - alpha) own, g the logits of the teacher against the same keys. Negative captions of
    a picture are in the model's softmax alone.
    """

    uses_guide: ClassVar[bool] = True
    needs: ClassVar[tuple[str, ...]] = ("guide", "bank")

    queue: Annotated[int, Ge(0), COMMON] = 8192
    """earlier pairs whose keys each pair meets too, a multiple of training.batch; 0: none"""
    alpha: Share = 0.4
    """share of the target that is the teacher's"""

    @property
    def bank(self) -> Bank | None:
        """The queue."""
        return Bank(self.queue, keys="guide") if self.queue else None

    @property
    def contrasts(self) -> tuple[Loss, ...]:
        """One for the images and one for the captions."""
        return (self, self)

    def __call__(self, e: Embeddings, among: Among = ALONE) -> Tensor:
        """The loss []."""
        image, text = teacher_keys(self, e)
        scale = e.scale.detach()
        says = [side.to(torch.promote_types(side.dtype, scale.dtype)) for side in (image, text)]
        images = replace(e, text=text, guide_image=scale * says[0], guide_text=says[1])
        images = replace(images, bank_image=None, bank_guide_text=e.bank_text)
        captions = replace(e, image=image, guide_image=says[0], guide_text=scale * says[1])
        captions = replace(captions, bank_text=None, bank_guide_image=e.bank_image, negatives=None, negatives_keep=None)
        both = among.contrast(self, images, way="rows"), among.contrast(self, captions, way="columns")
        return (both[0].value + both[1].value) / 2

    @property
    def exponent_count(self) -> int:
        """The teacher's softmax and the model's."""
        return 2

    @property
    def mean_count(self) -> int:
        """What is averaged by the teacher's."""
        return 1

    def exponents(self, tile: Tile) -> tuple[Exponent, ...]:
        """The teacher's, under which the logits are averaged, and the model's."""
        if tile.guide is None:  # of negative captions
            nowhere = torch.full_like(tile.logits, -torch.inf)
            return Exponent(nowhere, 0.0, torch.zeros_like(tile.logits)), Exponent(tile.logits)
        return Exponent(tile.guide, 0.0, tile.logits, 1.0), Exponent(tile.logits)

    def each(self, side: Side) -> Tensor:
        """[n] the loss of each pair, from its statistics."""
        return side.lse[1] - (1 - self.alpha) * self.target(side) - self.alpha * side.mean[0]

    def definition(self, matrix: Matrix) -> Tensor:
        """[B] the loss of each pair, from the whole matrix."""
        assert matrix.guide is not None
        assert matrix.bank_guide is not None
        keys = torch.cat([matrix.logits, matrix.bank], 1)
        taught = (torch.cat([matrix.guide, matrix.bank_guide], 1).softmax(1) * keys).sum(1)
        own = self.smoothed(matrix.positive(), matrix.logits.mean(1))
        return matrix.log_sum_exp(matrix.logits) - (1 - self.alpha) * own - self.alpha * taught

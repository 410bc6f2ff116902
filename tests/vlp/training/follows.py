"""The simplest objective that listens to a teacher."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from torch import Tensor

from vlp.batch import Embeddings
from vlp.losses import Loss, Objective
from vlp.losses._engine.among import ALONE, Among, mean
from vlp.losses.infonce import InfoNCE


@dataclass(frozen=True, kw_only=True)
class Follows(Objective):
    """A base, and how far the embeddings are from what the teacher says."""

    base: Objective = field(default_factory=InfoNCE)

    needs: ClassVar[tuple[str, ...]] = ("guide",)

    @property
    def contrasts(self) -> tuple[Loss, ...]:
        return self.base.contrasts

    def guide_width(self, width: int) -> int:
        return width

    def __call__(self, e: Embeddings, among: Among = ALONE) -> Tensor:
        far = (e.image - e.guide_image).square().sum(1) + (e.text - e.guide_text).square().sum(1)
        return self.base(e, among) + mean(among, far)

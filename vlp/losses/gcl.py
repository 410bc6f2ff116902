"""Generalised contrastive learning: pairs count by a score, and a side of several fields is one vector (2404.08535).

The weights are those that the data give (`data.weights`), made of scores as the user likes; the fields are the captions
of a picture, with equal shares. The formula is that of the paper's description; its text was not at hand.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import ClassVar

from torch import Tensor
from torch.nn import functional as F

from vlp.batch import Embeddings
from vlp.losses import Loss, Objective
from vlp.losses._engine.among import ALONE, Among
from vlp.losses.infonce import InfoNCE


@dataclass(frozen=True, kw_only=True)
class GCL(Objective):
    """base of x and y = sum of the captions of a picture, made a unit vector; a pair's loss counts by its weight."""

    needs: ClassVar[tuple[str, ...]] = ("weights",)
    takes_all: ClassVar[bool] = True
    meets_captions: ClassVar[bool] = False  # their mean does

    base: Objective = field(default_factory=InfoNCE)
    """the objective of the averaged captions"""

    @property
    def contrasts(self) -> tuple[Loss, ...]:
        """That of its base."""
        return self.base.contrasts

    def __call__(self, e: Embeddings, among: Among = ALONE) -> Tensor:
        """The objective []; `e.text` is [b, D], or [b, K, D], and so may the pictures be."""
        if e.image.ndim == e.text.ndim == 2:
            return self.base(e, among)
        negatives = None if e.negatives is None else e.negatives.to(e.precision)
        image, text = averaged(e.image.to(e.precision)), averaged(e.text.to(e.precision))
        return self.base(replace(e, image=image, text=text, negatives=negatives), among)


def averaged(side: Tensor) -> Tensor:
    """The direction [b, D] of the mean of several unit vectors [b, K, D] of a pair; one stays as it is."""
    return side if side.ndim == 2 else F.normalize(side.sum(1), dim=-1)

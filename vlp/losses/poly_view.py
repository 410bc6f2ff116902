"""Poly-view: each view of a sample against the mean of its other views (Shidani et al., 2403.05490).

It is the paper's loss by sufficient statistics, with the captions of a picture among the views, and in both directions.
The formula could not be compared with the paper's text.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated, ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from vlp.batch import Embeddings
from vlp.config import COMMON
from vlp.config.bounds import Decay
from vlp.losses import Loss, Objective
from vlp.losses._engine.among import ALONE, Among
from vlp.losses.infonce import InfoNCE


@dataclass(frozen=True, kw_only=True)
class PolyView(Objective):
    """mean over views a of InfoNCE(u_a, direction of sum_{b != a} u_b), u the V pictures and K captions of a sample.

    With one picture and one caption it is InfoNCE. Each view costs what InfoNCE does: V + K of them.
    """

    needs: ClassVar[tuple[str, ...]] = ("views",)
    takes_all: ClassVar[bool] = True
    meets_captions: ClassVar[bool] = False  # means do

    label_smoothing: Annotated[Decay, COMMON] = 0.0
    """share of the target that is spread evenly over all samples, 0 to below 1"""

    @property
    def contrast(self) -> InfoNCE:
        """Of one view with the mean of its others."""
        return InfoNCE(label_smoothing=self.label_smoothing)

    @property
    def contrasts(self) -> tuple[Loss, ...]:
        """One for each view: of a picture and its caption two."""
        return (self.contrast, self.contrast)

    def __call__(self, e: Embeddings, among: Among = ALONE) -> Tensor:
        """The objective []; `e.image` is [b, D] or [b, V, D], `e.text` [b, D] or [b, K, D]."""
        bare = replace(e, negatives=None, negatives_keep=None, bank_image=None, bank_text=None)
        sides = (side.to(e.precision) for side in (e.image, e.text))
        views = [view for side in sides for view in (side.unbind(1) if side.ndim == 3 else (side,))]
        values = []
        for own, view in enumerate(views):
            others = torch.stack([other for k, other in enumerate(views) if k != own]).sum(0)
            pair = replace(bare, image=view, text=F.normalize(others, dim=-1))
            values.append(among.contrast(self.contrast, pair).value)
        return torch.stack(values).mean()

"""Features: a student's projected vectors find their teacher's among all others' (Tian et al., 1910.10699).

The loss is InfoNCE over the pairs of the batch, as contrastive relational distillation between CLIPs has it (CLIP-KD,
2307.12732), in place of CRD's memory of negatives; the papers' weights could not be compared with their text.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn.functional import normalize

from vlp.batch import Embeddings
from vlp.config.bounds import AtLeastZero, Count, Positive
from vlp.errors import UserError
from vlp.losses import Loss, Objective
from vlp.losses._engine.among import ALONE, Among
from vlp.losses.infonce import InfoNCE


@dataclass(frozen=True, kw_only=True)
class Features(Objective):
    """base + weight (InfoNCE(Wx, u) + InfoNCE(Vy, v)) / 2, u and v the teacher's vectors of picture and caption.

    W and V are learnt. Both directions count: a student's vector finds its teacher's, and the other way round.
    """

    needs: ClassVar[tuple[str, ...]] = ("guide",)

    base: Objective = field(default_factory=InfoNCE)
    """the objective that is added to"""
    weight: AtLeastZero = 1.0
    """weight of what is added"""
    temperature: Positive = 0.07
    """of what is added"""
    teacher_width: Count = 512
    """how many numbers the teacher's vectors have"""

    @property
    def contrasts(self) -> tuple[Loss, ...]:
        """What it adds to, and one contrast for each side."""
        return (*self.base.contrasts, InfoNCE(), InfoNCE())

    def learnt(self, width: int) -> Mapping[str, Tensor]:
        """The two projections [width, teacher_width]."""
        shape = (width, self.teacher_width)
        own = {f"features_{side}": torch.randn(shape) / width**0.5 for side in ("image", "text")}
        return {**super().learnt(width), **own}

    def guide_width(self, width: int) -> int:
        """What the projections lead to."""
        return self.teacher_width

    def __call__(self, e: Embeddings, among: Among = ALONE) -> Tensor:
        """The objective []. Raises UserError where there is no teacher, or one of another width."""
        assert e.learnt is not None
        value = self.base(e, among)
        for name, own, guide in (("image", e.image, e.guide_image), ("text", e.text, e.guide_text)):
            given, wanted = 0 if guide is None else guide.shape[-1], e.learnt[f"features_{name}"].shape[-1]
            if guide is None or given != wanted:
                raise UserError(
                    f"loss.teacher_width is {wanted}, but the run's teacher gives vectors of {given} "
                    f"numbers; {f'set it to {given}' if given else 'name a teacher'}"
                )
            projected = normalize(own.to(torch.promote_types(own.dtype, torch.float32)) @ e.learnt[f"features_{name}"])
            value = value + self.weight / 2 * self.towards(among, projected, guide, e)
        return value

    def towards(self, among: Among, own: Tensor, guide: Tensor, e: Embeddings) -> Tensor:
        """InfoNCE [] of everybody's vectors [b, G] and their teacher's."""
        scale = torch.full_like(e.scale.detach(), 1 / self.temperature)
        taught = normalize(guide.to(own.dtype), dim=-1)
        return among.contrast(InfoNCE(), Embeddings(own, taught, scale, torch.zeros_like(scale), None, e.weights)).value

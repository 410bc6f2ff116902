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
from vlp.config.bounds import AtLeastZero, Positive, Whole
from vlp.errors import UserError
from vlp.losses import Loss, Objective
from vlp.losses._engine.among import ALONE, Among
from vlp.losses.infonce import InfoNCE


@dataclass(frozen=True, kw_only=True)
class Features(Objective):
    """base + weight (l(Wx, u) + l(Vy, v)) / 2, u and v the teacher's vectors of picture and caption, W and V learnt.

    l is InfoNCE of one direction: the student's vector finds its teacher's among all of the teacher's.
    """

    needs: ClassVar[tuple[str, ...]] = ("guide",)

    base: Objective = field(default_factory=InfoNCE)
    """the objective that is added to"""
    weight: AtLeastZero = 1.0
    """weight of what is added"""
    temperature: Positive = 0.07
    """of what is added"""
    teacher_width: Whole = 0
    """how many numbers the teacher's vectors have; 0: as many as the embeddings"""

    @property
    def contrasts(self) -> tuple[Loss, ...]:
        """What it adds to, and one contrast for each side."""
        return (*self.base.contrasts, InfoNCE(), InfoNCE())

    def learnt(self, width: int) -> Mapping[str, Tensor]:
        """The two projections [width, teacher_width]."""
        shape = (width, self.guide_width(width))
        own = {f"features_{side}": torch.randn(shape) / width**0.5 for side in ("image", "text")}
        return {**super().learnt(width), **own}

    def guide_width(self, width: int) -> int:
        """The width that a teacher's vectors must have."""
        return self.teacher_width or width

    def __call__(self, e: Embeddings, among: Among = ALONE) -> Tensor:
        """The objective []. Raises UserError where there is no teacher, or one of another width."""
        assert e.learnt is not None
        value = self.base(e, among)
        for name, own, guide in (("image", e.image, e.guide_image), ("text", e.text, e.guide_text)):
            matrix = e.learnt[f"features_{name}"]
            if guide is None:
                raise UserError("loss Features needs a teacher; set teacher.name, or choose another loss.name")
            if guide.shape[-1] != matrix.shape[1]:
                raise UserError(
                    f"the run's teacher gives vectors of {guide.shape[-1]} numbers, but loss Features expects "
                    f"{matrix.shape[1]}; set loss.teacher_width to {guide.shape[-1]}"
                )
            projected = normalize(own.to(e.precision) @ matrix)
            value = value + self.weight / 2 * self.towards(among, projected, guide, e)
        return value

    def towards(self, among: Among, own: Tensor, guide: Tensor, e: Embeddings) -> Tensor:
        """How well [] everybody's vectors [b, G] find their teacher's."""
        scale = torch.full_like(e.scale.detach(), 1 / self.temperature)
        taught = normalize(guide.to(own.dtype), dim=-1)
        pairs = Embeddings(own, taught, scale, torch.zeros_like(scale), None, e.weights)
        return among.contrast(InfoNCE(), pairs, way="rows").value

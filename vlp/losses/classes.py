"""Classes: pictures and captions are also told apart by class, with a learnt vector for each class.

MLCD's loss (An et al., 2407.17331, its multi-label form; class vectors of unit length as in its predecessor) or
CatLIP's (Mehta et al., 2404.15653), which is binary cross-entropy. MLCD's classes are clusters of pictures and those of
CatLIP nouns of captions; here they are the ids of pairs. The papers' weights and scales could not be compared with
their text; MLCD's draw of some negative classes is left out, all are used.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar, Literal

import torch
from torch import Tensor
from torch.nn.functional import normalize, softplus

from vlp.batch import Embeddings
from vlp.config.bounds import AtLeastZero, Count, Positive
from vlp.errors import UserError
from vlp.losses import Loss, Objective
from vlp.losses._engine.among import ALONE, Among, mean
from vlp.losses.infonce import InfoNCE


@dataclass(frozen=True, kw_only=True)
class Classes(Objective):
    """base + weight mean of l(x) + l(y) over two, l(x) = log(1 + sum_own e^-s) + log(1 + sum_others e^s), or BCE.

    s = sharpness cos(x, w_c), w_c learnt. The class of a pair is its id modulo the number of classes: ids that are
    numbers of classes keep theirs, others share them by chance.
    """

    needs: ClassVar[tuple[str, ...]] = ("ids",)

    base: Objective = field(default_factory=InfoNCE)
    """the objective that is added to"""
    weight: AtLeastZero = 0.1
    """weight of what is added"""
    classes: Count = 4096
    """how many classes there are; each rank has a vector for every one"""
    kind: Literal["multi_label", "bce"] = "multi_label"
    """multi_label: MLCD's loss; bce: CatLIP's, the mean over classes"""
    sharpness: Positive = 16.0
    """what cosines are multiplied by; more than the logarithm of the number of classes"""

    @property
    def contrasts(self) -> tuple[Loss, ...]:
        """What it adds to."""
        return self.base.contrasts

    def learnt(self, width: int) -> Mapping[str, Tensor]:
        """The vector of each class [classes, width]."""
        return {**super().learnt(width), "classes": torch.randn(self.classes, width) / width**0.5}

    def __call__(self, e: Embeddings, among: Among = ALONE) -> Tensor:
        """The objective []. Raises UserError where pairs have no ids."""
        assert e.learnt is not None
        if e.ids is None:
            raise UserError(
                "loss Classes needs an id for each pair and the batch has none; set data.ids to the field of the "
                ".json that holds its class, or choose another loss.name"
            )
        ids = e.ids if e.ids.ndim == 1 else e.ids[:, 0]  # the captions' own ids follow the pair's
        own = (ids % self.classes)[:, None]
        heads = self.sharpness * normalize(e.learnt["classes"].to(e.precision), dim=-1)
        both = [self.each(side.to(e.precision) @ heads.T, own) for side in (e.image, e.text)]
        return self.base(e, among) + self.weight * mean(among, (both[0] + both[1]) / 2, e.weights)

    def each(self, logits: Tensor, own: Tensor) -> Tensor:
        """[b] the loss of logits [b, C] whose classes are own [b, 1]."""
        positive = logits.gather(1, own)[:, 0]
        if self.kind == "bce":
            return (softplus(logits).sum(1) - positive) / self.classes
        others = logits.scatter(1, own, -torch.inf).logsumexp(1) if self.classes > 1 else -torch.inf * positive
        return softplus(-positive) + softplus(others)

"""InfoNCE with alignment and uniformity, which close the gap between modalities (Fahim et al., 2405.18570)."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor

from vlp.batch import Embeddings
from vlp.config.bounds import AtLeastZero
from vlp.losses import Loss, Objective
from vlp.losses._engine.among import ALONE, Among, mean
from vlp.losses._potential import Potential, uniformity
from vlp.losses.infonce import InfoNCE


@dataclass(frozen=True, kw_only=True)
class ContrastiveGap(Objective):
    """base + align mean |x - y|^2 + uniform (u(x, x) + u(y, y)) / 2 + cross u(x, y).

    u is the logarithm of the mean Gaussian potential of different pairs. The formula is that of the paper's abstract
    and of Wang and Isola's uniformity; the weights could not be compared with the paper's text.
    """

    base: Objective = field(default_factory=InfoNCE)
    """the objective that is added to"""
    align: AtLeastZero = 1.0
    """weight of the distance of pairs"""
    uniform: AtLeastZero = 1.0
    """weight of the uniformity inside each modality"""
    cross: AtLeastZero = 1.0
    """weight of the uniformity between modalities"""

    @property
    def contrasts(self) -> tuple[Loss, ...]:
        """What it adds to, and the potentials of three pairs of sides."""
        return (*self.base.contrasts, Potential(), Potential(), Potential())

    def __call__(self, e: Embeddings, among: Among = ALONE) -> Tensor:
        """The objective []."""
        value = self.base(e, among)
        apart = (e.image.to(e.precision) - e.text.to(e.precision)).square().sum(1)
        value = value + self.align * mean(among, apart, e.weights)
        if self.cross:
            value = value + self.cross * uniformity(among, e.image, e.text, e)
        if self.uniform:
            both = uniformity(among, e.image, e.image, e) + uniformity(among, e.text, e.text, e)
            value = value + self.uniform * both / 2
        return value

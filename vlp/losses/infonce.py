"""InfoNCE, the loss of CLIP and ALIGN (Radford et al. 2021, arXiv 2103.00020, figure 3)."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from vlp.losses import Softmax
from vlp.losses._engine.tile import Matrix, Side


@dataclass(frozen=True, kw_only=True)
class InfoNCE(Softmax):
    """Cross-entropy of picking the right caption for an image, and the right image for a caption."""

    @property
    def powers(self) -> tuple[float, ...]:
        """The log-sum-exps it needs: see Loss."""
        return (1.0,)

    def each(self, side: Side) -> Tensor:
        """[n] the loss of each pair, from its statistics."""
        return side.lse[0] - self.target(side)

    def definition(self, matrix: Matrix) -> Tensor:
        """[B] the loss of each pair, from the whole matrix."""
        return matrix.log_sum_exp(matrix.logits) - self.smoothed(matrix.positive(), matrix.logits.mean(1))

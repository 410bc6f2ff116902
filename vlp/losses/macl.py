"""MACL: a temperature that follows the alignment, and pairs weighted against vanishing gradients (2207.07874).

The paper's method for images and their augmentations, here in both directions between pictures and captions. The
formulas are those of its published implementations; the text itself was not at hand.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated

import torch
from annotated_types import Ge, Le, Lt
from torch import Tensor

from vlp.batch import Embeddings
from vlp.losses import Softmax
from vlp.losses._engine.among import ALONE, Among, mean
from vlp.losses._engine.tile import Matrix, Side

LEAST = 1e-3
"""Of 1 - P: the weight of a pair that is certain would be the rounding of its logits"""


@dataclass(frozen=True, kw_only=True)
class MACL(Softmax):
    """W_i InfoNCE_i at temperature t (1 + alpha (A - threshold)), A the mean cosine of pairs, W_i = 1 / (1 - P_ii).

    P_ii is the probability of the right answer. A and W are numbers: no gradient goes through them.
    """

    alpha: Annotated[float, Ge(0), Lt(1)] = 0.5
    """how much the temperature follows the alignment"""
    threshold: Annotated[float, Ge(-1), Le(0)] = 0.0
    """the alignment at which the temperature is the model's own"""

    @property
    def powers(self) -> tuple[float, ...]:
        """The log-sum-exps it needs: see Loss."""
        return (1.0,)

    def __call__(self, e: Embeddings, among: Among = ALONE) -> Tensor:
        """The loss []."""
        cosines = torch.linalg.vecdot(*(side.detach().to(e.scale.dtype) for side in (e.image, e.text)))
        grown = 1 + self.alpha * (mean(among, cosines) - self.threshold)
        return super().__call__(replace(e, scale=e.scale / grown), among)

    def each(self, side: Side) -> Tensor:
        """[n] the loss of each pair, from its statistics."""
        return weighted(side.lse[0] - self.target(side), side.positive - side.lse[0])

    def definition(self, matrix: Matrix) -> Tensor:
        """[B] the loss of each pair, from the whole matrix."""
        lse = matrix.log_sum_exp(matrix.logits)
        return weighted(lse - self.smoothed(matrix.positive(), matrix.logits.mean(1)), matrix.positive() - lse)


def weighted(loss: Tensor, log_probability: Tensor) -> Tensor:
    """loss / (1 - P) [n], P the probability of the right answer."""
    return loss / (-torch.expm1(log_probability.detach())).clamp_min(LEAST)

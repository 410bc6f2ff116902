"""Kernel-InfoNCE: InfoNCE under the sum of two kernels (Tan et al., 2303.15103, the simple sum kernel).

The text was not at hand: its published implementation mixes the losses of the two kernels, this the kernels.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated

import torch
from annotated_types import Gt
from torch import Tensor

from vlp.batch import Embeddings
from vlp.losses import Softmax
from vlp.losses._engine.among import ALONE, Among
from vlp.losses._engine.tile import Exponent, Matrix, Side, Term, Tile

LEAST = 1e-6
"""Of d^2: nearer than this the slope of d, 1/d, is the rounding of a cosine, and counts as 0"""


@dataclass(frozen=True, kw_only=True)
class Kernel(Softmax):
    """-log K_ii + log sum_j K_ij, K = exp(-d^2 / square) + exp(-d / straight), d^2 = 2 - 2c.

    The two temperatures are fixed: the logit scale has no part in it. With the first kernel alone it would be InfoNCE
    at a logit scale of 2 / square.
    """

    square: Annotated[float, Gt(0)] = 0.14
    """temperature of the Gaussian kernel"""
    straight: Annotated[float, Gt(0)] = 0.14
    """temperature of the Laplacian kernel; with the same one both are alike at d = 1"""

    @property
    def exponent_count(self) -> int:
        """One: log K."""
        return 1

    def exponents(self, tile: Tile) -> tuple[Exponent, ...]:
        """The logarithm of the kernel."""
        return (Exponent(*self.kernel(tile.logits)),)

    def terms(self, tile: Tile) -> tuple[Term, ...]:
        """The sum of the logarithms, for the smoothed target."""
        if not self.label_smoothing or tile.local:
            return super().terms(tile)
        return (Term(*self.kernel(tile.logits)),)

    def kernel(self, cosines: Tensor) -> tuple[Tensor, Tensor]:
        """log K, and its derivative with respect to the cosine."""
        squared = (2 - 2 * cosines).clamp_min(LEAST)
        distance = squared.sqrt()
        gauss, laplace = -squared / self.square, -distance / self.straight
        value = torch.logaddexp(gauss, laplace)
        slope = (gauss - value).exp_().mul_(2 / self.square)
        slope += (laplace - value).exp_().div_(distance * self.straight)
        return value, slope * (squared > LEAST)

    def __call__(self, e: Embeddings, among: Among = ALONE) -> Tensor:
        """The loss []."""
        return super().__call__(replace(e, scale=torch.ones_like(e.scale.detach())), among)

    def log_kernel(self, cosines: Tensor) -> Tensor:
        """log K, differentiable."""
        squared = (2 - 2 * cosines).clamp_min(LEAST)
        return torch.logaddexp(-squared / self.square, -squared.sqrt() / self.straight)

    def each(self, side: Side) -> Tensor:
        """[n] the loss of each pair, from its statistics."""
        positive = self.log_kernel(side.positive)
        if self.label_smoothing:
            positive = self.smoothed(positive, side.total[0] / side.size)
        return side.lse[0] - positive

    def definition(self, matrix: Matrix) -> Tensor:
        """[B] the loss of each pair, from the whole matrix."""
        own = self.log_kernel(matrix.logits)
        there = matrix.local.isfinite()
        local = self.log_kernel(torch.where(there, matrix.local, 0.0)).masked_fill(~there, -torch.inf)
        return torch.cat([own, local], 1).logsumexp(1) - self.smoothed(own.diagonal(), own.mean(1))

"""The spectral contrastive loss of two modalities (HaoChen et al., 2106.04156, equation 6; Zhang et al., 2306.04272).

Its minimum is a low-rank factorisation of the matrix that says how often a picture and a caption occur together.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from vlp.batch import Embeddings
from vlp.losses import Softmax
from vlp.losses._engine.among import ALONE, Among
from vlp.losses._engine.tile import Matrix, Side, Term, Tile


@dataclass(frozen=True, kw_only=True)
class Spectral(Softmax):
    """-2 c_ii + mean over j != i of c_ij squared, c the bare cosine: the logit scale has no part in it.

    Negative captions that belong to one picture are among its j; label smoothing mixes the mean cosine into c_ii.
    """

    least_pairs: ClassVar[int] = 2

    @property
    def term_count(self) -> int:
        """The sum of squares, the number of entries, and what label smoothing sums."""
        return 2 + super().term_count

    def terms(self, tile: Tile) -> tuple[Term, ...]:
        """Squares, and ones, of all but the pairs' own."""
        others = torch.ones_like(tile.logits)
        tile.own(others).fill_(0)
        masked = others * tile.logits
        return (Term(masked * tile.logits, 2 * masked), Term(others, None), *super().terms(tile))

    def __call__(self, e: Embeddings, among: Among = ALONE) -> Tensor:
        """The loss []."""
        return super().__call__(replace(e, scale=torch.ones_like(e.scale.detach())), among)

    def each(self, side: Side) -> Tensor:
        """[n] the loss of each pair, from its statistics."""
        positive = side.positive
        if self.label_smoothing:
            positive = self.smoothed(positive, side.total[2] / side.size)
        return side.total[0] / side.total[1] - 2 * positive

    def definition(self, matrix: Matrix) -> Tensor:
        """[B] the loss of each pair, from the whole matrix."""
        entries = torch.cat([matrix.logits.masked_fill(matrix.own(), torch.nan), matrix.local], 1)
        there = entries.isfinite()
        squares = torch.where(there, entries, 0.0).square().sum(1) / there.sum(1)
        return squares - 2 * self.smoothed(matrix.positive(), matrix.logits.mean(1))

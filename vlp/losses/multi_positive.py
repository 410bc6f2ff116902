"""InfoNCE where pairs that share an id are positives of each other, or at least not negatives, over the global batch.

Spread is the supervised contrastive loss with the sum outside the logarithm (Khosla et al. 2020, arXiv 2004.11362,
equation 2), across two modalities and with the pair itself among its positives.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from vlp.losses import Softmax
from vlp.losses._engine.tile import Matrix, Side, Term, Tile


@dataclass(frozen=True, kw_only=True)
class MultiPositive(Softmax):
    """InfoNCE that knows which pairs of the batch share a caption, an image or a concept (`Embeddings.ids`).

    The trainer tells equal captions by their tokens, beside the ids that the data give.
    """

    uses_ids: ClassVar[bool] = True

    duplicates: Literal["spread", "mask"] = "spread"
    """What a pair with the same id is: spread, a positive with an equal share of the target; mask, neither."""

    @property
    def powers(self) -> tuple[float, ...]:
        """The log-sum-exps it needs: see Loss."""
        return (1.0,)

    @property
    def term_count(self) -> int:
        """The number of terms."""
        return (2 if self.duplicates == "spread" else 0) + (2 if self.label_smoothing else 0)

    def terms(self, tile: Tile) -> tuple[Term, ...]:
        """Sum and number of the positives (if spread), then of all that the smoothing share is spread over."""
        if tile.local:
            nothing = Term(tile.logits.new_zeros(()).expand_as(tile.logits), None)
            return (nothing,) * self.term_count
        logits, same = tile.logits, tile.same().to(tile.logits.dtype)
        everything = torch.ones_like(same)
        if self.duplicates == "mask":
            everything = 1 - same
            tile.own(everything).fill_(1)
        spread = (Term(same * logits, same), Term(same, None)) if self.duplicates == "spread" else ()
        smooth = (Term(everything * logits, everything), Term(everything, None)) if self.label_smoothing else ()
        return spread + smooth

    def denominator(self, tile: Tile) -> Tensor:
        """The logits [r, c], -inf where they stay out."""
        if self.duplicates == "spread" or tile.local:
            return tile.logits
        positive = tile.own(tile.logits).clone()
        tile.logits.masked_fill_(tile.same(), -torch.inf)
        tile.own(tile.logits).copy_(positive)
        return tile.logits

    def each(self, side: Side) -> Tensor:
        """[n] the loss of each pair, from its statistics."""
        positive = side.total[0] / side.total[1] if self.duplicates == "spread" else side.positive
        if not self.label_smoothing:
            return side.lse[0] - positive
        return side.lse[0] - self.smoothed(positive, side.total[-2] / side.total[-1])

    def definition(self, matrix: Matrix) -> Tensor:
        """[B] the loss of each pair, from the whole matrix."""
        same, own, logits = matrix.same, matrix.own(), matrix.logits
        if self.duplicates == "spread":
            positive = (same * logits).sum(1) / same.sum(1)
            return matrix.log_sum_exp(logits) - self.smoothed(positive, logits.mean(1))
        kept = ~same | own
        mean = (kept * logits).sum(1) / kept.sum(1)
        return matrix.log_sum_exp(logits.masked_fill(~kept, -torch.inf)) - self.smoothed(matrix.positive(), mean)

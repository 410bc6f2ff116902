"""CWCL: how alike pairs are in a locked tower says how much each caption is a positive (Srinivasa et al., 2309.14580).

Weights are those of the paper, in one direction; the other one is InfoNCE. The paper's text was not at hand when this
was written: which of the two directions is weighted is `anchors`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar, Literal

from torch import Tensor

from vlp.batch import Embeddings
from vlp.losses import Softmax
from vlp.losses._engine.among import ALONE, Among
from vlp.losses._engine.tile import Matrix, Side, Term, Tile


@dataclass(frozen=True, kw_only=True)
class CWCL(Softmax):
    """-sum_j w_ij log softmax(s_i)_j / sum_j w_ij, w_ij = (u_i . u_j + 1) / 2, u a teacher's unit vectors.

    A locked tower is its own teacher. Negative captions that belong to one picture have no weight.
    """

    uses_guide: ClassVar[bool] = True
    needs: ClassVar[tuple[str, ...]] = ("guide",)

    locked: Literal["image", "text"] = "image"
    """whose teacher says how alike two pairs are"""
    anchors: Literal["trained", "locked"] = "trained"
    """the i of the formula are the items of this tower; those of the other have InfoNCE"""

    @property
    def powers(self) -> tuple[float, ...]:
        """The log-sum-exps it needs: see Loss."""
        return (1.0,)

    @property
    def term_count(self) -> int:
        """Two for the weights, and what label smoothing sums."""
        return 2 + super().term_count

    def terms(self, tile: Tile) -> tuple[Term, ...]:
        """The weighted sum of the logits, and that of the weights."""
        if tile.local:
            nothing = Term(tile.logits.new_zeros(()).expand_as(tile.logits), None)
            return (nothing,) * self.term_count
        assert tile.guide is not None
        weight = tile.guide.add(1).div_(2)
        return (Term(weight * tile.logits, weight), Term(weight, None), *super().terms(tile))

    def __call__(self, e: Embeddings, among: Among = ALONE) -> Tensor:
        """The loss []."""
        u = e.guide_image if self.locked == "image" else e.guide_text
        return super().__call__(replace(e, guide_image=u, guide_text=u), among)

    def weighted(self, way: str) -> bool:
        """Whether this direction is the one with weights."""
        return ((way == "rows") == (self.locked == "image")) == (self.anchors == "locked")

    def each(self, side: Side) -> Tensor:
        """[n] the loss of each pair, from its statistics."""
        positive = side.total[0] / side.total[1] if self.weighted(side.way) else side.positive
        if self.label_smoothing:
            positive = self.smoothed(positive, side.total[2] / side.size)
        return side.lse[0] - positive

    def definition(self, matrix: Matrix) -> Tensor:
        """[B] the loss of each pair, from the whole matrix."""
        assert matrix.guide is not None
        weight = (matrix.guide + 1) / 2
        positive = matrix.positive()
        if self.weighted(matrix.way):
            positive = (weight * matrix.logits).sum(1) / weight.sum(1)
        return matrix.log_sum_exp(matrix.logits) - self.smoothed(positive, matrix.logits.mean(1))

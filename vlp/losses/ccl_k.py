"""CCL-K: pairs whose conditions are alike are positives, by a kernel's ridge regression (Tsai et al., 2202.05458).

The weakly supervised form: K_Z (K_Z + lambda I)^-1 weighs the positives, K_Z the teacher's Gram matrix. Negative
weights count as 0, as in its published implementation, whose loss between two views leaves a pair's own weight out;
between two modalities it is the positive. The text itself was not at hand.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated, ClassVar, Literal

import torch
from annotated_types import Gt
from torch import Tensor

from vlp.batch import Embeddings
from vlp.losses import Softmax
from vlp.losses._engine.among import ALONE, Among
from vlp.losses._engine.tile import Exponent, Matrix, Side, Tile
from vlp.losses._engine.view import refuse_without


@dataclass(frozen=True, kw_only=True)
class CCLK(Softmax):
    """-log(P_i / (P_i + sum_{j != i} exp s_ij)), P_i = sum_j w_ij exp s_ij, w = max(0, K (K + ridge I)^-1), K = Z Z^T.

    Z are a teacher's embeddings of everybody's pairs. w = A A^T with A = Z chol((Z^T Z + ridge I)^-1), G x G at most:
    the kernel of the batch is never there.
    """

    uses_guide: ClassVar[bool] = True
    needs: ClassVar[tuple[str, ...]] = ("guide",)
    least_pairs: ClassVar[int] = 2

    condition: Literal["image", "text"] = "image"
    """what of a pair the teacher's embeddings are of"""
    ridge: Annotated[float, Gt(0)] = 0.1
    """lambda: with more, pairs borrow less from each other"""

    @property
    def exponent_count(self) -> int:
        """Positives by their weights, and all but the pair itself."""
        return 2

    def exponents(self, tile: Tile) -> tuple[Exponent, ...]:
        """The logits plus the logarithms of the weights, and the logits of the others."""
        if tile.local:
            return Exponent(torch.full_like(tile.logits, -torch.inf)), Exponent(tile.logits)
        assert tile.guide is not None
        positives = tile.guide.clamp_min_(0).log_().add_(tile.logits)
        tile.own(tile.logits).fill_(-torch.inf)
        return Exponent(positives), Exponent(tile.logits)

    def __call__(self, e: Embeddings, among: Among = ALONE) -> Tensor:
        """The loss []."""
        name = "guide_image" if self.condition == "image" else "guide_text"
        refuse_without(name, self, e)
        z: Tensor = getattr(e, name).detach()
        precise = z.double()
        moments = among.total(precise.T @ precise)
        moments.diagonal().add_(self.ridge)
        a = torch.linalg.solve_triangular(torch.linalg.cholesky(moments), precise.T, upper=False).T
        a = a.to(torch.promote_types(z.dtype, torch.float32)).contiguous()
        return super().__call__(replace(e, guide_image=a, guide_text=a), among)

    def each(self, side: Side) -> Tensor:
        """[n] the loss of each pair, from its statistics."""
        positive, others = side.lse
        target = positive
        if self.label_smoothing:
            target = self.smoothed(positive, side.total[0] / side.size)
        return torch.logaddexp(positive, others) - target

    def definition(self, matrix: Matrix) -> Tensor:
        """[B] the loss of each pair, from the whole matrix."""
        assert matrix.guide is not None
        weighted = (matrix.logits + matrix.guide.clamp_min(0).log()).logsumexp(1)
        others = matrix.log_sum_exp(matrix.logits.masked_fill(matrix.own(), -torch.inf))
        return torch.logaddexp(weighted, others) - self.smoothed(weighted, matrix.logits.mean(1))

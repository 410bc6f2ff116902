"""Vectors as short codes: each piece of a vector is the number of its nearest centre (Jégou et al. 2011)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

from annotated_types import Le

from eval.index import Index, with_ids
from vlp.config.bounds import Count
from vlp.errors import UserError


@dataclass(frozen=True)
class Pq(Index):
    """Product quantisation: least memory, approximate scores, every code compared with every query."""

    pieces: Annotated[Count, Le(4096)] = 32
    """bytes a vector takes; the width of the vectors must be a multiple of it"""

    def create(self, dim: int) -> Any:
        """IndexPQ with 8 bits a piece. Raises UserError if the pieces do not divide `dim`."""
        import faiss

        if dim % self.pieces:
            raise UserError(
                f"pieces = {self.pieces} does not divide the width {dim} of the vectors; choose one that does"
            )
        made = faiss.IndexPQ(dim, self.pieces, 8, faiss.METRIC_INNER_PRODUCT)
        made.pq.cp.min_points_per_centroid = 1
        return with_ids(made)

    def search_parameters(self, selector: Any) -> Any:
        """Nothing to trade: every code is compared, and what is removed is gone."""
        import faiss

        return faiss.SearchParametersPQ()

    def can_filter(self) -> bool:
        """FAISS has no selectors for these codes."""
        return False

    def vectors_to_train(self) -> int:
        """One for each of the 256 centres of a piece."""
        return 256

    def bytes_each(self, dim: int) -> float:
        """A byte a piece."""
        return self.pieces + 8.0

    def size(self, count: int, dim: int) -> float:
        """With the centres of the pieces."""
        return super().size(count, dim) + 4.0 * 256 * dim

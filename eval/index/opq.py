"""As ivf_pq, after a rotation that makes the pieces of a vector equally telling (Ge et al. 2013)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated, Any

from annotated_types import Le

from eval.index import Index
from eval.index._cells import Refined
from vlp.config.bounds import Count
from vlp.errors import UserError


@dataclass(frozen=True)
class Opq(Refined):
    """More is found by the same codes than ivf_pq finds; training takes longer, and so does adding."""

    pieces: Annotated[Count, Le(4096)] = 16
    """pieces of 4 bits that a vector is cut into; the width of the vectors must be a multiple of it"""

    def create(self, dim: int) -> Any:
        """OPQMatrix before IndexIVFPQFastScan, refined. Raises UserError if the pieces do not divide `dim`."""
        if dim % self.pieces:
            raise UserError(
                f"pieces = {self.pieces} does not divide the width {dim} of the vectors; choose one that does"
            )
        return self.refined(dim, f"OPQ{self.pieces},IVF{self.cells},PQ{self.pieces}x4fs")

    def search_parameters(self, selector: Any, cells: Any = None) -> Any:
        """The number of cells to look into, after the rotation."""
        import faiss

        return faiss.SearchParametersPreTransform(index_params=super().search_parameters(selector, cells))

    def vectors_to_train(self) -> int:
        """One a cell, and for the rotation as many as FAISS's k-means wants: one for each of 256 centres."""
        return max(256, self.cells)

    def choices(self, count: int, dim: int) -> list[Index]:
        """Pieces of four dimensions, where the width can be cut so."""
        return [replace(one, pieces=dim // 4) for one in super().choices(count, dim)] if dim % 4 == 0 else []  # type: ignore[call-arg]

"""Cells with product quantisation in 4 bits a piece, compared in registers, then refined (André et al. 2017)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated, Any

from annotated_types import Le

from eval.index import Index
from eval.index._cells import Refined
from vlp.config.bounds import Count
from vlp.errors import UserError


@dataclass(frozen=True)
class IvfPq(Refined):
    """The fastest kind; its better codes take most of its memory."""

    pieces: Annotated[Count, Le(4096)] = 16
    """pieces of 4 bits that a vector is cut into; the width of the vectors must be a multiple of it"""

    def create(self, dim: int) -> Any:
        """IndexIVFPQFastScan, refined. Raises UserError if the pieces do not divide `dim`."""
        if dim % self.pieces:
            raise UserError(
                f"pieces = {self.pieces} does not divide the width {dim} of the vectors; choose one that does"
            )
        return self.refined(dim, f"IVF{self.cells},PQ{self.pieces}x4fs")

    def choices(self, count: int, dim: int) -> list[Index]:
        """Pieces of four dimensions and of two, where the width can be cut so."""
        own = super().choices(count, dim)
        return [replace(one, pieces=dim // n) for n in (4, 2) for one in own if dim % n == 0]  # type: ignore[call-arg]

    def bytes_short(self, dim: int) -> float:
        """Half a byte a piece."""
        return self.pieces / 2

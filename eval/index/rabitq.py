"""Cells with one bit a dimension after centring, and an unbiased estimate of the score (Gao and Long 2024), refined."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

from annotated_types import Ge, Le

from eval.index._cells import Refined, cells_only
from vlp.errors import UserError


@dataclass(frozen=True)
class RaBitQ(Refined):
    """Least memory for its short codes, without a codebook to learn."""

    bits: Annotated[int, Ge(1), Le(9)] = 1
    """bits a dimension of the short codes"""

    def create(self, dim: int) -> Any:
        """IndexIVFRaBitQ, refined. Raises UserError if the installed FAISS is older than this kind."""
        import faiss

        if not hasattr(faiss, "IndexIVFRaBitQ"):
            raise UserError("the installed FAISS has no RaBitQ; install faiss-cpu 1.12 or newer, or choose ivf_pq")
        return self.refined(dim, f"IVF{self.cells},RaBitQ{'' if self.bits == 1 else self.bits}")

    def search_parameters(self, selector: Any, cells: Any = None) -> Any:
        """The number of cells to look into; queries are taken as 8 bits a dimension."""
        import faiss

        chosen = cells_only(cells)
        return faiss.IVFRaBitQSearchParameters(sel=selector, nprobe=self.probes, qb=8, quantizer_params=chosen)

"""Vectors sorted into cells; a query looks into the nearest cells only."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal

from annotated_types import Le

from eval.index import Index
from vlp.config.bounds import Count

MOST_CELLS = 1 << 24


@dataclass(frozen=True)
class Ivf(Index):
    """An inverted file; good for millions of vectors. Cells are learned by k-means."""

    cells: Annotated[Count, Le(MOST_CELLS)] = 64
    """number of cells; about 4 to 16 times the square root of the number of vectors"""
    probes: Annotated[Count, Le(MOST_CELLS)] = 16
    """cells a query looks into: more find more and take longer"""
    codes: Literal["float32", "int8"] = "float32"
    """how vectors are kept: exactly, or in a quarter of the space"""

    def create(self, dim: int) -> Any:
        """IndexIVFFlat or IndexIVFScalarQuantizer."""
        import faiss

        metric = faiss.METRIC_INNER_PRODUCT
        centres = faiss.IndexFlatIP(dim)
        if self.codes == "int8":
            made = faiss.IndexIVFScalarQuantizer(
                centres, dim, self.cells, faiss.ScalarQuantizer.QT_8bit, metric, by_residual=False
            )
        else:
            made = faiss.IndexIVFFlat(centres, dim, self.cells, metric)
        # k-means on the sphere: with inner product the centre of a cell must not win by its length.
        made.cp.spherical = True
        made.cp.min_points_per_centroid = 1
        return made

    def search_parameters(self, selector: Any) -> Any:
        """The number of cells to look into."""
        import faiss

        return faiss.SearchParametersIVF(sel=selector, nprobe=self.probes)

    def vectors_to_train(self) -> int:
        """One a cell."""
        return self.cells

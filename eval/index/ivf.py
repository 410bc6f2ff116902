"""Vectors sorted into cells; a query looks into the nearest cells only."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from eval.index._cells import Celled


@dataclass(frozen=True)
class Ivf(Celled):
    """An inverted file; good for millions of vectors. Cells are learned by k-means."""

    codes: Literal["float32", "int8"] = "float32"
    """how vectors are kept: exactly, or in a quarter of the space"""

    @property
    def exact_scores(self) -> bool:
        """Unless vectors are kept in 8 bits."""
        return self.codes == "float32"

    def create(self, dim: int) -> Any:
        """IndexIVFFlat or IndexIVFScalarQuantizer."""
        import faiss

        metric = faiss.METRIC_INNER_PRODUCT
        centres = faiss.IndexFlatIP(dim)
        if self.codes == "int8":
            made = faiss.IndexIVFScalarQuantizer(
                centres, dim, self.cells, faiss.ScalarQuantizer.QT_8bit, metric, False
            )  # False: codes are of the vectors themselves, not of what the centres leave
        else:
            made = faiss.IndexIVFFlat(centres, dim, self.cells, metric)
        # k-means on the sphere: with inner product the centre of a cell must not win by its length.
        made.cp.spherical = True
        made.cp.min_points_per_centroid = 1
        return made

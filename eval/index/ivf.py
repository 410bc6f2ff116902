"""Vectors sorted into cells; a query looks into the nearest cells only."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from eval.index._on_disk import ListsOnDisk


@dataclass(frozen=True)
class Ivf(ListsOnDisk):
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
            # False: codes are of the vectors themselves, not of what the centres leave
            return faiss.IndexIVFScalarQuantizer(centres, dim, self.cells, faiss.ScalarQuantizer.QT_8bit, metric, False)
        return faiss.IndexIVFFlat(centres, dim, self.cells, metric)

    def bytes_each(self, dim: int) -> float:
        """Four bytes a dimension, or one."""
        return (4.0 if self.codes == "float32" else 1.0) * dim + 8

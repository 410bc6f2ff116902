"""Cells on a GPU."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from eval.index import Floats, Index, Ints
from eval.index._cells import Celled
from eval.index._gpu import has_gpu, need_gpu, on_gpu
from eval.index.ivf import Ivf


@dataclass(frozen=True)
class GpuIvf(Celled):
    """An inverted file on the first GPU; needs faiss-gpu. What is saved is the index of kind ivf."""

    @property
    def exact_scores(self) -> bool:
        """As gpu_flat."""
        return True

    def create(self, dim: int) -> Any:
        """IndexIVFFlat, to be copied to the GPU when it is searched. Raises UserError if there is none."""
        need_gpu("gpu_ivf", "ivf")
        return Ivf(cells=self.cells).create(dim)

    def ready(self, faiss_index: Any) -> Any:
        """The copy on the GPU."""
        need_gpu("gpu_ivf", "ivf")
        return on_gpu(faiss_index)

    def search(
        self, faiss_index: Any, queries: Floats, k: int, selector: Any, cells: Any = None
    ) -> tuple[Floats, Ints]:
        """As Index.search, of all vectors: FAISS has no selectors on GPUs, and what is removed is gone."""
        scores, ids = faiss_index.search(queries, k, params=self.search_parameters(None))
        return scores, ids

    def can_filter(self) -> bool:
        """FAISS has no selectors on GPUs."""
        return False

    def choices(self, count: int, dim: int) -> list[Index]:
        """As Celled, where there is a GPU."""
        return super().choices(count, dim) if has_gpu() else []

"""Every vector compared with every query, on a GPU: exact, for stores that fit its memory."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from eval.index import Floats, Index, Ints
from eval.index._gpu import has_gpu, need_gpu, on_gpu
from eval.index.flat import Flat


@dataclass(frozen=True)
class GpuFlat(Index):
    """Exact search on the first GPU; needs faiss-gpu. What is saved is the index of kind flat."""

    @property
    def exact_scores(self) -> bool:
        """FAISS on GPUs keeps float32."""
        return True

    def create(self, dim: int) -> Any:
        """IndexFlatIP, to be copied to the GPU when it is searched. Raises UserError if there is none."""
        need_gpu("gpu_flat", "flat")
        return Flat().create(dim)

    def ready(self, faiss_index: Any) -> Any:
        """The copy on the GPU."""
        need_gpu("gpu_flat", "flat")
        return on_gpu(faiss_index)

    def search(self, faiss_index: Any, queries: Floats, k: int, selector: Any) -> tuple[Floats, Ints]:
        """As Index.search, of all vectors: FAISS has no selectors on GPUs, and what is removed is gone."""
        scores, ids = faiss_index.search(queries, k)
        return scores, ids

    def can_filter(self) -> bool:
        """FAISS has no selectors on GPUs."""
        return False

    def choices(self, count: int, dim: int) -> list[Index]:
        """Itself where there is a GPU."""
        return [self] if has_gpu() else []

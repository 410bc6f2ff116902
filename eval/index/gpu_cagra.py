"""A graph of neighbours that is built and walked on a GPU (Ootomo et al. 2024); needs FAISS with cuVS."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated, Any

import numpy as np
from annotated_types import Ge, Le

from eval.index import NOTHING, Floats, Index, Ints
from eval.index._gpu import has_gpu, need_gpu
from eval.index.flat import Flat
from vlp.config.bounds import Count
from vlp.errors import UserError


@dataclass(frozen=True)
class GpuCagra(Index):
    """Approximate and fast, for stores that fit the first GPU; what is saved is the index of kind flat.

    The graph is built when the index is first searched, in seconds for a million vectors.
    """

    links: Annotated[int, Ge(8), Le(512)] = 64
    """neighbours a vector is linked to"""
    search_effort: Annotated[Count, Le(1 << 16)] = 64
    """candidates kept while a query walks: more find more and take longer"""

    def create(self, dim: int) -> Any:
        """IndexFlatIP, of which the graph is made when it is searched. Raises UserError if there is no GPU or cuVS."""
        _need_cuvs()
        return Flat().create(dim)

    def reserve(self, faiss_index: Any, count: int) -> None:
        """All vectors."""
        Flat().reserve(faiss_index, count)

    def ready(self, faiss_index: Any) -> Any:
        """The graph on the GPU, which numbers vectors by their places in `faiss_index`."""
        import faiss

        _need_cuvs()
        flat = faiss.downcast_index(faiss_index.index)
        config = faiss.GpuIndexCagraConfig()
        config.graph_degree, config.intermediate_graph_degree = self.links, 2 * self.links
        resources = faiss.StandardGpuResources()
        graph = faiss.GpuIndexCagra(resources, flat.d, faiss.METRIC_INNER_PRODUCT, config)
        graph.train(faiss.rev_swig_ptr(flat.get_xb(), flat.ntotal * flat.d).reshape(flat.ntotal, flat.d))
        graph.referenced_objects = [resources, faiss.vector_to_array(faiss_index.id_map)]
        return graph

    def search(self, faiss_index: Any, queries: Floats, k: int, selector: Any) -> tuple[Floats, Ints]:
        """As Index.search. Raises UserError for a selector, which FAISS has none of on GPUs."""
        import faiss

        if selector is not None:
            raise UserError("an index of kind gpu_cagra cannot be searched for some ids only; choose --kind hnsw")
        effort = faiss.SearchParametersCagra()
        effort.itopk_size = max(self.search_effort, k)
        scores, places = faiss_index.search(queries, k, params=effort)
        ids = faiss_index.referenced_objects[1]
        return scores, np.where(places == NOTHING, NOTHING, ids[places]) if len(ids) else places

    def choices(self, count: int, dim: int) -> list[Index]:
        """Itself where there is a GPU and cuVS."""
        import faiss

        return [self] if has_gpu() and hasattr(faiss, "GpuIndexCagra") else []

    def efforts(self) -> list[Index]:
        """Efforts of the walk in powers of two."""
        return [replace(self, search_effort=2**n) for n in range(5, 11)]


def _need_cuvs() -> None:
    """Raise UserError if FAISS has no GPU, or was built without cuVS."""
    import faiss

    need_gpu("gpu_cagra", "hnsw")
    if not hasattr(faiss, "GpuIndexCagra"):
        raise UserError(
            "kind gpu_cagra needs FAISS with cuVS; install it: conda install -c pytorch faiss-gpu-cuvs, "
            "or choose --kind gpu_ivf"
        )

"""A graph of neighbours that a query walks greedily (Malkov and Yashunin 2018)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated, Any

from annotated_types import Ge, Le

from eval.index import Index, with_ids
from vlp.config.bounds import Count

MOST_EFFORT = 1 << 20


@dataclass(frozen=True)
class Hnsw(Index):
    """Fast at high recall, large in memory, slow to build; removed vectors stay in the graph, out of the hits."""

    links: Annotated[int, Ge(2), Le(1024)] = 32
    """neighbours a vector is linked to; each costs 4 to 8 bytes"""
    build_effort: Annotated[Count, Le(MOST_EFFORT)] = 200
    """candidates kept while a vector is inserted (efConstruction)"""
    search_effort: Annotated[Count, Le(MOST_EFFORT)] = 128
    """candidates kept while a query walks (efSearch): more find more and take longer"""

    @property
    def exact_scores(self) -> bool:
        """The graph holds the vectors themselves."""
        return True

    def create(self, dim: int) -> Any:
        """IndexHNSWFlat with inner product."""
        import faiss

        made = faiss.IndexHNSWFlat(dim, self.links, faiss.METRIC_INNER_PRODUCT)
        made.hnsw.efConstruction = self.build_effort
        return with_ids(made)

    def search_parameters(self, selector: Any) -> Any:
        """The effort of the walk."""
        import faiss

        return faiss.SearchParametersHNSW(sel=selector, efSearch=self.search_effort)

    def can_remove(self) -> bool:
        """A vector taken out would tear the graph."""
        return False

    def choices(self, count: int, dim: int) -> list[Index]:
        """The usual number of links."""
        return [self]

    def efforts(self) -> list[Index]:
        """Efforts of the walk in powers of two."""
        return [replace(self, search_effort=2**n) for n in range(4, 11)]

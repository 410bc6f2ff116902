"""A graph of neighbours that a query walks greedily (Malkov and Yashunin 2018)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated, Any, ClassVar

from annotated_types import Ge, Le

from eval.index import Index, with_ids
from vlp.config.bounds import Count

MOST_EFFORT = 1 << 20


@dataclass(frozen=True)
class Hnsw(Index):
    """Fast at high recall, large in memory, slow to build; removed vectors stay in the graph, out of the hits."""

    slow_to_build: ClassVar[bool] = True

    links: Annotated[int, Ge(2), Le(1024)] = 32
    """neighbours a vector is linked to; each costs 4 to 8 bytes"""
    build_effort: Annotated[Count, Le(MOST_EFFORT)] = 200
    """candidates kept while a vector is inserted (efConstruction)"""
    search_effort: Annotated[Count, Le(MOST_EFFORT)] = 128
    """candidates kept while a query walks (efSearch): more find more and take longer"""

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

    def can_merge(self) -> bool:
        """Two graphs are not one."""
        return False

    def choices(self, count: int, dim: int) -> list[Index]:
        """The usual number of links."""
        return [self]

    def efforts(self) -> list[Index]:
        """Efforts of the walk in powers of two."""
        return [replace(self, search_effort=2**n) for n in range(4, 11)]

    def ladders(self) -> list[list[Index]]:
        """Efforts of the walk in steps of a quarter."""
        return [[replace(self, search_effort=round(16 * 1.25**n)) for n in range(20)]]

    def bytes_each(self, dim: int) -> float:
        """The vector and its links: twice as many on the lowest level of the graph, few above."""
        return 4.0 * dim + 4.0 * self.links * (2 + 1 / max(1, self.links - 1)) + 8 * 3

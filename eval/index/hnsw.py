"""A graph of neighbours that a query walks greedily (Malkov and Yashunin 2018)."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Annotated, Any, ClassVar

import numpy as np
from annotated_types import Ge, Le

from eval.index import NOTHING, Floats, Index, Ints, with_ids
from eval.index._among import Among
from vlp.config.bounds import Count

MOST_EFFORT = 1 << 20
SPARE = 2  # times as many matches among the nearest as are asked for, on the average
MOST_WALKED = 4096  # nearest vectors beyond which comparing with every match is no slower


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

    def search_among(self, faiss_index: Any, queries: Floats, k: int, among: Among) -> tuple[Floats, Ints]:
        """As Index.search_among: of so many nearest of all vectors that K should be matches, those that are.

        Inside FAISS's walk a filter would give K matches that it met on its way, however far they are.
        """
        wanted = min(int(faiss_index.ntotal), self.search_effort + math.ceil(SPARE * k / among.share))
        if wanted > MOST_WALKED:
            return np.full((len(queries), k), -np.inf, np.float32), np.full((len(queries), k), NOTHING)
        scores, ids = replace(self, search_effort=2 * wanted).search(faiss_index, queries, wanted, None)
        matches = among.has(ids)
        order = np.argsort(~matches, axis=1, kind="stable")[:, :k]
        hit = np.take_along_axis(matches, order, 1)
        scores, ids = np.take_along_axis(scores, order, 1), np.take_along_axis(ids, order, 1)
        return np.where(hit, scores, np.float32(-np.inf)), np.where(hit, ids, NOTHING)

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

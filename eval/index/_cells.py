"""What kinds share that sort vectors into cells, and those that compare short codes first and better ones then."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal

import numpy as np
from annotated_types import Le
from numpy.typing import NDArray

from eval.index import NOTHING, Floats, Index, Ints, with_ids
from eval.index._among import Among
from vlp.config.bounds import Count

MOST_CELLS = 1 << 24
BETTER = ("float16", "int8")
SEEN = 1024  # matches that a filtered search looks at, at least
HARDER = 4  # times as many vectors that a filtered search looks at, at most
FEW = 1000
"""Below so many vectors cells gain nothing"""
FINE = {"float32": "QT_fp32", "float16": "QT_fp16", "int8": "QT_8bit"}
"""FAISS's names of how the better codes are kept"""


@dataclass(frozen=True)
class Celled(Index):
    """Cells are learned by k-means; a query looks into the nearest ones only."""

    cells: Annotated[Count, Le(MOST_CELLS)] = 64
    """number of cells; about 4 to 16 times the square root of the number of vectors"""
    probes: Annotated[Count, Le(MOST_CELLS)] = 16
    """cells a query looks into: more find more and take longer"""

    def search_parameters(self, selector: Any, cells: Any = None) -> Any:
        """The number of cells to look into; `cells`: FAISS's selector of those that may be."""
        import faiss

        return faiss.SearchParametersIVF(sel=selector, nprobe=self.probes, quantizer_params=cells_only(cells))

    def search(
        self, faiss_index: Any, queries: Floats, k: int, selector: Any, cells: Any = None
    ) -> tuple[Floats, Ints]:
        """As Index.search; `cells` as above."""
        scores, ids = faiss_index.search(queries, k, params=self.search_parameters(selector, cells))
        return scores, ids

    def search_among(self, faiss_index: Any, queries: Floats, k: int, among: Among) -> tuple[Floats, Ints]:
        """As Index.search_among: only cells that hold matches are looked into, so many that enough matches are seen.

        A match is as near as one vector of 1 / share, so that so many times more cells are needed to see it. Where what
        is asked for and what the filter leaves lie apart, no number of cells would be enough if empty ones counted.
        """
        held = among.made("cells", lambda: matches_by_cell(faiss_index, among))
        filled = int((held > 0).sum())
        seen = max(SEEN, self.probes * faiss_index.ntotal / len(held) * min(HARDER, 1 / among.share))
        probes = max(self.probes, math.ceil(seen / (len(among.ids) / filled)))
        selector = None if filled == len(held) else among.made("cell selector", lambda: selector_of(held > 0))
        effort = replace(self, probes=min(probes, filled))
        return effort.search(faiss_index, queries, k, among.selector, selector)

    def vectors_to_train(self) -> int:
        """One a cell."""
        return self.cells

    def choices(self, count: int, dim: int) -> list[Index]:
        """Itself with cells for so many vectors; nothing where these are too few for cells."""
        return [replace(self, cells=cells_for(count))] if count >= FEW else []

    def efforts(self) -> list[Index]:
        """Numbers of cells to look into, in powers of two."""
        return [replace(self, probes=2**n) for n in range(self.cells.bit_length()) if 2**n <= self.cells]


def matches_by_cell(faiss_index: Any, among: Among) -> Ints:
    """How many of the vectors in each cell may be hits."""
    import faiss

    lists = faiss.extract_index_ivf(faiss_index).invlists
    sizes = np.array([lists.list_size(cell) for cell in range(lists.nlist)])
    parts = [faiss.rev_swig_ptr(lists.get_ids(cell), int(sizes[cell])) for cell in np.flatnonzero(sizes).tolist()]
    ids = np.concatenate(parts)
    if hasattr(faiss_index, "id_map"):  # inside it vectors are numbered as they came
        ids = faiss.rev_swig_ptr(faiss_index.id_map.data(), faiss_index.id_map.size())[ids]
    return np.bincount(np.repeat(np.arange(len(sizes)), sizes), among.has(ids), len(sizes)).astype(np.int64)


def selector_of(mask: NDArray[np.bool_]) -> Any:
    """FAISS's selector of the numbers at which `mask` is true."""
    import faiss

    return faiss.IDSelectorBitmap(np.packbits(mask, bitorder="little"))


def cells_only(cells: Any) -> Any:
    """FAISS's parameters of a search for the nearest of some cells; None for all."""
    import faiss

    return None if cells is None else faiss.SearchParameters(sel=cells)


def cells_for(count: int) -> int:
    """A power of two near four times the square root of `count`, with 32 vectors a cell at least."""
    return 1 << max(2, round(math.log2(min(4 * math.sqrt(count), count / 32))))


@dataclass(frozen=True)
class Refined(Celled):
    """Short codes choose candidates, which are then compared by better codes; removed vectors stay, out of the hits."""

    candidates: Annotated[Count, Le(4096)] = 10
    """times K vectors that are compared again by their better codes: more find more and take longer"""
    better: Literal["float32", "float16", "int8"] = "float16"
    """how the better codes are kept: 4, 2 or 1 bytes a dimension"""

    def refined(self, dim: int, coarse: str) -> Any:
        """FAISS's index of the factory string `coarse`, refined, with the caller's ids."""
        import faiss

        metric = faiss.METRIC_INNER_PRODUCT
        base = faiss.index_factory(dim, coarse, metric)
        cells = faiss.extract_index_ivf(base)
        # k-means on the sphere: with inner product the centre of a cell must not win by its length.
        cells.cp.spherical = True
        cells.cp.min_points_per_centroid = 1
        fine = faiss.IndexScalarQuantizer(dim, getattr(faiss.ScalarQuantizer, FINE[self.better]), metric)
        both = faiss.IndexRefine(base, fine)
        both.referenced_objects = (base, fine)
        return with_ids(both)

    def search(
        self, faiss_index: Any, queries: Floats, k: int, selector: Any, cells: Any = None
    ) -> tuple[Floats, Ints]:
        """As Celled.search: FAISS's id map does not pass a selector of ids on to what is refined."""
        import faiss

        numbers = None if selector is None else faiss.IDSelectorTranslated(faiss_index.id_map, selector)
        parameters = faiss.IndexRefineSearchParameters(
            k_factor=float(self.candidates), base_index_params=self.search_parameters(numbers, cells)
        )
        scores, places = faiss.downcast_index(faiss_index.index).search(queries, k, params=parameters)
        ids = faiss.rev_swig_ptr(faiss_index.id_map.data(), faiss_index.id_map.size())  # a view, whatever its length
        return scores, np.where(places == NOTHING, NOTHING, ids[places]) if len(ids) else places

    def choices(self, count: int, dim: int) -> list[Index]:
        """Better codes of two bytes and of one."""
        return [replace(one, better=better) for one in super().choices(count, dim) for better in BETTER]  # type: ignore[call-arg]

    def efforts(self) -> list[Index]:
        """Few and many candidates for each number of cells."""
        return [replace(one, candidates=n) for one in super().efforts() for n in (4, 32)]  # type: ignore[call-arg]

    def can_remove(self) -> bool:
        """FAISS takes nothing out of an index that is refined."""
        return False

"""What kinds share that sort vectors into cells, and those that compare short codes first and better ones then."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal

import numpy as np
from annotated_types import Le
from numpy.typing import NDArray

from eval.index import NOTHING, Floats, Index, Ints, reserved, with_ids
from eval.index._among import Among
from eval.index._centres import thinned
from vlp.config.bounds import Count

MOST_CELLS = 1 << 24
BETTER = ("float16", "int8")
MORE_CELLS = 0.42  # a search of a share looks into so many more cells: 1 / share to this power
SEEN = 768  # matches that a filtered search looks at, at least
CANDIDATES = (2, 3, 4, 6, 8, 12, 16, 24, 32, 64)
FOR_ROTATION = 16_384  # vectors that a rotation is learned from
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

        The K nearest of a share lie as far as the K / share nearest of all, which asks for more cells, by somewhat less
        than the root. Where question and filter lie apart, it helps that cells without a match do not count.
        """
        held = among.made("cells", lambda: matches_by_cell(faiss_index, among))
        filled = int((held > 0).sum())
        probes = math.ceil(max(self.probes / among.share**MORE_CELLS, SEEN / (len(among.ids) / filled)))
        selector = None if filled == len(held) else among.made("cell selector", lambda: selector_of(held > 0))
        effort = replace(self, probes=min(probes, filled))
        return effort.search(faiss_index, queries, k, among.selector, selector)

    def vectors_to_train(self) -> int:
        """One a cell."""
        return self.cells

    def number_of_cells(self) -> int:
        """As configured."""
        return self.cells

    def place(self, faiss_index: Any, sample: Floats, centres: Floats) -> None:
        """As Index.place; FAISS trains no cells where it is given all of them."""
        import faiss

        quantizer = faiss.downcast_index(faiss.extract_index_ivf(faiss_index).quantizer)
        quantizer.train(centres)
        quantizer.add(centres)

    def merge(self, into: Any, other: Any) -> None:
        """As Index.merge; the lists of the cells are joined."""
        into.merge_from(other, 0)

    def size(self, count: int, dim: int) -> float:
        """With the centres of the cells."""
        return super().size(count, dim) + 4.0 * dim * self.cells

    def choices(self, count: int, dim: int) -> list[Index]:
        """Itself with cells for so many vectors; nothing where these are too few for cells."""
        return [replace(self, cells=cells_for(count))] if count >= FEW else []

    def efforts(self) -> list[Index]:
        """Numbers of cells to look into, in powers of two."""
        return [replace(self, probes=2**n) for n in range(self.cells.bit_length()) if 2**n <= self.cells]

    def ladders(self) -> list[list[Index]]:
        """Numbers of cells to look into, in steps of a fifth."""
        return [[replace(self, probes=n) for n in _steps(self.cells)]]


def _steps(most: int) -> list[int]:
    """Whole numbers from 1 to `most`, each about a fifth more than the one before."""
    steps = [1]
    while steps[-1] < most:
        steps.append(min(most, max(steps[-1] + 1, round(steps[-1] * 1.2))))
    return steps


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

    def place(self, faiss_index: Any, sample: Floats, centres: Floats) -> None:
        """As Index.place, in what is refined; a rotation before the cells is learned first, and turns their centres."""
        import faiss

        base = faiss.downcast_index(faiss.downcast_index(faiss_index.index).base_index)
        if isinstance(base, faiss.IndexPreTransform):
            rotation = faiss.downcast_VectorTransform(base.chain.at(0))
            rotation.train(thinned(sample, FOR_ROTATION))
            centres = rotation.apply(centres)
        super().place(base, sample, centres)

    def merge(self, into: Any, other: Any) -> None:
        """As Index.merge; FAISS numbers what is refined by itself, and the ids stand beside."""
        import faiss

        both, others = faiss.downcast_index(into.index), faiss.downcast_index(other.index)
        before = both.ntotal
        cells, more = faiss.extract_index_ivf(both.base_index), faiss.extract_index_ivf(others.base_index)
        cells.merge_from(more, before)
        faiss.downcast_index(both.refine_index).merge_from(faiss.downcast_index(others.refine_index))
        ids = np.concatenate([faiss.vector_to_array(one.id_map) for one in (into, other)])
        faiss.copy_array_to_vector(ids, into.id_map)
        for one in (into, both, faiss.downcast_index(both.base_index)):
            one.ntotal = len(ids)
        other.reset()

    def reserve(self, faiss_index: Any, count: int) -> None:
        """The better codes, which are most of it."""
        import faiss

        fine = faiss.downcast_index(faiss.downcast_index(faiss_index.index).refine_index)
        reserved(fine.codes, count * fine.code_size)
        reserved(faiss_index.id_map, count)

    def bytes_each(self, dim: int) -> float:
        """Short codes, better codes, and the id, which is kept in the cells and beside."""
        return self.bytes_short(dim) + {"float32": 4, "float16": 2, "int8": 1}[self.better] * dim + 16

    def bytes_short(self, dim: int) -> float:
        """Bytes of the short code of a vector."""
        raise NotImplementedError

    def choices(self, count: int, dim: int) -> list[Index]:
        """Better codes of two bytes and of one."""
        return [replace(one, better=better) for one in super().choices(count, dim) for better in BETTER]  # type: ignore[call-arg]

    def efforts(self) -> list[Index]:
        """Few and many candidates for each number of cells."""
        return [replace(one, candidates=n) for one in super().efforts() for n in (4, 12, 32)]  # type: ignore[call-arg]

    def ladders(self) -> list[list[Index]]:
        """Numbers of cells for each of several numbers of candidates."""
        own = super().ladders()
        return [[replace(one, candidates=n) for one in steps] for n in CANDIDATES for steps in own]  # type: ignore[call-arg]

    def can_remove(self) -> bool:
        """FAISS takes nothing out of an index that is refined."""
        return False

"""Nearest-neighbour indexes: one FAISS kind a file, all over unit vectors with inner product (cosine) as score.

`Index` is the configuration of a kind; `Index.empty` makes the `Vectors` that hold the data. `flat` compares with every
vector: it is the oracle of the approximate kinds.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from eval.index._among import NOTHING as NOTHING
from eval.index._among import Among, KeptFilters, decoded, nearest_among
from eval.index._centres import centres_of, thinned
from eval.index._faiss import Floats as Floats
from eval.index._faiss import Ints as Ints
from eval.index._faiss import in_words
from eval.index._faiss import removed_file as removed_file
from eval.index._faiss import reserved as reserved
from eval.index._faiss import with_ids as with_ids
from vlp.config.bounds import check as check_bounds
from vlp.errors import UserError
from vlp.files import DISK_FULL
from vlp.legible import plain

FOR_CODES = 20_000  # vectors that codes are learned from, once there are cells


@dataclass(frozen=True)
class Hits:
    """The K best vectors of each query, best first; where there are fewer than K, the id is -1 and the score -inf.

    K is what was asked for, or the number of vectors (of a filtered search: of those that may be hits) where there are
    fewer.
    """

    scores: Floats  # [Q, K] cosine
    ids: Ints  # [Q, K]


@dataclass(frozen=True)
class Index:
    """Base of all kinds."""

    component_package: ClassVar[str] = "eval.index"
    exact: ClassVar[bool] = False
    """Whether its hits are those of a comparison with every vector"""
    file: ClassVar[str] = "index.faiss"
    """What `Vectors.save` writes, in the folder of a version"""
    slow_to_build: ClassVar[bool] = False
    """Whether candidates of it are measured on a smaller sample"""

    def at(self, folder: Path) -> Index:
        """This kind for the index in `folder`; the same, unless it keeps its vectors somewhere else."""
        return self

    @property
    def exact_scores(self) -> bool:
        """Whether its scores are of the vectors themselves, and not of codes."""
        return self.exact

    def empty(self, dim: int) -> Vectors:
        """An index of this kind for vectors of width `dim`, with nothing in it.

        Raises UserError for settings out of their bounds, which FAISS would answer with its C++ prototypes.
        """
        check_bounds(self, type(self).__name__.lower())
        return Vectors(kind=self, dim=dim, faiss_index=self.create(dim))

    def create(self, dim: int) -> Any:
        """FAISS's index of this kind, untrained, ready for `add_with_ids`. Raises UserError if `dim` does not fit."""
        raise NotImplementedError

    def load(self, path: Path, *, mapped: bool = False) -> Vectors:
        """What `Vectors.save` wrote of this kind. Raises UserError if it cannot be read; `mapped`: as there."""
        return Vectors.load(path, self, mapped=mapped)

    def search_parameters(self, selector: Any) -> Any:
        """FAISS's search parameters: what trades speed for recall, and `selector` of ids (None: all)."""
        import faiss

        return faiss.SearchParameters(sel=selector)

    def search(self, faiss_index: Any, queries: Floats, k: int, selector: Any) -> tuple[Floats, Ints]:
        """(scores, ids), both [Q, K], of FAISS's index of this kind; `selector` of ids as above."""
        scores, ids = faiss_index.search(queries, k, params=self.search_parameters(selector))
        return scores, ids

    def search_among(self, faiss_index: Any, queries: Floats, k: int, among: Among) -> tuple[Floats, Ints]:
        """As `search`, with enough effort for hits among some vectors only; of a query with fewer than K: -1."""
        return self.search(faiss_index, queries, k, among.selector)

    def ready(self, faiss_index: Any) -> Any:
        """What is searched for `faiss_index`: itself, or what was made of it on another device. Raises UserError."""
        return faiss_index

    def vectors_to_train(self) -> int:
        """The fewest vectors that training takes; 0 where there is nothing to learn."""
        return 0

    def check(self, count: int) -> None:
        """Raise UserError if so few vectors are too few to train on."""
        if count < self.vectors_to_train():
            raise UserError(
                f"an index of kind {type(self).__name__.lower()} needs at least {self.vectors_to_train():,} vectors "
                f"to train on, but there are {count:,}; use the kind flat, or make it coarser"
            )

    def sample_to_train(self) -> int:
        """The most vectors that training gains by: more are left out of the sample."""
        return max(20_000, 40 * self.vectors_to_train())

    def bytes_each(self, dim: int) -> float:
        """Bytes that a vector of width `dim` takes in memory when the index is searched, with its id."""
        return 4.0 * dim + 8

    def size(self, count: int, dim: int) -> float:
        """Bytes of an index of `count` vectors in memory when it is searched."""
        return count * self.bytes_each(dim)

    def number_of_cells(self) -> int:
        """How many cells vectors are sorted into; 0 where there are none."""
        return 0

    def place(self, faiss_index: Any, sample: Floats, centres: Floats) -> None:
        """Give an untrained index its cells, whose centres [C, D] were learned already; the rest it learns itself."""

    def choices(self, count: int, dim: int) -> list[Index]:
        """What of this kind is worth measuring for `count` vectors of width `dim`."""
        return []

    def efforts(self) -> list[Index]:
        """The same index, searched with less and with more effort, the least first."""
        return [self]

    def can_filter(self) -> bool:
        """Whether FAISS can search this kind for some ids only; if not, their vectors are compared one by one."""
        return True

    def ladders(self) -> list[list[Index]]:
        """Finer efforts, to be tuned on all vectors: in each list what comes later finds more and takes longer."""
        return [self.efforts()]

    def lists_on_disk(self) -> bool:
        """Whether its file is read as it is needed, also to be added to, and never as a whole."""
        return False

    def in_memory(self) -> Index:
        """The same kind, whose lists are in memory."""
        return self

    def can_merge(self) -> bool:
        """Whether indexes of this kind that were trained together can be put together."""
        return True

    def merge(self, into: Any, other: Any) -> None:
        """Move all of FAISS's index `other` into `into`; both are copies of one trained index, with other ids."""
        into.merge_from(other)

    def reserve(self, faiss_index: Any, count: int) -> None:
        """Take memory for so many vectors at once, which growing would need twice for a moment."""

    def can_remove(self) -> bool:
        """Whether FAISS can take vectors out of this kind; if not, they are only left out of the hits."""
        return True


@dataclass
class Vectors:
    """An index with its vectors. Ids are the caller's."""

    kind: Index
    dim: int
    faiss_index: Any
    removed: set[int] = field(default_factory=set)  # ids left out of the hits, where FAISS cannot remove
    source: Floats | None = None  # [N, D] the vectors themselves by id, where they are kept; else FAISS decodes its own
    file: Path | None = None  # where the lists are, if they stay on the disk
    _more: Any = None  # an index of what was added to lists on the disk; it is found when it was saved
    _searched: Any = None  # what `Index.ready` made of it, until vectors come or go
    _filters: KeptFilters = field(default_factory=KeptFilters)

    def __len__(self) -> int:
        return sum(int(part.ntotal) for part in self._parts()) - len(self.removed)

    def _parts(self) -> list[Any]:
        """FAISS's indexes that hold the vectors."""
        return [self.faiss_index] if self._more is None else [self.faiss_index, self._more]

    def _checked(self, vectors: NDArray[Any]) -> Floats:
        """Contiguous float32 [N, D]. Raises UserError for another width or values that are not finite."""
        checked = np.ascontiguousarray(vectors, np.float32)
        if checked.ndim != 2 or checked.shape[1] != self.dim:
            raise UserError(f"the index holds vectors of width {self.dim}, but was given an array of {checked.shape}")
        if not np.isfinite(checked).all():
            raise UserError("vectors for an index must be finite, but some hold NaN or infinity: the model is broken")
        return checked

    def train(self, vectors: NDArray[Any], centres: Floats | None = None) -> None:
        """Learn from a sample [N, D] what the kind needs (cells, codes). Raises UserError if there are too few.

        centres: [C, D] of its cells, where they were learned already.
        """
        self.kind.check(len(vectors))
        if self.faiss_index.is_trained:
            return
        checked = self._checked(vectors)
        with in_words(self.kind):
            if self.kind.number_of_cells():
                own = centres_of(checked, self.kind.number_of_cells()) if centres is None else centres
                self.kind.place(self.faiss_index, checked, own)
            self.faiss_index.train(thinned(checked, max(FOR_CODES, self.kind.vectors_to_train())))

    def add(self, vectors: NDArray[Any], ids: NDArray[Any], *, new: bool = False) -> None:
        """Add vectors [N, D] under the ids [N]. Raises UserError if an id is taken; `new`: the caller knows of none."""
        ids = np.ascontiguousarray(ids, np.int64)
        taken = np.empty(0, np.int64) if new else np.intersect1d(ids, self.stored_ids())
        if len(taken) or len(np.unique(ids)) != len(ids):
            state = "removed but still stored" if taken.tolist() and int(taken[0]) in self.removed else "there already"
            which = f"{taken[0]} is {state}" if len(taken) else "one is given twice"
            raise UserError(f"the ids of new vectors must be new, but {which}; choose others, or build the index again")
        self._changed()
        if self.file is not None and self._more is None:
            from eval.index._lists import emptied

            self._more = emptied(self.faiss_index)
        with in_words(self.kind):
            self._parts()[-1].add_with_ids(self._checked(vectors), ids)

    def merge(self, other: Vectors) -> None:
        """Move the vectors of `other` here; both are of one trained index, and their ids differ."""
        self._changed()
        with in_words(self.kind):
            self.kind.merge(self.faiss_index, other.faiss_index)

    def reserve(self, count: int) -> None:
        """Take memory for so many vectors in all, where the kind can."""
        self.kind.reserve(self.faiss_index, count)

    def stored_ids(self) -> Ints:
        """Every id that FAISS holds, those that are only left out of the hits among them."""
        import faiss

        if hasattr(self.faiss_index, "id_map"):
            return np.asarray(faiss.vector_to_array(self.faiss_index.id_map))
        some = [part.invlists for part in self._parts()]
        cells = [(lists.get_ids(c), lists.list_size(c)) for lists in some for c in range(lists.nlist)]
        parts = [faiss.rev_swig_ptr(pointer, size).copy() for pointer, size in cells if size]
        return np.concatenate(parts) if parts else np.empty(0, np.int64)

    def live_ids(self) -> Ints:
        """The ids that may be among the hits, ascending."""
        stored = np.sort(self.stored_ids())
        return stored[~np.isin(stored, list(self.removed))] if self.removed else stored

    def problems(self) -> list[str]:
        """What is wrong with how they are kept, a sentence each, beyond what the file itself tells."""
        return []

    def remove(self, ids: NDArray[Any]) -> int:
        """Take the vectors of these ids out; returns how many there were."""
        present = np.intersect1d(np.asarray(ids, np.int64), self.live_ids())
        self._changed()
        if self.kind.can_remove():
            self.faiss_index.remove_ids(present)
        else:
            self.removed |= set(present.tolist())
        return len(present)

    def search(self, queries: NDArray[Any], k: int, among: Ints | None = None) -> Hits:
        """The K nearest of each query [Q, D]; `among`: ascending ids that may be hits, None for all.

        Where few may be, or an index finds fewer than K of them, they are compared one by one: a hit is missing only
        where none is left. Raises UserError for a K below 1; one beyond all vectors is no matter.
        """
        import faiss

        if k < 1:
            raise UserError(f"k is {k}, but at least 1 neighbour should be asked for")
        checked = self._checked(queries)
        most = max(1, min(k, int(self.faiss_index.ntotal)))  # FAISS makes room for all K before it looks
        if self._searched is None:
            self._searched = self.kind.ready(self.faiss_index)
        if among is not None:
            chosen = self._filters.of(among, self.live_ids, int(self.faiss_index.ntotal))
            search = partial(self.kind.search_among, self._searched) if self.kind.can_filter() else None
            return Hits(*nearest_among(search, self.vectors_at, checked, most, chosen))
        removed = np.array(sorted(self.removed), np.int64)
        selector = faiss.IDSelectorNot(faiss.IDSelectorBatch(removed)) if len(removed) else None
        scores, ids = self.kind.search(self._searched, checked, most, selector)
        scores[ids == NOTHING] = -np.inf
        return Hits(scores, ids)

    def vectors_at(self, ids: Ints) -> Floats:
        """[n, D] the vectors of these ids, as exactly as they are kept."""
        return decoded(self.faiss_index, ids) if self.source is None else np.asarray(self.source[ids], np.float32)

    def _changed(self) -> None:
        self._searched = None
        self._filters.clear()

    def save(self, path: Path) -> None:
        """Write FAISS's file, and beside it PATH.removed.npy if ids are only left out."""
        import faiss

        try:
            if self.file is not None:
                self._save_lists(path)
            else:
                faiss.write_index(self.faiss_index, str(path))
        except RuntimeError as error:  # FAISS tells a full disk in words alone
            for number in DISK_FULL:
                if os.strerror(number) in str(error):
                    raise OSError(number, os.strerror(number), str(path)) from None
            raise
        if self.removed:
            np.save(removed_file(path), np.array(sorted(self.removed), np.int64))

    def _save_lists(self, path: Path) -> None:
        """Write lists on the disk anew, with what was added, and read them from there from now on."""
        import faiss

        from eval.index._lists import write_joined

        write_joined(self._parts(), path)
        self.faiss_index, self._more = faiss.read_index(str(path), faiss.IO_FLAG_MMAP), None
        self.file = path

    @classmethod
    def load(cls, path: Path, kind: Index, *, mapped: bool = False) -> Vectors:
        """What `save` wrote; `mapped`: its vectors are read from the disk as they are needed, and it only answers.

        Raises UserError if FAISS cannot read it.
        """
        import faiss

        try:
            faiss_index = faiss.read_index(str(path), faiss.IO_FLAG_MMAP if mapped or kind.lists_on_disk() else 0)
        except (RuntimeError, MemoryError) as error:
            raise UserError(f"{path} is not an index that FAISS can read ({plain(error)}); build it again") from None
        list_of_removed = removed_file(path)
        removed = set(np.load(list_of_removed).tolist()) if list_of_removed.is_file() else set()
        file = path if kind.lists_on_disk() else None
        return cls(kind=kind, dim=int(faiss_index.d), faiss_index=faiss_index, removed=removed, file=file)

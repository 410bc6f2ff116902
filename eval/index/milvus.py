"""Vectors in Milvus: a cluster where an index outgrows one machine, or Milvus Lite, a file, to begin with.

A version of an index names a collection and how many of its rows are its own: what a later version adds to the same
collection, or a killed one began to add, is never among its hits.
"""

from __future__ import annotations

import json
import logging
import secrets
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
from annotated_types import Ge, Gt, Le
from numpy.typing import NDArray

from eval.index import NOTHING, Floats, Hits, Index, Ints, Vectors, removed_file
from eval.index._milvus import MOST, Collection, check_address, is_file
from vlp.config.bounds import Count
from vlp.config.bounds import check as check_bounds
from vlp.errors import UserError
from vlp.files import write_whole
from vlp.legible import plain

LITE = "milvus.db"
FORMAT = "vlp-milvus-1"
LISTED = 10_000
"""Ids that one filter names"""
FETCHED = 2048
"""Matches that are asked for at most, to leave out those that may not be"""
LARGEST = 1 << 16
"""Bytes of a file that names a collection"""
log = logging.getLogger("vlp.search")


@dataclass(frozen=True)
class Milvus(Index):
    """For indexes beyond one machine: built, grown, filtered and searched as the others are, but Milvus holds it."""

    file: ClassVar[str] = "milvus.json"

    uri: str = ""
    """http://HOST:19530, or a file of Milvus Lite that ends in .db; left out: milvus.db in the index's folder"""
    collection: str = "vlp"
    """what names of collections begin with"""
    index: Literal["HNSW", "FLAT", "IVF_FLAT", "AUTOINDEX"] = "HNSW"
    """Milvus's kind of index"""
    links: Annotated[int, Ge(2), Le(1024)] = 32
    """HNSW: neighbours a vector is linked to (M)"""
    build_effort: Annotated[Count, Le(1 << 20)] = 200
    """HNSW: candidates kept while a vector is inserted (efConstruction)"""
    search_effort: Annotated[Count, Le(1 << 20)] = 128
    """HNSW: candidates kept while a query walks (ef): more find more and take longer"""
    cells: Annotated[Count, Le(65536)] = 1024
    """IVF_FLAT: number of cells (nlist)"""
    probes: Annotated[Count, Le(65536)] = 32
    """IVF_FLAT: cells a query looks into (nprobe)"""
    patience: Annotated[float, Gt(0)] = 60.0
    """seconds that a request may take"""
    folder: Path | None = field(default=None, init=False, compare=False)
    """the index's folder, where it is known"""

    def at(self, folder: Path) -> Milvus:
        """The same for the index in `folder`."""
        named = self.uri and is_file(self.uri)
        made = replace(self, uri=str(Path(self.uri).expanduser().absolute())) if named else replace(self)
        object.__setattr__(made, "folder", folder.absolute())
        return made

    def empty(self, dim: int) -> MilvusVectors:
        """A new collection. Raises UserError if Milvus does not answer."""
        check_bounds(self, "milvus")
        name = f"{self.collection}_{secrets.token_hex(6)}"
        made = self.named(name)
        made.create(dim, self.index, self._built_with())
        return MilvusVectors(kind=self, dim=dim, faiss_index=None, collection=made)

    def load(self, path: Path, *, mapped: bool = False) -> MilvusVectors:
        """What `save` wrote. Raises UserError if it is none, or if its collection cannot be opened."""
        about = described(path)
        made = self.named(str(about["collection"]))
        if is_file(made.address) and not Path(made.address).exists():
            raise UserError(f"{made.address}, which holds the vectors of {path}, is gone; build the index again")
        made.open(int(about["dim"]))
        gone = removed_file(path)
        removed = set(np.load(gone).tolist()) if gone.is_file() else set()
        dim, end = int(about["dim"]), int(about["count"])
        return MilvusVectors(kind=self, dim=dim, faiss_index=None, removed=removed, collection=made, end=end)

    def named(self, name: str) -> Collection:
        """A collection at this kind's address. Raises UserError for an address that is none."""
        if not self.uri and self.folder is None:
            raise UserError("an index of kind milvus outside a folder needs a uri")
        address = self.uri or str(self.folder / LITE if self.folder else "")
        check_address(address)
        return Collection(address, name, self.patience)

    def can_remove(self) -> bool:
        """The version before has them still."""
        return False

    def can_merge(self) -> bool:
        """There is nothing to put together: all of it is in one collection."""
        return False

    def bytes_each(self, dim: int) -> float:
        """In Milvus: the vector, its id, and for HNSW its links."""
        links = 4.0 * self.links * (2 + 1 / max(1, self.links - 1)) if self.index == "HNSW" else 0.0
        return 4.0 * dim + 8 + links

    def asked_with(self, k: int) -> dict[str, int]:
        """Settings of a search for `k` matches."""
        settings = {"HNSW": {"ef": max(k, self.search_effort)}, "IVF_FLAT": {"nprobe": min(self.probes, self.cells)}}
        return settings.get(self.index, {})

    def _built_with(self) -> dict[str, int]:
        settings = {
            "HNSW": {"M": self.links, "efConstruction": self.build_effort},
            "IVF_FLAT": {"nlist": self.cells},
        }
        return settings.get(self.index, {})


@dataclass(frozen=True)
class Best:
    """The best matches so far of each query."""

    scores: Floats  # [Q, K]
    ids: Ints  # [Q, K]

    @classmethod
    def none(cls, queries: int, k: int) -> Best:
        """Room for K matches of each query."""
        return cls(np.full((queries, k), -np.inf, np.float32), np.full((queries, k), NOTHING, np.int64))

    @property
    def k(self) -> int:
        """Matches of a query."""
        return int(self.scores.shape[1])

    def put(self, row: int, scores: Floats, ids: Ints) -> None:
        """Keep the best of those of a query and these."""
        both = np.concatenate([self.scores[row], scores])
        order = np.argsort(-both, kind="stable")[: self.k]
        self.scores[row], self.ids[row] = both[order], np.concatenate([self.ids[row], ids])[order]

    def counts(self) -> Ints:
        """[Q] how many there are."""
        return np.asarray((self.ids != NOTHING).sum(axis=1))

    def hits(self) -> Hits:
        """The same as an index gives it back."""
        return Hits(self.scores, self.ids)


def _inside(ids: Ints, among: Ints | None, gone: Ints) -> NDArray[np.bool_]:
    """Which of the ids may be: those of `among`, or, where it is None, those that are not gone."""
    return ~np.isin(ids, gone) if among is None else np.isin(ids, among)


@dataclass
class MilvusVectors(Vectors):
    """A version's part of a collection: the rows before `end` that were not removed."""

    kind: Milvus
    collection: Collection = field(kw_only=True)
    end: int = field(default=0, kw_only=True)
    _clean: bool = False  # whether nothing of a writer that was killed is after `end`

    def __len__(self) -> int:
        return self.end - len(self.removed)

    def train(self, vectors: NDArray[Any], centres: Floats | None = None) -> None:
        """Nothing: Milvus learns by itself."""

    def add(self, vectors: NDArray[Any], ids: NDArray[Any], *, new: bool = False) -> None:
        """Add vectors [N, D] under the ids [N], which are the next numbers of rows. Raises UserError if not."""
        ids, checked = np.asarray(ids, np.int64), self._checked(vectors)
        if not np.array_equal(ids, np.arange(self.end, self.end + len(checked))):
            raise UserError(
                f"ids of vectors in Milvus are numbers of rows, which go on at {self.end:,}, but others were given"
            )
        if not self._clean:
            self.collection.delete_from(self.end)
            self._clean = True
        self.collection.insert(checked, self.end)
        self.end += len(checked)

    def stored_ids(self) -> Ints:
        """Every row of this version, those that are only left out of the hits among them."""
        return np.arange(self.end, dtype=np.int64)

    def problems(self) -> list[str]:
        """Whether Milvus still has every row."""
        there = self.collection.count(f"id < {self.end}")
        at = f"the collection {self.collection.name} of Milvus at {self.collection.address}"
        return [] if there == self.end else [f"{at} has {there:,} of {self.end:,} vectors; build the index again"]

    def search(self, queries: NDArray[Any], k: int, among: Ints | None = None) -> Hits:
        """The K nearest of each query [Q, D], of the ids `among` (ascending) if they are given.

        Raises UserError as all kinds do, and if Milvus does not answer.
        """
        if k < 1:
            raise UserError(f"k is {k}, but at least 1 neighbour should be asked for")
        checked = self._checked(queries)
        best = Best.none(len(checked), max(1, min(k, self.end, MOST)))
        gone = np.array(sorted(self.removed), np.int64)
        if among is not None:
            among = np.setdiff1d(np.asarray(among, np.int64), gone, assume_unique=True)
            among = among[(among >= 0) & (among < self.end)]
        left = len(self) if among is None else len(among)
        if not left:
            return best.hits()
        if among is None and len(gone) <= LISTED:
            but = f" and id not in {gone.tolist()}" if len(gone) else ""
            self._ask(best, checked, f"id < {self.end}{but}")
        elif among is not None and len(among) <= LISTED:
            self._ask(best, checked, f"id in {among.tolist()}")
        else:
            self._sift(best, checked, left, lambda ids: _inside(ids, among, gone))
            short = np.flatnonzero(best.counts() < min(best.k, left))
            if len(short):
                self._ask_all(best, checked, short, self.live_ids() if among is None else among)
        return best.hits()

    def _sift(self, best: Best, queries: Floats, left: int, may: Callable[[Ints], NDArray[np.bool_]]) -> None:
        """Ask for more matches than are wanted and keep those that may be; some queries may be left with too few."""
        wanted = min(self.end, -(-3 * best.k * self.end // (2 * left)) + 16)
        if wanted <= FETCHED:
            self._ask(best, queries, f"id < {self.end}", k=wanted, may=may)

    def _ask_all(self, best: Best, queries: Floats, rows: Ints, among: Ints) -> None:
        """Ask for the best of each so many that may be, and keep the best of all."""
        best.scores[rows], best.ids[rows] = -np.inf, NOTHING
        for start in range(0, len(among), LISTED):
            self._ask(best, queries, f"id in {among[start : start + LISTED].tolist()}", rows=rows)

    def _ask(
        self,
        best: Best,
        queries: Floats,
        where: str,
        *,
        rows: Ints | None = None,
        k: int = 0,
        may: Callable[[Ints], NDArray[np.bool_]] | None = None,
    ) -> None:
        """Put the matches of these rows' queries (None: of all) among the best; `may`: which ids may be."""
        numbers = np.arange(len(queries)) if rows is None else rows
        answers = self.collection.search(queries[numbers], k or best.k, where, self.kind.asked_with(k or best.k))
        for row, (scores, ids) in zip(numbers.tolist(), answers, strict=True):
            kept = np.ones(len(ids), bool) if may is None else may(ids)
            best.put(row, scores[kept], ids[kept])

    def save(self, path: Path) -> None:
        """Write which collection it is and how many rows; beside it PATH.removed.npy if some are left out."""
        self.collection.flush()
        about = {
            "format": FORMAT,
            "uri": self.kind.uri,
            "collection": self.collection.name,
            "dim": self.dim,
            "count": self.end,
            "metric": "IP",
            "index": self.kind.index,
        }
        write_whole(path, json.dumps(about, indent=1) + "\n")
        if self.removed:
            np.save(removed_file(path), np.array(sorted(self.removed), np.int64))


def described(path: Path) -> dict[str, Any]:
    """What `MilvusVectors.save` wrote. Raises UserError if it is none."""
    try:
        about = json.loads(path.read_text(encoding="utf-8"))
        sound = about["format"] == FORMAT and isinstance(about["collection"], str)
        sound = sound and isinstance(about["dim"], int) and isinstance(about["count"], int)
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise UserError(f"{path} names no collection of Milvus ({plain(error)}); build the index again") from None
    if not sound:
        raise UserError(f"{path} names no collection of Milvus; build the index again")
    return dict(about)


def drop_unused(folder: Path, gone: Iterable[Path], kept: Iterable[Path]) -> None:
    """Drop the collections that the files `gone` of the index in `folder` name, and `kept` do not.

    In the folder's own file everything goes that `kept` does not name. It never fails: where Milvus does not answer,
    a collection stays that nobody asks, and that is logged.
    """
    still = {(one["uri"], one["collection"]) for one in map(_named, kept) if one}
    unused = {(one["uri"], one["collection"]) for one in map(_named, gone) if one} - still
    try:
        if any(not uri for uri, _ in unused):
            own = Milvus().at(folder).named("").neighbours()  # one that was killed at once had not written its name
            unused |= {("", name) for name in own} - still
        for uri, name in unused:
            Milvus(uri=uri).at(folder).named(name).drop()
    except UserError as error:
        log.warning("collections that are no longer needed are still there: %s", error)


def _named(path: Path) -> dict[str, Any]:
    """What a file describes; nothing if it is something else, such as the beginning of a large index."""
    try:
        return described(path) if path.stat().st_size <= LARGEST else {}
    except (OSError, UserError):
        return {}

"""What is done with the hits of an index: scored again exactly, and near-identical ones folded into one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from eval.index import NOTHING, Floats, Hits, Ints
from vlp.errors import UserError

FOLD = 0.95
"""The usual cosine from which on two hits count as the same: the same picture in another size, crop or compression"""
ROUNDING = 1e-6  # float32 gives the cosine of equal vectors a little less than 1
FIRST = 3  # times K hits that are looked at first where some may be folded
FURTHER = 4  # times as many each time that they were not enough
NUMBERS = 1 << 22  # floats, or hits, that are in memory at a time
Search = Callable[[Floats, int], Hits]


@dataclass(frozen=True)
class Ranked:
    """The matches of one query, best first."""

    scores: Floats  # [n]
    ids: Ints  # [n]
    alike: tuple[tuple[Floats, Ints], ...]  # (n,) scores and ids of those that each stands for, best first


@dataclass(frozen=True)
class Refining:
    """How hits are refined. Raises UserError for settings out of their bounds."""

    fold: float | None = None
    """cosine from which on a hit is folded into a better one; None: none is"""
    rerank: int = 0
    """best hits of the index that are scored again with the vectors themselves; 0: its own scores count"""
    most: int | None = None
    """hits of a query that are looked at, where many are folded; None: as many as it takes"""

    def __post_init__(self) -> None:
        if self.fold is not None and not -1 <= self.fold <= 1:
            raise UserError(f"fold is {self.fold}, but a cosine is between -1 and 1; {FOLD} is usual")
        if self.rerank < 0:
            raise UserError(f"rerank is {self.rerank}, but it should be a number of hits, 0 for none")

    @property
    def needs_vectors(self) -> bool:
        """Whether the vectors themselves are read."""
        return self.fold is not None or self.rerank > 0


def refined(search: Search, vectors: NDArray[Any], queries: Floats, k: int, how: Refining) -> list[Ranked]:
    """The K best of each query [Q, D] that are no fold of a better one; `search` gives hits by their index's scores.

    vectors: [N, D] unit norm, by id; it may be mapped from the disk and is read at some rows only. Where hits are
    folded, more and more are looked at until there are K, or the index gives no more, or `how.most` were seen. A match
    stands for those that are ranked before the (K + 1)th one.
    """
    result: list[Ranked | None] = [None] * len(queries)
    waiting = np.arange(len(queries))
    count = k if how.fold is None else k * FIRST
    most = None if how.most is None else max(k, how.most)
    while len(waiting):
        count = count if most is None else min(count, most)
        at_once = max(1, NUMBERS // count)
        for start in range(0, len(waiting), at_once):
            some = waiting[start : start + at_once]
            hits = _scored(search, vectors, queries[some], count, how.rerank)
            for row, scores, ids in zip(some, hits.scores, hits.ids, strict=True):
                there = ids != NOTHING
                last = int(there.sum()) < count or count == most  # else there are more to be had
                result[row] = _ranked(scores[there], ids[there], vectors, k, how.fold, last=last)
        waiting = np.array([row for row in waiting if result[row] is None], np.int64)
        count *= FURTHER
    return [one for one in result if one is not None]


def _scored(search: Search, vectors: NDArray[Any], queries: Floats, count: int, rerank: int) -> Hits:
    """The `count` best of an index; with `rerank` that many of them or more are scored by their vectors first."""
    hits = search(queries, max(count, rerank))
    if not rerank:
        return hits
    scores = np.empty(hits.ids.shape, np.float32)
    across = max(1, min(hits.ids.shape[1], NUMBERS // queries.shape[1]))
    down = max(1, NUMBERS // (across * queries.shape[1]))
    for top in range(0, len(queries), down):
        for left in range(0, hits.ids.shape[1], across):
            block = slice(top, top + down), slice(left, left + across)
            scores[block] = cosines(vectors, hits.ids[block], queries[block[0]])
    scores[hits.ids == NOTHING] = -np.inf
    order = np.argsort(-scores, axis=1, kind="stable")[:, :count]
    return Hits(np.take_along_axis(scores, order, 1), np.take_along_axis(hits.ids, order, 1))


def cosines(vectors: NDArray[Any], ids: Ints, queries: Floats) -> Floats:
    """[Q, N] exact scores of each query's own rows `ids` [Q, N] of `vectors`."""
    rows, place = np.unique(ids, return_inverse=True)
    some = np.asarray(vectors[rows], np.float32)[place.reshape(ids.shape)]  # [Q, N, D]
    return np.asarray(some @ queries[:, :, None])[:, :, 0]


def _ranked(
    scores: Floats, ids: Ints, vectors: NDArray[Any], k: int, fold: float | None, *, last: bool
) -> Ranked | None:
    """The first K of these hits that are no fold of a better one; None if there may be more of them further down."""
    if fold is None:
        return Ranked(scores[:k], ids[:k], ((scores[:0], ids[:0]),) * len(ids[:k]))
    first, owner, whole = folded(ids, vectors, k, fold)
    if not (whole or last):
        return None
    alike = []
    for number, place in enumerate(first):
        mine = np.flatnonzero(owner == number)
        mine = mine[mine != place]
        alike.append((scores[mine], ids[mine]))
    return Ranked(scores[first], ids[first], tuple(alike))


def folded(ids: Ints, vectors: NDArray[Any], k: int, fold: float) -> tuple[list[int], Ints, bool]:
    """Places of the first K ids [n] that are no fold of a better one; of each id before the (K + 1)th whose it is; and
    whether there was a (K + 1)th.

    The second has less than n entries in the last case: what comes after is nobody's. An id belongs to the first whose
    vector has a cosine of `fold` or more with its own.
    """
    first: list[int] = []
    owners: list[Ints] = []
    at_once = max(1, NUMBERS // max(1, vectors.shape[1]))
    for start in range(0, len(ids), at_once):
        some = np.asarray(vectors[ids[start : start + at_once]], np.float32)
        owner = np.full(len(some), NOTHING, np.int64)
        for number, place in enumerate(first):  # of blocks before
            _take(owner, some, np.asarray(vectors[ids[place]], np.float32), number, fold)
        while len(free := np.flatnonzero(owner == NOTHING)):
            if len(first) == k:
                return first, np.concatenate([*owners, owner[: free[0]]]), True
            owner[free[0]] = len(first)
            first.append(start + int(free[0]))
            _take(owner, some, some[free[0]], len(first) - 1, fold)
        owners.append(owner)
    return first, np.concatenate([*owners, np.empty(0, np.int64)]), False


def _take(owner: Ints, some: Floats, vector: Floats, number: int, fold: float) -> None:
    """Those of `some` [n, D] that are nobody's and near enough to `vector` belong to `number`."""
    free = np.flatnonzero(owner == NOTHING)
    owner[free[some[free] @ vector >= fold - ROUNDING]] = number

"""Filtered search: the ids that may be hits, and the exact search through their vectors."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]
NOTHING = -1  # the id that FAISS gives where there are fewer than K
FEW = 2048  # so many vectors are compared one by one before an index gains anything
FILTERS = 4  # filters of which is kept what was made for their search
AT_ONCE = 4 * FEW  # vectors that are compared at a time
SPARSE = 64  # ids this many times as far apart as they could be have no bitmap


class Among:
    """Ascending ids, as FAISS asks for them; what is made of them is made once."""

    def __init__(self, ids: Ints, total: int) -> None:
        """Of `total` vectors."""
        self.ids, self.share = ids, len(ids) / max(1, total)
        self._made: dict[str, Any] = {}

    def made(self, name: str, make: Callable[[], Any]) -> Any:
        """What `make` gives, which is asked once."""
        if name not in self._made:
            self._made[name] = make()
        return self._made[name]

    @cached_property
    def _bits(self) -> NDArray[np.uint8] | None:
        """A bit for each id up to the last; None where that would be mostly zeros."""
        if not len(self.ids) or self.ids[0] < 0 or self.ids[-1] > SPARSE * len(self.ids) + 2**20:
            return None
        mask = np.zeros(int(self.ids[-1]) + 1, bool)
        mask[self.ids] = True
        return np.packbits(mask, bitorder="little")

    @cached_property
    def selector(self) -> Any:
        """FAISS's selector of these ids."""
        import faiss

        return faiss.IDSelectorBatch(self.ids) if self._bits is None else faiss.IDSelectorBitmap(self._bits)

    def has(self, ids: Ints) -> NDArray[np.bool_]:
        """Whether each of any ids is one of these."""
        if self._bits is None:
            return np.isin(ids, self.ids)
        inside = (ids >= 0) & (ids <= self.ids[-1])
        places = np.where(inside, ids, 0)
        return np.asarray(inside & (self._bits[places >> 3] >> (places & 7).astype(np.uint8) & 1).astype(bool))


class KeptFilters:
    """What was made of the last filters, each known by the very array of its ids."""

    def __init__(self) -> None:
        self._kept: OrderedDict[int, tuple[Ints, Among]] = OrderedDict()
        self._live: Among | None = None

    def of(self, ids: Ints, live: Callable[[], Ints], total: int) -> Among:
        """What is searched for these ids without those that are not `live`, of `total` vectors."""
        known = self._kept.get(id(ids))
        if known is None:
            if self._live is None:
                self._live = Among(live(), total)
            there = self._live.has(ids)
            known = (ids, Among(ids if there.all() else ids[there], total))
            self._kept[id(ids)] = known
            while len(self._kept) > FILTERS:
                self._kept.popitem(last=False)
        return known[1]

    def clear(self) -> None:
        """Forget them: vectors have come or gone."""
        self._kept.clear()
        self._live = None


def nearest_among(
    search: Callable[[Floats, int, Among], tuple[Floats, Ints]] | None,
    vectors_at: Callable[[Ints], Floats],
    queries: Floats,
    k: int,
    among: Among,
) -> tuple[Floats, Ints]:
    """(scores, ids) [Q, K] of the nearest that may be hits, by the `search` of an index, None where it has none.

    Few are compared one by one, and so is what an index finds fewer than K of.
    """
    k = min(k, len(among.ids))
    if not k:
        return np.full((len(queries), 1), -np.inf, np.float32), np.full((len(queries), 1), NOTHING)
    if search is None or len(among.ids) <= max(FEW, 4 * k):
        if len(among.ids) <= FEW:  # the next question with the same filter finds them in memory
            vectors = among.made("vectors", lambda: vectors_at(among.ids))
            return exact(lambda ids: vectors, among.ids, queries, k)
        return exact(vectors_at, among.ids, queries, k)
    scores, ids = search(queries, k, among)
    short = (ids == NOTHING).any(axis=1)
    if short.any():
        scores[short], ids[short] = exact(vectors_at, among.ids, queries[short], k)
    return scores, ids


def decoded(faiss_index: Any, ids: Ints) -> Floats:
    """[n, D] the vectors of these ids, from the codes that FAISS's index has of them."""
    import faiss

    if hasattr(faiss_index, "id_map"):  # inside it vectors are numbered as they came
        kept = faiss.vector_to_array(faiss_index.id_map)
        order = np.argsort(kept)
        numbers = order[np.searchsorted(kept, ids, sorter=order)]
        return np.asarray(faiss.downcast_index(faiss_index.index).reconstruct_batch(numbers))
    if faiss_index.direct_map.no():
        faiss_index.set_direct_map_type(faiss.DirectMap.Hashtable)
    return np.asarray(faiss_index.reconstruct_batch(ids))


def exact(vectors_at: Callable[[Ints], Floats], ids: Ints, queries: Floats, k: int) -> tuple[Floats, Ints]:
    """(scores, ids) [Q, K] of the nearest among `ids`, best first; K is at most their number.

    Of equal scores the lower id comes first. Some vectors are in memory at a time.
    """
    best = np.empty((len(queries), 0), np.float32)
    best_ids = np.empty((len(queries), 0), np.int64)
    for start in range(0, len(ids), AT_ONCE):
        some = ids[start : start + AT_ONCE]
        scores = queries @ vectors_at(some).T
        new_ids = np.broadcast_to(some, scores.shape)
        if scores.shape[1] > k:
            places = np.argpartition(-scores, k - 1, axis=1)[:, :k]
            places.sort(axis=1)
            scores, new_ids = np.take_along_axis(scores, places, 1), some[places]
        scores, new_ids = np.concatenate([best, scores], axis=1), np.concatenate([best_ids, new_ids], axis=1)
        order = np.argsort(-scores, axis=1, kind="stable")[:, :k]
        best, best_ids = np.take_along_axis(scores, order, 1), np.take_along_axis(new_ids, order, 1)
    return best, best_ids

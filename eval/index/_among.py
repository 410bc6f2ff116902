"""The ids that may be among the hits of a filtered search, and the exact search through their vectors."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]
AT_ONCE = 8192  # vectors that are compared at a time
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
        if self.ids[0] < 0 or self.ids[-1] > SPARSE * len(self.ids) + 2**20:
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

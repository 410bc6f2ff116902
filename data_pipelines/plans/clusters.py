"""Batches made of whole clusters (NGAME 2207.04452, section 3.2; MCL 2402.11816, section 3).

NGAME puts clusters of similar samples into a batch whole, so that hard negatives are there without a search. MCL draws
batches inside the clusters of an earlier stage: that is `size` equal to the batch. Written from the papers'
descriptions, without their text at hand.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from data_pipelines.plans import NOBODY, Asks, Plan, batches_in_turns
from vlp.config import COMMON
from vlp.config.bounds import Count


@dataclass(frozen=True)
class Clusters(Plan):
    """Each batch takes whole clusters as long as one fits; only what fills it up is cut."""

    asks: ClassVar[Asks] = "clusters"

    size: Annotated[Count, COMMON] = 16
    """samples of a cluster, about; a larger cluster is cut into parts of this size, at random"""

    def wanted(self, samples: int) -> int:
        """The number of clusters."""
        return max(1, samples // self.size)

    def plan(self, ids: NDArray[Any], scores: NDArray[Any], batch: int, rng: np.random.Generator) -> NDArray[np.int64]:
        """As Plan.plan: in time S log S. Samples without a cluster are clusters of their own."""
        parts = self.parts(np.asarray(ids[:, 0]), min(self.size, batch), rng)
        return batches_in_turns(np.concatenate(packed(parts, batch)), batch, rng)

    def parts(self, cluster: NDArray[Any], most: int, rng: np.random.Generator) -> list[NDArray[np.int64]]:
        """The clusters in random order, samples of each in random order, none with more than `most`."""
        drawn = rng.permutation(len(cluster))
        alone = drawn[cluster[drawn] == NOBODY]
        drawn = drawn[cluster[drawn] != NOBODY]
        drawn = drawn[np.argsort(cluster[drawn], kind="stable")]
        ends = np.flatnonzero(np.diff(cluster[drawn])) + 1
        parts = [one[at : at + most] for one in np.split(drawn, ends) for at in range(0, len(one), most)]
        parts += np.split(alone, range(1, len(alone))) if len(alone) else []
        return [parts[turn] for turn in rng.permutation(len(parts))]


def packed(parts: list[NDArray[np.int64]], batch: int) -> list[NDArray[np.int64]]:
    """The parts in an order in which few of them lie across the end of a batch; those few are cut there.

    A batch takes the next part, or where that does not fit the largest one that does.

    >>> [part.tolist() for part in packed([np.arange(3), np.arange(3), np.arange(2), np.arange(2)], 5)]
    [[0, 1, 2], [0, 1], [0, 1, 2], [0, 1]]
    """
    by_size: dict[int, list[int]] = {}
    for number in reversed(range(len(parts))):
        by_size.setdefault(len(parts[number]), []).append(number)  # the next one of a size is its last
    taken, order, room, turn = np.zeros(len(parts), bool), list[NDArray[np.int64]](), batch, 0
    while turn < len(parts):
        if taken[turn]:
            turn += 1
            continue
        fitting = [size for size, left in by_size.items() if left and size <= room]
        number = turn if len(parts[turn]) <= room or not fitting else by_size[max(fitting)][-1]
        by_size[len(parts[number])].pop()
        taken[number] = True
        order.append(parts[number])
        room -= len(parts[number])
        room = batch - (-room) % batch if room <= 0 else room
    return order

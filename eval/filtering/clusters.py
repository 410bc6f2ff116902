"""Samples in clusters: k-means on a sample of the pictures' vectors, then the nearest centre of every vector.

Memory: the sample (32 vectors a centre), the centres, one block of vectors, and 8 bytes a sample.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from typing import Annotated

import numpy as np
from annotated_types import Ge
from numpy.typing import NDArray

from eval.filtering.kept import Kept
from eval.filtering.pool import Flags, Ints, Pool
from eval.index import Floats
from eval.index._centres import centres
from eval.metrics.ranking import SCORES_IN_MEMORY
from vlp.config.bounds import Count, Whole

A_CENTRE = 32  # vectors that k-means sees for each of its centres


@dataclass(frozen=True)
class Clusters:
    """How vectors are sorted into clusters."""

    clusters: Whole = 0
    """number of clusters; 0: the square root of the number of samples"""
    iterations: Count = 20
    """rounds of k-means"""
    seed: Annotated[int, Ge(0)] = 0
    """which vectors k-means begins with"""

    def count(self, samples: int) -> int:
        """How many clusters there are for so many samples."""
        return min(self.clusters or max(1, round(math.sqrt(samples))), samples)


@dataclass(frozen=True)
class Sorted:
    """Where the samples that stay are."""

    centres: Floats  # [K, D] unit norm
    numbers: Ints  # [n] the samples, ascending
    cell: NDArray[np.int32]  # [n] the nearest centre of each
    near: NDArray[np.float32]  # [n] cosine of each to that centre


def sort(pool: Pool, stays: Flags, kept: Kept, how: Clusters) -> Sorted:
    """The clusters of the pictures that stay; they do not depend on the order of the shards."""
    numbers = np.flatnonzero(stays).astype(np.int64)
    count = how.count(len(numbers))

    def made() -> Floats:
        seen = pool.vectors(_sample(pool, numbers, count))
        return centres(seen, count, iterations=how.iterations, seed=how.seed)

    middle = np.array(kept.array("centres", made))
    cells, nears = [], []
    for block, some in pool.blocks(stays, "sorting into clusters"):
        both = kept.array(f"cell-{block}", partial(_assigned, pool, some, middle))
        cells.append(both["cell"])
        nears.append(both["near"])
    return Sorted(middle, numbers, np.concatenate(cells), np.concatenate(nears))


def _sample(pool: Pool, numbers: Ints, count: int) -> Ints:
    """The samples that k-means sees: those that come first in the order of `tie`."""
    most = max(A_CENTRE * count, 1000)
    ties = pool.tie[numbers]
    some = numbers if len(numbers) <= most else numbers[np.argpartition(ties, most)[:most]]
    return np.asarray(some[np.argsort(pool.tie[some], kind="stable")])


def nearest(vectors: Floats, middle: Floats) -> NDArray[np.int32]:
    """[n] the nearest centre of each vector; of equally near ones the first."""
    step = max(1, SCORES_IN_MEMORY // len(middle))
    parts = [(vectors[at : at + step] @ middle.T).argmax(axis=1) for at in range(0, len(vectors), step)]
    return np.concatenate(parts).astype(np.int32) if parts else np.empty(0, np.int32)


def _assigned(pool: Pool, some: Ints, middle: Floats) -> NDArray[np.void]:
    """[n] the nearest centre (cell) of each sample, and the cosine to it (near), the same for the same vector."""
    vectors = pool.vectors(some)
    both = np.empty(len(vectors), [("cell", np.int32), ("near", np.float32)])
    both["cell"] = nearest(vectors, middle)
    both["near"] = (vectors * middle[both["cell"]]).sum(axis=1)
    return both

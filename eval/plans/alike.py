"""What is alike among vectors: the nearest neighbours of each by an index, or clusters of about one size.

Memory: the index (or one coarse cell of vectors), one block of questions, and what is found; vectors stay on the disk.
"""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from data_pipelines.loading.arranged import Alike
from data_pipelines.plans import NOBODY
from eval.index import Floats, Index
from eval.index._cells import cells_for
from eval.index._centres import centres
from eval.index.flat import Flat
from eval.index.ivf import Ivf
from eval.search.fill import filled

BLOCK = 4096  # questions that are asked, or vectors that are compared with centres, at a time
ITERATIONS = 10
PROBES = 32  # cells that a question looks into


def kind_for(samples: int, exact_up_to: int) -> Index:
    """The index that is asked: an exact one for few samples."""
    if samples <= max(exact_up_to, 1000):
        return Flat()
    cells = cells_for(samples)
    return Ivf(cells=cells, probes=min(PROBES, cells))


def neighbours(
    stored: NDArray[np.float32],
    asked: NDArray[np.float32],
    known: NDArray[np.bool_],
    *,
    k: int,
    kind: Index,
    folder: Path,
) -> Alike:
    """The K nearest of `stored` [S, D] for each of `asked` [S, D], itself left out; in files of `folder`.

    Samples that are not `known` have no neighbours and are none.
    """
    index = filled(kind, folder, stored)
    ids = np.lib.format.open_memmap(folder / "ids.npy", "w+", np.dtype(np.int32), (len(stored), k))
    scores = np.lib.format.open_memmap(folder / "scores.npy", "w+", np.dtype(np.float32), (len(stored), k))
    for start in range(0, len(asked), BLOCK):
        rows = np.arange(start, min(start + BLOCK, len(asked)))
        hits = index.search(np.array(asked[rows]), k + 1)
        found = np.full((len(rows), k + 1), NOBODY, np.int64)
        near = np.full((len(rows), k + 1), -np.inf, np.float32)
        found[:, : hits.ids.shape[1]], near[:, : hits.ids.shape[1]] = hits.ids, hits.scores
        bad = (found == NOBODY) | (found == rows[:, None]) | ~known[found] | ~known[rows][:, None]
        order = np.argsort(bad, axis=1, kind="stable")[:, :k]
        found[bad] = NOBODY
        ids[rows], scores[rows] = (np.take_along_axis(some, order, 1) for some in (found, near))
    return Alike(ids, scores)


def clusters(vectors: NDArray[np.float32], known: NDArray[np.bool_], *, count: int, seed: int) -> Alike:
    """About `count` clusters of the vectors [S, D]: coarse cells first, each of which is cut into its own then.

    So that it takes S D sqrt(count) and not S D count multiplications.
    """
    numbers = np.flatnonzero(known)
    out, near = np.full((len(vectors), 1), NOBODY, np.int32), np.zeros((len(vectors), 1), np.float32)
    if not len(numbers):
        return Alike(out, near)
    coarse = max(1, round(math.sqrt(count)))
    drawn = np.random.default_rng(seed).permutation(len(numbers))[: max(20_000, 64 * coarse)]
    seen = np.array(vectors[numbers[np.sort(drawn)]])
    cell = _nearest(vectors, numbers, centres(seen, coarse, iterations=ITERATIONS, seed=seed))[0]
    by_cell = numbers[np.argsort(cell, kind="stable")]
    made = 0
    for members in np.split(by_cell, np.cumsum(np.bincount(cell))[:-1]):
        if not len(members):
            continue
        own = max(1, round(count * len(members) / len(numbers)))
        fine = centres(np.array(vectors[members]), own, iterations=ITERATIONS, seed=seed)
        place, score = _nearest(vectors, members, fine)
        out[members, 0], near[members, 0] = made + place, score
        made += len(fine)
    return Alike(out, near)


def _nearest(
    vectors: NDArray[np.float32], rows: NDArray[np.int64], to: Floats
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """(the nearest centre of some vectors, its cosine), each [n]."""
    place, score = np.empty(len(rows), np.int64), np.empty(len(rows), np.float32)
    for start in range(0, len(rows), BLOCK):
        some = slice(start, start + BLOCK)
        cosines = vectors[rows[some]] @ to.T
        place[some] = cosines.argmax(1)
        score[some] = cosines.max(1)
    return place, score

"""Ranks of relevant candidates, and Recall@K.

Ties are broken **pessimistically**: among candidates of equal score, those that do not answer the query come first.
A collapsed model, which gives every candidate the same score, therefore scores 0 and not 1. Scores that are not finite
are refused for the same reason: every comparison with NaN is false, which would count as a perfect rank.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating[Any]]
Ints = NDArray[np.int64]

SCORES_IN_MEMORY = 2**24  # float32 scores in memory at once: 64 MiB however many queries and candidates there are

ROUNDING = 2.0**-22
"""Cosines of float32 vectors that differ by less are equal where single captions are compared: a text encoder that is
blind to the order of words gives the same vector up to rounding, of which no number should be made."""


@dataclass(frozen=True)
class Relevant:
    """Which candidates answer which query: `ids[offsets[q] : offsets[q + 1]]` answer query q, at least one each."""

    offsets: Ints  # [Q + 1]
    ids: Ints  # [P] candidate of each relevant pair, grouped by query

    @classmethod
    def from_pairs(cls, queries: Sequence[int] | Ints, candidates: Sequence[int] | Ints) -> Relevant:
        """The relevance that P pairs (query, candidate) state; a pair stated twice counts once.

        >>> Relevant.from_pairs([0, 1, 0, 1], [2, 0, 1, 0])
        Relevant(offsets=array([0, 2, 3]), ids=array([1, 2, 0]))

        Raises ValueError if one of the queries 0..max has no candidate.
        """
        pairs = np.unique(np.stack([np.asarray(queries, np.int64), np.asarray(candidates, np.int64)], axis=1), axis=0)
        counts = np.bincount(pairs[:, 0])
        if not counts.size or not counts.all():
            raise ValueError("every query needs at least one relevant candidate")
        return cls(np.concatenate([[0], np.cumsum(counts)]), pairs[:, 1])

    @property
    def counts(self) -> Ints:
        """[Q] how many candidates answer each query."""
        return np.diff(self.offsets)

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def pairs(self, rows: slice) -> tuple[Ints, Ints]:
        """(row, candidate) of every relevant pair of the queries in `rows`; row counts from the first of them."""
        start, stop, _ = rows.indices(len(self))
        return (
            np.repeat(np.arange(stop - start), self.counts[start:stop]),
            self.ids[self.offsets[start] : self.offsets[stop]],
        )


def scores_of(queries: Floats, candidates: Floats, relevant: Relevant) -> Iterator[tuple[slice, Floats]]:
    """Rows of queries, and their scores [rows, N], a bounded number at a time. Raises ValueError on NaN or infinity."""
    if len(queries) != len(relevant):
        raise ValueError(f"{len(queries)} queries, but relevance is stated for {len(relevant)}")
    step = max(1, SCORES_IN_MEMORY // max(1, len(candidates)))
    for start in range(0, len(queries), step):
        rows = slice(start, min(start + step, len(queries)))
        scores = queries[rows] @ candidates.T
        if not np.isfinite(scores).all():
            raise ValueError("a score is NaN or infinite: the embeddings are broken")
        yield rows, scores


def first_relevant_rank(queries: Floats, candidates: Floats, relevant: Relevant) -> Ints:
    """[Q] the rank, from 0, of each query's best relevant candidate: Recall@K is the mean of `rank < K`.

    queries: [Q, D]; candidates: [N, D]; the score is the dot product.

    Query 0 is answered by candidates 0 and 1 and the better of them wins; query 1 has its answer second:

    >>> queries = np.array([[1.0, 0.0], [0.6, 0.8]])
    >>> candidates = np.array([[0.0, 1.0], [1.0, 0.0], [0.6, 0.8]])
    >>> first_relevant_rank(queries, candidates, Relevant.from_pairs([0, 0, 1], [0, 1, 0]))
    array([0, 1])
    """
    ranks = np.empty(len(queries), np.int64)
    for rows, scores in scores_of(queries, candidates, relevant):
        row, candidate = relevant.pairs(rows)
        own = scores[row, candidate]
        best = np.maximum.reduceat(own, relevant.offsets[rows] - relevant.offsets[rows.start])
        scores[row, candidate] = -np.inf
        ranks[rows] = (scores >= best[:, None]).sum(axis=1)
    return ranks


def predicted(queries: Floats, candidates: Floats, relevant: Relevant) -> Ints:
    """[Q] the candidate of the highest score; where an answer ties with others, the first of the others.

    So it answers its query exactly where `first_relevant_rank` is 0.

    >>> predicted(np.eye(1), np.array([[0.3], [0.9], [0.9]]), Relevant.from_pairs([0], [1]))
    array([2])
    """
    result = np.empty(len(queries), np.int64)
    for rows, scores in scores_of(queries, candidates, relevant):
        row, candidate = relevant.pairs(rows)
        own = scores.copy()
        scores[row, candidate] = -np.inf
        wrong = scores.argmax(axis=1)
        best = own.argmax(axis=1)
        ties = scores.max(axis=1) >= own.max(axis=1)
        result[rows] = np.where(ties, wrong, best)
    return result


def first_relevant_rank_reference(queries: Floats, candidates: Floats, relevant: Relevant) -> Ints:
    """The same, read off a sorted list, one query at a time."""
    ranks = []
    for q in range(len(relevant)):
        own = set(relevant.ids[relevant.offsets[q] : relevant.offsets[q + 1]].tolist())
        scores = (queries[q] @ candidates.T).tolist()
        order = sorted(range(len(candidates)), key=lambda c: (-scores[c], c in own))
        ranks.append(next(rank for rank, c in enumerate(order) if c in own))
    return np.array(ranks, np.int64)


def recall_at(ranks: Ints, k: int) -> float:
    """The share of queries with a relevant candidate among their first k.

    >>> recall_at(np.array([0, 3, 1, 9]), 2)
    0.5
    """
    return float((ranks < k).mean())


def chance_recall(counts: Ints, candidates: int, k: int) -> float:
    """Recall@K of a random order: mean over queries of 1 - C(N - m, k) / C(N, k), m relevant of N candidates.

    >>> chance_recall(np.array([1, 2]), 10, 1)
    0.15
    """

    def missed(m: int) -> float:
        if k > candidates - m:
            return 0.0
        return math.exp(sum(math.log1p(-m / (candidates - i)) for i in range(k)))

    values, times = np.unique(counts, return_counts=True)
    hit = sum(int(n) * (1 - missed(int(m))) for m, n in zip(values, times, strict=True))
    return round(hit / len(counts), 12)

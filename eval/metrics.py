"""Pure metric functions. Every fast path has a slow, readable reference in this file.

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

SCORES_IN_MEMORY = 2**24  # float32 scores held at once: 64 MiB however many queries and candidates there are


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


def _scores(queries: Floats, candidates: Floats, relevant: Relevant) -> Iterator[tuple[slice, Floats]]:
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
    for rows, scores in _scores(queries, candidates, relevant):
        row, candidate = relevant.pairs(rows)
        own = scores[row, candidate]
        best = np.maximum.reduceat(own, relevant.offsets[rows] - relevant.offsets[rows.start])
        scores[row, candidate] = -np.inf
        ranks[rows] = (scores >= best[:, None]).sum(axis=1)
    return ranks


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


def average_precision(queries: Floats, candidates: Floats, relevant: Relevant) -> Floats:
    """[Q] mean, over a query's relevant candidates, of the precision at each one's rank; mAP is the mean.

    The answers of the only query stand first and third: (1/1 + 2/3) / 2.

    >>> scores = np.array([[0.9, 0.5, 0.3]])
    >>> average_precision(np.eye(1), scores.T, Relevant.from_pairs([0, 0], [0, 2])).round(4)
    array([0.8333])
    """
    result = np.empty(len(queries))
    for rows, scores in _scores(queries, candidates, relevant):
        hit: NDArray[Any] = np.zeros(scores.shape, bool)
        hit[relevant.pairs(rows)] = True
        hit = np.take_along_axis(hit, np.lexsort((hit, -scores), axis=-1), axis=-1)
        precision = np.cumsum(hit, axis=1) / np.arange(1, hit.shape[1] + 1)
        result[rows] = (precision * hit).sum(axis=1) / hit.sum(axis=1)
    return result


def ndcg(queries: Floats, candidates: Floats, relevant: Relevant, *, k: int, gains: Floats | None = None) -> Floats:
    """[Q] DCG@K over the best possible DCG@K (Järvelin and Kekäläinen 2002, log2 discount).

    gains: [P], the worth of each relevant pair in the order of `relevant.ids`, more than 0; None means 1.

    The one answer of the only query stands second: (1 / log2 3) / 1.

    >>> scores = np.array([[0.9, 0.5, 0.3]])
    >>> ndcg(np.eye(1), scores.T, Relevant.from_pairs([0], [1]), k=10).round(4)
    array([0.6309])
    """
    gains = np.ones(len(relevant.ids)) if gains is None else gains
    discount: Floats = 1 / np.log2(np.arange(2, min(k, len(candidates)) + 2))
    result = np.empty(len(queries))
    for rows, scores in _scores(queries, candidates, relevant):
        gain = np.zeros(scores.shape)
        gain[relevant.pairs(rows)] = gains[relevant.offsets[rows.start] : relevant.offsets[rows.stop]]
        found = np.take_along_axis(gain, np.lexsort((gain, -scores), axis=-1), axis=-1)[:, : len(discount)]
        ideal = -np.sort(-gain, axis=1)[:, : len(discount)]
        result[rows] = (found @ discount) / (ideal @ discount)
    return result


def mean_per_class(hits: NDArray[Any], labels: Ints, weights: Floats | None = None) -> Floats:
    """[R] recall of each class, averaged over the classes present, so that rare classes count as much as common ones.

    hits: [Q] 0 or 1; labels: [Q]; weights: [R, Q] how often each resampling holds each query, None means once: R = 1.

    >>> mean_per_class(np.array([1, 1, 1, 0]), np.array([0, 0, 0, 1]))
    array([0.5])
    """
    weights = np.ones((1, len(hits))) if weights is None else weights
    order = np.argsort(labels, kind="stable")
    starts = np.flatnonzero(np.diff(labels[order], prepend=-1))
    size = np.add.reduceat(weights[:, order], starts, axis=1)
    found = np.add.reduceat(weights[:, order] * hits[order], starts, axis=1)
    recall = np.divide(found, size, out=np.zeros(size.shape), where=size > 0)
    return np.asarray(recall.sum(axis=1) / (size > 0).sum(axis=1))


def mean_per_class_reference(hits: NDArray[Any], labels: Ints) -> float:
    """The same for one sample of queries, class by class."""
    return float(np.mean([hits[labels == label].mean() for label in sorted(set(labels.tolist()))]))


def interval(statistics: Floats, level: float = 0.95) -> tuple[float, float]:
    """The bounds that hold the middle `level` of the bootstrap statistics [R] (percentile method, Efron 1979).

    >>> interval(np.arange(101.0), level=0.5)
    (25.0, 75.0)
    """
    low, high = np.quantile(statistics, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def bootstrap(
    values: NDArray[Any], labels: Ints | None = None, *, rounds: int = 1000, seed: int = 0, level: float = 0.95
) -> tuple[float, float]:
    """The bootstrap interval of the mean of `values` [Q], or with `labels` [Q] of their mean per class.

    Queries are what is resampled, with replacement. Equal arguments give equal intervals.

    >>> low, high = bootstrap(np.array([0.0, 1.0] * 200))
    >>> 0.44 < low < 0.5 < high < 0.56
    True
    """
    queries = len(values)
    rng = np.random.default_rng(seed)
    step = max(1, SCORES_IN_MEMORY // queries)
    statistics = []
    for start in range(0, rounds, step):
        drawn: Floats = rng.multinomial(queries, np.full(queries, 1 / queries), size=min(step, rounds - start)).astype(
            np.float64
        )
        mean = drawn @ values.astype(np.float64) / queries if labels is None else mean_per_class(values, labels, drawn)
        statistics.append(mean)
    return interval(np.concatenate(statistics), level)

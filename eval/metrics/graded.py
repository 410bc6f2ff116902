"""Metrics that look at every relevant candidate: average precision and nDCG."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from eval.metrics.ranking import Floats, Relevant, scores_of


def average_precision(queries: Floats, candidates: Floats, relevant: Relevant) -> Floats:
    """[Q] mean, over a query's relevant candidates, of the precision at each one's rank; mAP is the mean.

    The answers of the only query stand first and third: (1/1 + 2/3) / 2.

    >>> scores = np.array([[0.9, 0.5, 0.3]])
    >>> average_precision(np.eye(1), scores.T, Relevant.from_pairs([0, 0], [0, 2])).round(4)
    array([0.8333])
    """
    result = np.empty(len(queries))
    for rows, scores in scores_of(queries, candidates, relevant):
        hit: NDArray[Any] = np.zeros(scores.shape, bool)
        hit[relevant.pairs(rows)] = True
        hit = np.take_along_axis(hit, np.lexsort((hit, -scores), axis=-1), axis=-1)
        precision = np.cumsum(hit, axis=1) / np.arange(1, hit.shape[1] + 1)
        result[rows] = (precision * hit).sum(axis=1) / hit.sum(axis=1)
    return result


def ndcg(queries: Floats, candidates: Floats, relevant: Relevant, *, k: int, gains: Floats | None = None) -> Floats:
    """[Q] DCG@K over the best possible DCG@K (Järvelin and Kekäläinen 2002, log2 discount).

    gains: [P], the gain of each relevant pair in the order of `relevant.ids`, more than 0; None means 1.

    The one answer of the only query stands second: (1 / log2 3) / 1.

    >>> scores = np.array([[0.9, 0.5, 0.3]])
    >>> ndcg(np.eye(1), scores.T, Relevant.from_pairs([0], [1]), k=10).round(4)
    array([0.6309])
    """
    gains = np.ones(len(relevant.ids)) if gains is None else gains
    result = np.empty(len(queries))
    for rows, scores in scores_of(queries, candidates, relevant):
        gain = np.zeros(scores.shape)
        gain[relevant.pairs(rows)] = gains[relevant.offsets[rows.start] : relevant.offsets[rows.stop]]
        result[rows] = ndcg_of(scores, gain, k=k)
    return result


def ndcg_of(scores: Floats, gain: Floats, *, k: int) -> Floats:
    """[Q] nDCG@K of queries whose candidates have these scores [Q, N] and gains [Q, N], at least one above 0.

    >>> ndcg_of(np.array([[0.9, 0.5, 0.3]]), np.array([[1.0, 3.0, 0.0]]), k=10).round(4)
    array([0.7967])
    """
    ranked = np.take_along_axis(gain, np.lexsort((gain, -scores), axis=-1), axis=-1)
    discount = _discount(gain.shape[1], k)
    return np.asarray((ranked[:, : len(discount)] @ discount) / _ideal(gain, k))


def chance_ndcg(gain: Floats, *, k: int) -> Floats:
    """[Q] nDCG@K that a random order of candidates with these gains [Q, N] has on average.

    >>> chance_ndcg(np.array([[1.0, 0.0]]), k=1)
    array([0.5])
    """
    return np.asarray(gain.mean(axis=1) * _discount(gain.shape[1], k).sum() / _ideal(gain, k))


def _discount(candidates: int, k: int) -> Floats:
    return np.asarray(1 / np.log2(np.arange(2, min(k, candidates) + 2)))


def _ideal(gain: Floats, k: int) -> Floats:
    """[Q] the best DCG@K that there is."""
    k = min(k, gain.shape[1])
    best = -np.sort(np.partition(-gain, k - 1, axis=1)[:, :k], axis=1)
    return np.asarray(best @ _discount(gain.shape[1], k))

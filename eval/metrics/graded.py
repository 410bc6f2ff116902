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
    discount: Floats = 1 / np.log2(np.arange(2, min(k, len(candidates)) + 2))
    result = np.empty(len(queries))
    for rows, scores in scores_of(queries, candidates, relevant):
        gain = np.zeros(scores.shape)
        gain[relevant.pairs(rows)] = gains[relevant.offsets[rows.start] : relevant.offsets[rows.stop]]
        ranked = np.take_along_axis(gain, np.lexsort((gain, -scores), axis=-1), axis=-1)[:, : len(discount)]
        ideal = -np.sort(-gain, axis=1)[:, : len(discount)]
        result[rows] = (ranked @ discount) / (ideal @ discount)
    return result

"""k-nearest-neighbour classification with votes weighted by similarity, as DINO measures it."""

from __future__ import annotations

import numpy as np

from eval.metrics.ranking import SCORES_IN_MEMORY, Floats, Ints


def neighbour_votes(
    queries: Floats, train: Floats, labels: Ints, *, classes: int, k: int, temperature: float
) -> Floats:
    """[Q, C] for each class, the sum of exp(cosine / temperature) over its pictures among a query's k nearest.

    queries: [Q, D] and train: [N, D], unit norm; labels: [N] (Wu et al. 2018; Caron et al. 2021, section 4.1). Of
    training pictures equally near, the first are taken. Votes are relative to the nearest picture's, which changes no
    order and keeps small temperatures finite.

    >>> train, labels = np.array([[1.0, 0.0], [0.8, 0.6], [0.0, 1.0]]), np.array([0, 1, 1])
    >>> neighbour_votes(train[:1], train, labels, classes=2, k=2, temperature=1.0).round(4)
    array([[1.    , 0.8187]])
    """
    k = min(k, len(train))
    votes = np.zeros((len(queries), classes))
    step = max(1, SCORES_IN_MEMORY // len(train))
    for start in range(0, len(queries), step):
        scores = (queries[start : start + step] @ train.T).astype(np.float64)
        nearest = np.argsort(-scores, axis=1, kind="stable")[:, :k]
        cosine = np.take_along_axis(scores, nearest, axis=1)
        weight = np.exp((cosine - cosine[:, :1]) / temperature)
        rows = np.repeat(np.arange(start, start + len(scores)), k)
        np.add.at(votes, (rows, labels[nearest].ravel()), weight.ravel())
    return votes
